import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxssl.models.backbone
from jaxssl.models import Classifier, Frozen, PlanktonBackbone, describe, freeze


class Study(nnx.Module):
    """Backbone and classifier, as the softmax program has them."""

    def __init__(self, image_size: int = 128):
        rngs = nnx.Rngs(0)
        self.encoder = PlanktonBackbone(image_size=image_size, channels=3, rngs=rngs)
        self.classifier = Classifier(self.encoder.features, 6, rngs=rngs)

    def __call__(self, images):
        return self.classifier(self.encoder(images))


def test_counts_of_the_study():
    model = nnx.eval_shape(Study)
    freeze(model.encoder.trunk)
    table = describe(model, (128, 128, 3))
    totals = dict(line.rsplit(maxsplit=1) for line in table.splitlines()[-4:])
    # Every BatchNorm has as many statistics as scales and biases.
    statistics = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.BatchStat)))
    assert totals == {
        "total": "1,503,198",
        "trainable": "599,302",
        "frozen": "903,896",
        "batch statistics": f"{statistics:,}",
    }
    trunk_end = [line for line in table.splitlines() if line.startswith("encoder/trunk")][-1]
    assert "[16, 16, 64]" in trunk_end


class Trunk(nnx.Module):
    """In the trunk's place, whose compilation takes seconds."""

    features = 64

    def __call__(self, images):
        return jnp.tile(images[:, ::8, ::8, :1], 64)


@pytest.fixture
def backbone(build) -> PlanktonBackbone:
    return build(lambda: PlanktonBackbone(image_size=20, channels=3, rngs=nnx.Rngs(0)))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(2).random((8, 20, 20, 3), np.float32)


def test_a_step_trains_the_added_layers_and_leaves_the_frozen_trunk(backbone, images):
    freeze(backbone.trunk)
    assert not jax.tree.leaves(nnx.state(backbone.trunk, nnx.Param))
    graphdef, params, rest = nnx.split(backbone, nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            h = model(images)
            return jnp.sum(h**2), (h, nnx.split(model, nnx.Param, ...)[2])

        return jax.grad(loss, has_aux=True)(params)

    gradient, (h, after) = step(params, rest)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradient))
    assert h.shape == (8, 128)
    assert (np.asarray(h) == 0).mean() > 0.05
    before = dict(nnx.to_flat_state(rest))
    for path, variable in nnx.to_flat_state(after):
        same = np.array_equal(_numbers(before[path]), _numbers(variable))
        counts_calls = path[-1] == "count" and "dropout" in path and "trunk" not in path
        statistics = isinstance(variable, nnx.BatchStat) and "trunk" not in path
        assert same == (not (counts_calls or statistics)), path
    assert any(isinstance(variable, Frozen) for _, variable in nnx.to_flat_state(after))
    # Dropout's counter lives in the state: the same state, the same h; the next, another.
    np.testing.assert_array_equal(step(params, rest)[1][0], h)
    counted = nnx.merge_state(rest, nnx.filter_state(after, nnx.RngState))
    assert (np.asarray(step(params, counted)[1][0]) != np.asarray(h)).any()


def _numbers(variable):
    value = variable.get_value()
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value)


def test_evaluation_is_deterministic_and_changes_nothing(backbone, images):
    graphdef, state = nnx.split(nnx.view(backbone, deterministic=True, use_running_average=True))

    @jax.jit
    def evaluate(state):
        model = nnx.merge(graphdef, state, copy=True)
        return model(images), model(images[:3]), nnx.state(model)

    h, few, after = evaluate(state)
    np.testing.assert_allclose(h[:3], few, rtol=0, atol=1e-5 * float(h.max()))
    for a, b in zip(nnx.to_flat_state(state), nnx.to_flat_state(after), strict=True):
        np.testing.assert_array_equal(_numbers(a[1]), _numbers(b[1]))


def test_added_layers_start_as_the_study_says(monkeypatch):
    monkeypatch.setattr(jaxssl.models.backbone, "EfficientNetTrunk", lambda **_: Trunk())
    encoder = PlanktonBackbone(image_size=16, channels=3, rngs=nnx.Rngs(0))
    for layer, fan in ((encoder.conv1, 2 * 9 * 64), (encoder.linear, 64 + 128)):
        kernel = np.asarray(layer.kernel[...])
        bound = (6 / fan) ** 0.5
        assert 0.98 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(layer.bias[...], 0.01)


def test_leaky_relu_is_the_later_studies(monkeypatch, build, images):
    monkeypatch.setattr(jaxssl.models.backbone, "EfficientNetTrunk", lambda **_: Trunk())

    def h(slope):
        def make():
            return PlanktonBackbone(
                image_size=20, channels=3, negative_slope=slope, rngs=nnx.Rngs(0)
            )

        model = build(make)
        model.linear.kernel.set_value(model.linear.kernel[...] - 0.05)
        model.eval()
        return np.asarray(model(images))

    leaky = h(0.01)
    assert (leaky < 0).any()
    assert (leaky > 0).any()
    np.testing.assert_allclose(h(1.0), np.where(leaky < 0, 100 * leaky, leaky), rtol=1e-5)
    np.testing.assert_allclose(h(0.0), np.maximum(leaky, 0), rtol=1e-5)
