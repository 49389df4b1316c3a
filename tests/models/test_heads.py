import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.models import Classifier, ClassWeights, ProjectionHead


def relu(x):
    return np.maximum(x, 0)


def norm(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


EXPECTED = {
    "linear": lambda h, w, b: h @ w[0] + b[0],
    "mlp2": lambda h, w, b: relu(h @ w[0]) @ w[1],
    "mlp3": lambda h, w, b: relu(relu(h @ w[0] + b[0]) @ w[1] + b[1]) @ w[2] + b[2],
    "mlp-bn": lambda h, w, b: relu(norm(h @ w[0])) @ w[1],
    "mlp-bn2": lambda h, w, b: norm(relu(norm(h @ w[0])) @ w[1]),
}


@pytest.mark.parametrize("kind", list(EXPECTED))
def test_projection_heads_are_their_formulas(kind):
    head = ProjectionHead(6, kind=kind, hidden=5, out_features=4, rngs=nnx.Rngs(0))
    for linear in head.linears:  # biases start at zero, which would hide them
        if linear.bias is not None:
            linear.bias.set_value(jnp.linspace(0.1, 0.4, linear.bias.size))
    h = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    weights = [np.asarray(linear.kernel[...]) for linear in head.linears]
    biases = [
        None if linear.bias is None else np.asarray(linear.bias[...]) for linear in head.linears
    ]
    assert len(weights) == {"linear": 1, "mlp3": 3}.get(kind, 2)
    z = head(h)
    assert z.shape == (16, 4) == (16, head.out_features)
    np.testing.assert_allclose(z, EXPECTED[kind](h, weights, biases), rtol=1e-4, atol=1e-5)


def test_hidden_layers_have_the_size_of_h_by_default():
    head = nnx.eval_shape(lambda: ProjectionHead(7, rngs=nnx.Rngs(0)))
    assert [linear.kernel.shape for linear in head.linears] == [(7, 7), (7, 7), (7, 128)]


def test_bfloat16_projection_is_float32():
    head = ProjectionHead(6, kind="mlp-bn", out_features=4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    z = head(jax.random.normal(jax.random.key(0), (8, 6)))
    assert z.dtype == jnp.float32
    assert (z == z.astype(jnp.bfloat16)).all()
    assert head.linears[0].kernel.dtype == jnp.float32


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'mlp4': one of mlp3, mlp2, mlp-bn, mlp-bn2, linear"):
        ProjectionHead(6, kind="mlp4", rngs=nnx.Rngs(0))


def test_class_weights_are_a_parameter_and_xavier():
    weights = ClassWeights(9, 40, rngs=nnx.Rngs(0))
    assert isinstance(weights.weights, nnx.Param)
    bound = (6 / 49) ** 0.5
    assert 0.95 * bound < np.abs(weights()).max() <= bound


def test_classifier_starts_as_the_study_says():
    classifier = Classifier(40, 9, rngs=nnx.Rngs(0))
    bound = (6 / 49) ** 0.5
    assert 0.95 * bound < np.abs(classifier.kernel[...]).max() <= bound
    np.testing.assert_allclose(classifier(jnp.zeros((1, 40))), np.full((1, 9), 0.01))
