"""An RNN, LSTM or GRU that reads an image row by row, and the classifier on its last output.

The cells are torch's, with its two biases: flax's `nnx.GRUCell` (0.12.8) leaves out the one that
the reset gate multiplies, so torch's weights would not fit it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models.heads import Classifier
from jaxssl.models.layers import BatchNorm, Dropout

Cell = Literal["rnn", "lstm", "gru"]
# What a step hands to the next: h, or h and c.
Carry = tuple[jax.Array, ...]


class RecurrentLayer(nnx.Module):
    """One layer of `torch.nn.RNN`, `LSTM` or `GRU`, from a state of zeros.

    With x' = W_x x_t + b_x and h' = W_h h_{t-1} + b_h, split into the gates, σ the sigmoid:

    - `rnn`: h_t = tanh(x' + h').
    - `lstm`: i, f, g, o = x' + h'; c_t = σ(f) c_{t-1} + σ(i) tanh(g); h_t = σ(o) tanh(c_t).
    - `gru`: r = σ(x'_r + h'_r); z = σ(x'_z + h'_z); n = tanh(x'_n + r h'_n);
      h_t = (1 - z) n + z h_{t-1}.

    Weights and biases start uniform within ± 1 / sqrt(hidden), as torch's.

    Args:
      cell: one of the above.
      in_features: size of x_t.
      hidden: size of h_t.
      dtype: multiplies matrices in it; gates, states, parameters and outputs are float32.
      rngs: source of the parameters.

    Raises:
      InputError: for an unknown cell, or sizes under 1.

    Reference:
      Elman 1990; Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al.
      2014 with the reset gate after the product, as torch and cuDNN have it.

    Example:
      >>> layer = RecurrentLayer("gru", 96, 128, rngs=nnx.Rngs(0))
      >>> layer(jnp.zeros((32, 2, 96))).shape
      (32, 2, 128)
    """

    def __init__(
        self,
        cell: Cell,
        in_features: int,
        hidden: int,
        *,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if min(in_features, hidden) < 1:
            raise InputError(f"{cell} of {in_features} values and hidden {hidden}: both at least 1")
        match cell:
            case "rnn":
                self.step, gates, self.states = _rnn, 1, 1
            case "lstm":
                self.step, gates, self.states = _lstm, 4, 2
            case "gru":
                self.step, gates, self.states = _gru, 3, 1
            case _:
                raise InputError(f"cell {cell!r} does not exist: choose rnn, lstm or gru")

        def uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -(hidden**-0.5), hidden**-0.5)

        options = {"kernel_init": uniform, "bias_init": uniform, "dtype": dtype, "rngs": rngs}
        self.input = nnx.Linear(in_features, gates * hidden, **options)
        self.recurrent = nnx.Linear(hidden, gates * hidden, **options)
        self.hidden = hidden

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map a sequence [t, b, in_features] to every h_t, float32 [t, b, hidden]."""
        zeros = jnp.zeros((x.shape[1], self.hidden), jnp.float32)

        def step(carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
            recurrent = self.recurrent(carry[0]).astype(jnp.float32)
            carry = self.step(inputs, recurrent, carry)
            return carry, carry[0]

        # The inputs of all steps are one product of matrices; the scan only has the states'.
        inputs = self.input(x).astype(jnp.float32)
        return jax.lax.scan(step, (zeros,) * self.states, inputs)[1]


def _rnn(x: jax.Array, h: jax.Array, carry: Carry) -> Carry:
    return (jnp.tanh(x + h),)


def _lstm(x: jax.Array, h: jax.Array, carry: Carry) -> Carry:
    i, f, g, o = jnp.split(x + h, 4, axis=1)
    c = nnx.sigmoid(f) * carry[1] + nnx.sigmoid(i) * jnp.tanh(g)
    return nnx.sigmoid(o) * jnp.tanh(c), c


def _gru(x: jax.Array, h: jax.Array, carry: Carry) -> Carry:
    x_r, x_z, x_n = jnp.split(x, 3, axis=1)
    h_r, h_z, h_n = jnp.split(h, 3, axis=1)
    z = nnx.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + nnx.sigmoid(x_r + h_r) * h_n)
    return ((1 - z) * n + z * carry[0],)


class RowEncoder(nnx.Module):
    """f: the rows of an image, from the top, as a sequence; h is the last layer's last output.

    A row is w · c values, the channels of a pixel side by side: CIFAR's images are 32 steps of 96.

    Args:
      cell: rnn, lstm or gru.
      layers: how many lie on one another.
      hidden: size of each layer's state, and of h.
      image_size: w, side of the images in pixels.
      channels: c, 1 or 3.
      dtype: as in `RecurrentLayer`.
      rngs: source of the parameters.

    Raises:
      InputError: for an unknown cell, no layer, or no hidden unit.

    Example:
      >>> encoder = RowEncoder("lstm", layers=2, hidden=8, image_size=4, rngs=nnx.Rngs(0))
      >>> encoder(jnp.zeros((5, 4, 4, 3))).shape, encoder.features
      ((5, 8), 8)
    """

    def __init__(
        self,
        cell: Cell,
        *,
        layers: int = 1,
        hidden: int = 128,
        image_size: int,
        channels: int = 3,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if layers < 1:
            raise InputError(f"{layers} layers of {cell}: at least 1")
        sizes = (image_size * channels, *(hidden for _ in range(layers)))
        self.layers = nnx.List(
            RecurrentLayer(cell, i, o, dtype=dtype, rngs=rngs) for i, o in pairwise(sizes)
        )
        self.features = hidden
        self.row = image_size * channels
        self.min_size = 1

    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images float32 [b, h, w, c] to representations float32 [b, hidden]."""
        if images.ndim != 4 or images.shape[2] * images.shape[3] != self.row:
            raise ValueError(
                f"images must be [b, h, w, c] with w c = {self.row}, got {list(images.shape)}"
            )
        x = jnp.moveaxis(images, 1, 0)
        x = x.reshape(*x.shape[:2], -1)
        for layer in self.layers:
            x = layer(x)
        return x[-1]


class MLPClassifier(nnx.Module):
    """h [b, in_features] -> logits: Linear, BatchNorm, ReLU, dropout for each hidden size, Linear.

    Args:
      in_features: size of h.
      hidden: sizes of the hidden layers.
      classes: k.
      dropout: probability of dropping, in [0, 1).
      rngs: source of the parameters and of dropout.

    Raises:
      InputError: for a size under 1, or a dropout that is no probability.

    Example:
      >>> head = MLPClassifier(128, (64, 64), 10, rngs=nnx.Rngs(0))
      >>> head(jnp.zeros((2, 128))).shape
      (2, 10)
    """

    def __init__(
        self,
        in_features: int,
        hidden: tuple[int, ...],
        classes: int,
        *,
        dropout: float = 0.5,
        rngs: nnx.Rngs,
    ):
        if min(hidden, default=1) < 1:
            raise InputError(f"hidden layers of {hidden} units: each at least 1")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout is {dropout}: it lies in [0, 1)")
        self.linears = nnx.List(
            nnx.Linear(i, o, rngs=rngs) for i, o in pairwise((in_features, *hidden))
        )
        self.norms = nnx.List(BatchNorm(size, rngs=rngs) for size in hidden)
        self.drop = Dropout(dropout, rngs=rngs)
        self.classifier = Classifier((in_features, *hidden)[-1], classes, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        """Map representations [b, in_features] to logits float32 [b, classes]."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            h = self.drop(nnx.relu(norm(linear(h))))
        return self.classifier(h)
