import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.losses import (
    arcface_logits,
    arcface_loss,
    cosface_logits,
    cosface_loss,
    cosine_logits,
)

LOSSES = {"arcface": arcface_loss, "cosface": cosface_loss}


@jax.jit
def both_logits(z, w, labels, margin, scale):
    options = {"margin": margin, "scale": scale}
    return {
        "arcface": arcface_logits(z, w, labels, **options),
        "cosface": cosface_logits(z, w, labels, **options),
        "cosine": cosine_logits(z, w, scale=scale),
    }


@jax.jit
def both_losses(z, w, labels, margin, scale):
    """Value and gradients with respect to embeddings and weights, of each loss."""
    return {
        name: jax.value_and_grad(loss, argnums=(0, 1))(z, w, labels, margin=margin, scale=scale)
        for name, loss in LOSSES.items()
    }


def reference_logits(name, z, w, labels, margin, scale):
    """Angle by angle, in float64."""
    out = np.zeros((len(z), len(w)))
    for i, a in enumerate(np.asarray(z, np.float64)):
        for j, b in enumerate(np.asarray(w, np.float64)):
            lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
            product = sum(u * v for u, v in zip(a, b, strict=True))
            theta = math.acos(max(-1.0, min(1.0, product / lengths)))
            out[i, j] = math.cos(theta)
            if j == labels[i] and name == "cosface":
                out[i, j] -= margin
            elif j == labels[i] and name == "arcface":
                beyond = theta >= math.pi - margin
                fallback = math.cos(theta) - margin * math.sin(margin)
                out[i, j] = fallback if beyond else math.cos(theta + margin)
    return scale * out


def reference_loss(name, z, w, labels, margin, scale):
    total = 0.0
    for row, label in zip(reference_logits(name, z, w, labels, margin, scale), labels, strict=True):
        top = max(row)
        total += top + math.log(sum(math.exp(v - top) for v in row)) - row[label]
    return total / len(z)


def reference_grad(name, z, w, *rest, step=1e-6):
    arrays = [np.asarray(z, np.float64), np.asarray(w, np.float64)]
    grads = [np.zeros_like(array) for array in arrays]
    for array, grad in zip(arrays, grads, strict=True):
        for at in np.ndindex(*array.shape):
            start = array[at]
            array[at] = start + step
            high = reference_loss(name, *arrays, *rest)
            array[at] = start - step
            grad[at] = (high - reference_loss(name, *arrays, *rest)) / (2 * step)
            array[at] = start
    return grads


def problem(seed, n=6, d=3, k=4):
    rng = np.random.default_rng(seed)
    z, w = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    return z.astype(np.float32), w.astype(np.float32), rng.integers(0, k, n)


def equal(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("margin", "scale"), [(0.5, 64.0), (0.35, 8.0), (0.9, 1.0), (0.0, 8.0)])
def test_logits_loss_and_gradients_equal_the_loop(margin, scale):
    z, w, labels = problem(0)
    z[1] = -1.1 * w[labels[1]] + 0.1  # beyond π − margin
    args = z, w, labels, margin, scale
    logits, losses = both_logits(*args), both_losses(*args)
    equal(logits["cosine"], reference_logits("cosine", *args), atol=1e-5)
    for name, (value, grads) in losses.items():
        equal(logits[name], reference_logits(name, *args), atol=2e-6 * scale)
        equal(value, reference_loss(name, *args), atol=1e-6 * scale)
        for grad, expected in zip(grads, reference_grad(name, *args), strict=True):
            equal(grad, expected, rtol=1e-3, atol=1e-5 * scale)


def true_logits(angles, margin):
    """Logits of scale 1 of points at some angles to their class's weight."""
    z = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    w = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    logits = both_logits(z, w, np.zeros(len(angles), int), margin, 1.0)
    return np.asarray(logits["arcface"])[:, 0], np.asarray(logits["cosface"])[:, 0]


def test_closed_forms():
    m = 0.5
    angles = np.array([0.0, math.pi / 2, math.pi - m - 1e-3, math.pi - m + 1e-3, math.pi])
    arcface, cosface = true_logits(angles, m)
    fallback = [-math.cos(m - 1e-3) - m * math.sin(m), -1 - m * math.sin(m)]
    # At θ = 0 the floor under sin θ leaves √1e-7·sin m.
    equal(arcface[0], math.cos(m), atol=2e-4)
    equal(arcface[1:], [-math.sin(m), -1.0, *fallback], atol=2e-6)
    equal(cosface, np.cos(angles) - m)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.0, 1.57])
def test_true_logit_falls_from_0_to_pi(margin):
    angles = np.linspace(0.0, math.pi, 4001)
    for logits in true_logits(angles, margin):
        assert np.diff(logits).max() < 1e-6
        assert np.diff(logits[::100]).max() < -1e-4


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_are_finite_at_angle_0_and_pi(sign):
    rng = np.random.default_rng(1)
    w = rng.normal(size=(64, 128)).astype(np.float32)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    cosines = both_logits(w, w, np.arange(64), 0.5, 1.0)["cosine"]
    assert np.diag(cosines).max() > 1.0, "float32 cosines beyond 1 must be among the cases"
    for value, grads in both_losses(sign * w, w, np.arange(64), 0.5, 64.0).values():
        assert np.isfinite(value)
        assert all(np.isfinite(grad).all() for grad in grads)


def test_gradient_is_the_true_one_and_not_straight_through():
    z, w = np.array([[0.6, 0.8]], np.float32), np.array([[1.0, 0.0]], np.float32)

    def logit(z):
        return arcface_logits(z, w, np.array([0]), margin=0.5, scale=2.0)[0, 0]

    # d cos(θ + m) = sin(θ + m)/sin θ times d cos θ, which is what straight-through would give.
    theta = math.atan2(0.8, 0.6)
    d_cosine = np.array([[0.64, -0.48]])
    equal(jax.jit(jax.grad(logit))(z), 2.0 * math.sin(theta + 0.5) / math.sin(theta) * d_cosine)


def test_zero_rows_are_finite_with_zero_gradient():
    z, w, labels = problem(2)
    z[0] = w[labels[1]] = 0.0
    for value, (grad_z, grad_w) in both_losses(z, w, labels, 0.5, 64.0).values():
        assert np.isfinite(value)
        assert np.isfinite(grad_z).all()
        assert np.isfinite(grad_w).all()
        equal(grad_z[0], 0.0, atol=0)
        equal(grad_w[labels[1]], 0.0, atol=0)


LOGITS_AND_LOSSES = [arcface_logits, arcface_loss, cosface_logits, cosface_loss]


@pytest.mark.parametrize("f", LOGITS_AND_LOSSES)
def test_bad_arguments_are_named(f):
    z, w, labels = problem(5)
    with pytest.raises(ValueError, match=r"got \(6, 3\) and \(4, 2\)"):
        f(z, w[:, :2], labels)
    with pytest.raises(ValueError, match=r"got \(6, 3\) and \(5,\)"):
        f(z, w, labels[:5])
    with pytest.raises(ValueError, match="labels must be integers, got float64"):
        f(z, w, labels.astype(float))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\), got -1 to 3"):
        f(z, w, np.array([-1, 0, 1, 2, 3, 3]))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 4\), got 0 to 4"):
        f(z, w, jnp.array([4, 0, 1, 2, 3, 3]))
    with pytest.raises(ValueError, match=r"margin must lie in \[0, 1(\.571)?\), got 28.6"):
        f(z, w, labels, margin=28.6)  # degrees
    with pytest.raises(ValueError, match=r"scale must lie in \(0, inf\), got 0"):
        f(z, w, labels, scale=0)


def test_cosine_logits_name_bad_arguments():
    z, w, _ = problem(6)
    with pytest.raises(ValueError, match=r"got \(6, 3\) and \(4, 2\)"):
        cosine_logits(z, w[:, :2])
    with pytest.raises(ValueError, match=r"scale must lie in \(0, inf\), got -1"):
        cosine_logits(z, w, scale=-1)


def test_labels_out_of_range_stay_finite_inside_jit():
    z, w, labels = problem(7)
    labels[0], labels[1] = -1, 4
    for value, grads in both_losses(z, w, labels, 0.3, 16.0).values():
        assert np.isfinite(value)
        assert all(np.isfinite(grad).all() for grad in grads)
