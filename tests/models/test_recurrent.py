"""The cells against torch's modules, with torch's weights; rows against a Python loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models.recurrent import MLPClassifier, RecurrentLayer, RowEncoder

STEPS, BATCH, IN, HIDDEN, LAYERS = 7, 4, 6, 5, 3
# Ours and torch's names of a layer's parameters.
NAMES = {
    ("input", "kernel"): "weight_ih_l{}",
    ("input", "bias"): "bias_ih_l{}",
    ("recurrent", "kernel"): "weight_hh_l{}",
    ("recurrent", "bias"): "bias_hh_l{}",
}


def stack(layers: nnx.List, x: jax.Array) -> jax.Array:
    for layer in layers:
        x = layer(x)
    return x


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_values_and_gradients_are_torchs(cell):
    torch = pytest.importorskip("torch", reason="parity with torch's recurrent modules")
    torch.manual_seed(0)
    theirs = getattr(torch.nn, cell.upper())(IN, HIDDEN, num_layers=LAYERS)
    image = torch.randn(STEPS, BATCH, IN, requires_grad=True)
    outputs, _ = theirs(image)
    weights = torch.randn_like(outputs)
    (outputs * weights).sum().backward()

    sizes = (IN, *[HIDDEN] * LAYERS)
    layers = nnx.List(
        RecurrentLayer(cell, sizes[i], HIDDEN, rngs=nnx.Rngs(0)) for i in range(LAYERS)
    )
    for i, layer in enumerate(layers):
        for (part, kind), name in NAMES.items():
            value = getattr(theirs, name.format(i)).detach().numpy().T
            getattr(getattr(layer, part), kind).set_value(jnp.asarray(value))

    @nnx.jit
    def run(layers, x):
        def total(layers, x):
            out = stack(layers, x)
            return jnp.sum(out * weights.numpy()), out

        return nnx.grad(total, argnums=(0, 1), has_aux=True)(layers, x)

    (grads, grad_x), ours = run(layers, image.detach().numpy())
    np.testing.assert_allclose(ours, outputs.detach(), atol=1e-5)
    np.testing.assert_allclose(grad_x, image.grad, atol=1e-5)
    for i in range(LAYERS):
        for (part, kind), name in NAMES.items():
            expected = getattr(theirs, name.format(i)).grad.numpy().T
            np.testing.assert_allclose(grads[i][part][kind][...], expected, atol=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_layer_starts_as_torchs(cell):
    """Uniform within 1 / sqrt(hidden), its biases too, whatever the size of the input."""
    layer = RecurrentLayer(cell, 3, 64, rngs=nnx.Rngs(0))
    for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)):
        assert 0.9 / 8 < np.abs(leaf).max() <= 1 / 8
        assert abs(np.asarray(leaf).mean()) < 0.03


def test_an_image_is_read_from_the_top_with_a_pixels_channels_side_by_side():
    encoder = RowEncoder("gru", layers=2, hidden=5, image_size=4, rngs=nnx.Rngs(0))
    images = np.random.default_rng(0).uniform(size=(3, 6, 4, 3)).astype(np.float32)
    sequence = [
        [[value for pixel in row for value in pixel] for row in image] for image in images.tolist()
    ]
    last = stack(encoder.layers, jnp.swapaxes(jnp.array(sequence), 0, 1))[-1]
    h = encoder(images)
    assert h.shape == (3, 5) == (3, encoder.features)
    np.testing.assert_allclose(h, last, atol=1e-6)


def test_bfloat16_keeps_states_and_outputs_in_float32():
    make = {"hidden": 32, "image_size": 8, "channels": 1}
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    exact = RowEncoder("lstm", **make, rngs=nnx.Rngs(0))(images)
    h = RowEncoder("lstm", **make, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(images)
    assert h.dtype == jnp.float32
    assert (h != exact).any()
    assert (h != h.astype(jnp.bfloat16)).any()
    np.testing.assert_allclose(h, exact, atol=0.01)


def test_the_classifier_is_its_formula():
    head = MLPClassifier(6, (5, 4), 3, dropout=0.5, rngs=nnx.Rngs(0))
    h = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    x = h
    for linear in head.linears:
        x = x @ np.asarray(linear.kernel[...])
        x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0)
    undropped = nnx.view(head, deterministic=True)(h)
    expected = x @ np.asarray(head.classifier.kernel[...]) + 0.01
    assert undropped.shape == (16, 3)
    np.testing.assert_allclose(undropped, expected, rtol=1e-4, atol=1e-5)
    assert (head(h) != undropped).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rngs: RecurrentLayer("elman", 3, 3, rngs=rngs), "'elman'.*rnn, lstm or gru"),
        (lambda rngs: RecurrentLayer("rnn", 3, 0, rngs=rngs), "hidden 0: both at least 1"),
        (lambda rngs: RowEncoder("rnn", layers=0, image_size=3, rngs=rngs), "0 layers"),
        (lambda rngs: MLPClassifier(3, (2, 0), 2, rngs=rngs), r"\(2, 0\) units"),
        (lambda rngs: MLPClassifier(3, (2,), 2, dropout=1.0, rngs=rngs), "dropout is 1.0"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make(nnx.Rngs(0))
