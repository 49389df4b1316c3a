import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.losses import nt_xent, sup_con


def loss(z, labels, temperature, axis_name=None):
    return sup_con(z, labels, temperature=temperature, axis_name=axis_name)


VALUE_AND_GRAD = jax.jit(jax.value_and_grad(loss), static_argnames="axis_name")


def reference(z, labels, temperature):
    """Equation 2 of the paper, anchor by anchor, in float64."""
    z, n = np.asarray(z, np.float64), len(z)
    norms = [math.sqrt(sum(v * v for v in row)) for row in z]

    def s(i, j):
        product = sum(u * v for u, v in zip(z[i], z[j], strict=True))
        return product / (norms[i] * norms[j] * temperature) if norms[i] * norms[j] > 0 else 0.0

    losses = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if not positives:
            continue
        top = max(s(i, j) for j in others)
        log_sum = top + math.log(sum(math.exp(s(i, j) - top) for j in others))
        losses.append(-sum(s(i, p) - log_sum for p in positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


def reference_grad(z, labels, temperature, step=1e-6):
    z = np.asarray(z, np.float64)
    grad = np.zeros_like(z)
    for at in np.ndindex(*z.shape):
        shift = np.zeros_like(z)
        shift[at] = step
        high = reference(z + shift, labels, temperature)
        grad[at] = (high - reference(z - shift, labels, temperature)) / (2 * step)
    return grad


def rows(seed, n=7, d=3):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def equal(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rtol, atol=atol)


LABELS = {
    "pairs and a lone row": [0, 0, 1, 1, 2, 2, 3],
    "unequal classes": [0, 0, 0, 0, 1, 2, 1],
    "one class": [5, 5, 5, 5, 5, 5, 5],
    "any integers": [-1, 90, 90, -1, 3, 3, 90],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_value_and_gradient_equal_the_papers_equation_in_float64(labels, temperature):
    z = rows(0)
    value, grad = VALUE_AND_GRAD(z, np.array(labels), temperature)
    equal(value, reference(z, labels, temperature))
    equal(grad, reference_grad(z, labels, temperature), rtol=1e-4, atol=2e-6 / temperature)


def test_equals_nt_xent_where_each_image_is_its_own_class():
    z = rows(1, n=10)

    def pairs(z):
        return nt_xent(z[:5], z[5:], temperature=0.2)

    expected, expected_grad = jax.jit(jax.value_and_grad(pairs))(z)
    value, grad = VALUE_AND_GRAD(z, np.tile(np.arange(5), 2), 0.2)
    equal(value, expected)
    equal(grad, expected_grad)


def test_equals_torch_log_softmax_in_value_and_gradient():
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    z, labels = rows(2), np.array(LABELS["unequal classes"])
    t = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    unit = torch.nn.functional.normalize(t, dim=1)
    eye = torch.eye(7, dtype=torch.bool)
    log_p = torch.log_softmax((unit @ unit.T / 0.1).masked_fill(eye, -1e300), dim=1)
    positive = torch.tensor(labels[:, None] == labels[None, :]) & ~eye
    anchors = positive.any(1)
    means = log_p.masked_fill(~positive, 0.0).sum(1)[anchors] / positive.sum(1)[anchors]
    (-means.mean()).backward()
    value, grad = VALUE_AND_GRAD(z, labels, 0.1)
    equal(value, -means.mean().item())
    equal(grad, t.grad.numpy())


@pytest.mark.parametrize("n", [1, 7])
def test_no_positive_gives_zero_and_zero_gradient(n):
    value, grad = VALUE_AND_GRAD(rows(3, n=n), np.arange(n), 0.1)
    assert value == 0.0
    equal(grad, 0.0, atol=0)


def test_equal_rows_are_at_chance():
    value, grad = VALUE_AND_GRAD(np.ones((7, 3), np.float32), np.array([0, 0, 0, 1, 1, 1, 2]), 0.1)
    equal(value, math.log(6))
    equal(grad, 0.0, atol=1e-6)


def test_zero_rows_have_zero_cosines_and_zero_gradient():
    z, labels = rows(4), np.array(LABELS["unequal classes"])
    z[2] = z[4] = 0.0
    value, grad = VALUE_AND_GRAD(z, labels, 0.1)
    equal(value, reference(z, labels, 0.1))
    assert np.isfinite(grad).all()
    equal(grad[2], 0.0, atol=0)


def test_small_temperature_and_opposed_positives():
    z, labels = rows(5), np.array(LABELS["pairs and a lone row"])
    z[1], z[3], z[5] = -z[0], -z[2], -z[4]
    value, grad = VALUE_AND_GRAD(z, labels, 0.01)
    equal(value, reference(z, labels, 0.01))
    equal(grad, reference_grad(z, labels, 0.01), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("z_shape", "labels_shape"), [((4, 3), (5,)), ((4,), (4,)), ((4, 3), (4, 1, 1)), ((0, 3), (0,))]
)
def test_bad_shapes_are_named(z_shape, labels_shape):
    with pytest.raises(ValueError, match=r"embeddings must be \[n, d\] and labels \[n\]") as error:
        sup_con(np.ones(z_shape), np.ones(labels_shape, int))
    assert f"{z_shape} and {labels_shape}" in str(error.value)


def test_bad_labels_and_temperature_are_named():
    with pytest.raises(ValueError, match="labels must be integers, got float64"):
        sup_con(np.ones((4, 3)), np.ones(4))
    with pytest.raises(ValueError, match=r"temperature must lie in \(0, inf\), got -0.1"):
        sup_con(np.ones((4, 3)), np.ones(4, int), temperature=-0.1)


def test_classes_of_rows_are_0_and_1_where_rows_count():
    z, kinds = rows(0)[:4], np.eye(4, 3, dtype=np.float32)
    expected = sup_con(z[:3], kinds[:3])
    for wrong in (2.0, -1.0, 0.5, np.nan):
        damaged = kinds.copy()
        damaged[3, 1] = wrong
        for call in (sup_con, lambda z, labels: jax.jit(lambda z: sup_con(z, labels))(z)):
            with pytest.raises(ValueError, match=r"labels \[n, c\] must be 0 and 1"):
                call(z, jnp.asarray(damaged))
        there = np.array([True, True, True, False])
        equal(sup_con(z, damaged, where=there), expected)
    for column in (np.array([[0], [0], [1], [2]]), np.ones((4, 1), np.float32)):
        for call in (sup_con, jax.jit(sup_con)):
            with pytest.raises(ValueError, match=r"\(4, 1\) are a column.*labels\[:, 0\]"):
                call(z, column)
    one = np.array([True, True, False, False])[:, None]
    equal(sup_con(z, one), sup_con(z, positives=np.float32(one @ one.T)))


def test_what_says_who_is_alike_is_asked_for():
    with pytest.raises(ValueError, match="labels or positives say who is alike: pass one"):
        sup_con(np.ones((4, 3)))
