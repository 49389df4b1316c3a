"""What stands on an encoder: the projection head g, a classifier, ArcFace's class weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from jaxssl.models.layers import BatchNorm

Kind = Literal["mlp3", "mlp2", "mlp-bn", "mlp-bn2", "linear"]

xavier_uniform = nnx.initializers.xavier_uniform()
bias_of_01 = nnx.initializers.constant(0.01)


class ProjectionHead(nnx.Module):
    """g: h -> z, on which the contrastive loss works; the loss normalises z.

    - `mlp3`: Linear, ReLU, Linear, ReLU, Linear: the plankton study's.
    - `mlp2`: Linear, ReLU, Linear without biases, z = W2 relu(W1 h): SimCLR, eq. in section 2.1.
    - `mlp-bn`: Linear without bias, BatchNorm, ReLU, Linear without bias.
    - `mlp-bn2`: the same, then BatchNorm of z: the authors' own code (google-research/simclr,
      `projection_head`) and lightly's.
    - `linear`: one Linear.

    Args:
      in_features: size of h.
      kind: one of the above.
      hidden: size of the hidden layers; that of h if None.
      out_features: d, size of z.
      dtype: computes in it; parameters and z are float32.
      rngs: source of the parameters.

    Raises:
      ValueError: for an unknown kind.

    Reference:
      Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations.

    Example:
      >>> head = ProjectionHead(256, rngs=nnx.Rngs(0))
      >>> head(jnp.zeros((2, 256))).shape
      (2, 128)
    """

    def __init__(
        self,
        in_features: int,
        *,
        kind: Kind = "mlp3",
        hidden: int | None = None,
        out_features: int = 128,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        hidden = hidden or in_features
        match kind:
            case "mlp3":
                sizes = (in_features, hidden, hidden, out_features)
            case "mlp2" | "mlp-bn" | "mlp-bn2":
                sizes = (in_features, hidden, out_features)
            case "linear":
                sizes = (in_features, out_features)
            case _:
                raise ValueError(f"projection head {kind!r}: one of {', '.join(get_args(Kind))}")
        use_bias = kind in ("mlp3", "linear")
        self.linears = nnx.List(
            nnx.Linear(i, o, use_bias=use_bias, dtype=dtype, rngs=rngs) for i, o in pairwise(sizes)
        )
        between, last = kind.startswith("mlp-bn"), kind == "mlp-bn2"
        self.norm = BatchNorm(hidden, rngs=rngs) if between else nnx.data(None)
        self.norm_of_z = BatchNorm(out_features, rngs=rngs) if last else nnx.data(None)
        self.out_features = out_features

    def __call__(self, h: jax.Array) -> jax.Array:
        """Map representations h [b, in_features] to projections z float32 [b, out_features]."""
        x = self.linears[0](h)
        for linear in self.linears[1:]:
            if self.norm is not None:
                x = self.norm(x)
            x = linear(nnx.relu(x))
        if self.norm_of_z is not None:
            x = self.norm_of_z(x)
        return x.astype(jnp.float32)


class Classifier(nnx.Linear):
    """h [b, in_features] -> logits float32 [b, classes]; Xavier-uniform weights, biases of .01.

    Args:
      in_features: size of h.
      classes: k.
      rngs: source of the parameters.

    Example:
      >>> Classifier(128, 6, rngs=nnx.Rngs(0))(jnp.zeros((2, 128))).shape
      (2, 6)
    """

    def __init__(self, in_features: int, classes: int, *, rngs: nnx.Rngs):
        super().__init__(
            in_features, classes, kernel_init=xavier_uniform, bias_init=bias_of_01, rngs=rngs
        )


class ClassWeights(nnx.Module):
    """The class weights [k, d] of ArcFace and CosFace.

    They are parameters of the model, so that optimizer and checkpoint hold them.

    Args:
      classes: k.
      features: d, size of the embedding.
      rngs: source of the parameters.

    Example:
      >>> ClassWeights(6, 128, rngs=nnx.Rngs(0))().shape
      (6, 128)
    """

    def __init__(self, classes: int, features: int, *, rngs: nnx.Rngs):
        self.weights = nnx.Param(xavier_uniform(rngs.params(), (classes, features), jnp.float32))

    def __call__(self) -> jax.Array:
        """Return the weights float32 [k, d], not normalised: the margin losses do that."""
        return self.weights[...]
