import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxssl.losses import nt_xent

VALUE_AND_GRAD = jax.jit(jax.value_and_grad(lambda z, t: nt_xent(z[0], z[1], temperature=t)))


def reference(z, temperature):
    """Equation 1 of the paper, row by row, in float64. `z` is [2, b, d]."""
    rows = np.asarray(z, np.float64).reshape(-1, z.shape[-1])
    n, b = len(rows), len(rows) // 2
    norms = [math.sqrt(sum(v * v for v in row)) for row in rows]

    def sim(i, j):
        product = sum(u * v for u, v in zip(rows[i], rows[j], strict=True))
        return product / (norms[i] * norms[j]) if norms[i] * norms[j] > 0 else 0.0

    total = 0.0
    for i in range(n):
        logits = [sim(i, k) / temperature for k in range(n) if k != i]
        top = max(logits)
        log_sum = top + math.log(sum(math.exp(v - top) for v in logits))
        total += log_sum - sim(i, (i + b) % n) / temperature
    return total / n


def reference_grad(z, temperature, step=1e-6):
    z = np.asarray(z, np.float64)
    grad = np.zeros_like(z)
    for at in np.ndindex(*z.shape):
        shift = np.zeros_like(z)
        shift[at] = step
        high, low = reference(z + shift, temperature), reference(z - shift, temperature)
        grad[at] = (high - low) / (2 * step)
    return grad


def views(seed, b=5, d=3):
    return np.random.default_rng(seed).normal(size=(2, b, d)).astype(np.float32)


def make_mesh(devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def equal(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_value_and_gradient_equal_the_papers_equation_in_float64(temperature):
    z = views(0)
    value, grad = VALUE_AND_GRAD(z, temperature)
    equal(value, reference(z, temperature))
    equal(grad, reference_grad(z, temperature), rtol=1e-4, atol=2e-6 / temperature)


def test_optax_golden_value():
    ys = np.array([[-1.954, 1.078], [0.238, -0.5703], [1.8745, -0.0195], [-0.6719, -1.921]])
    z = np.stack([ys[0::2], ys[1::2]]).astype(np.float32)
    equal(VALUE_AND_GRAD(z, 0.07)[0], 14.01032)


def test_equals_optax_in_value_and_gradient():
    z, labels = views(1), np.tile(np.arange(5), 2)

    def oracle(z):
        return optax.losses.ntxent(z.reshape(10, 3), labels, temperature=0.2)

    expected, expected_grad = jax.jit(jax.value_and_grad(oracle))(z)
    value, grad = VALUE_AND_GRAD(z, 0.2)
    equal(value, expected)
    equal(grad, expected_grad)


def test_equals_torch_cross_entropy_in_value_and_gradient():
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    z = views(2)
    t = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    rows = torch.nn.functional.normalize(t.reshape(10, 3), dim=1)
    logits = (rows @ rows.T / 0.1).masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf)
    expected = torch.nn.functional.cross_entropy(logits, (torch.arange(10) + 5) % 10)
    expected.backward()
    value, grad = VALUE_AND_GRAD(z, 0.1)
    equal(value, expected.item())
    equal(grad, t.grad.numpy())


W = np.random.default_rng(10).normal(size=(8, 4)).astype(np.float32)
X = views(4, b=16, d=8)


def network(w, x, axis_name=None):
    """A loss of parameters that every device holds, on inputs [2, b, d] that it holds a part of."""
    return nt_xent(jnp.tanh(x[0] @ w), jnp.tanh(x[1] @ w), axis_name=axis_name)


@pytest.fixture(scope="module")
def one_device():
    return jax.jit(jax.value_and_grad(network, argnums=(0, 1)))(W, X)


def test_two_mesh_axes_at_once(one_device):
    mesh = jax.make_mesh((2, 4), ("host", "chip"), axis_types=(AxisType.Auto,) * 2)
    axes = ("host", "chip")
    loss = jax.shard_map(
        lambda w, x: network(w, x, axis_name=axes),
        mesh=mesh,
        in_specs=(P(), P(None, axes)),
        out_specs=P(),
    )
    value, grad = jax.jit(jax.value_and_grad(loss))(W, X)
    equal(value, one_device[0])
    equal(grad, one_device[1][0], atol=1e-7)


def test_equal_rows_are_at_chance_with_no_gradient():
    value, grad = VALUE_AND_GRAD(np.ones((2, 5, 3), np.float32), 0.5)
    equal(value, math.log(9))
    equal(grad, 0.0)


@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_opposed_positives_do_not_saturate(temperature):
    z = np.stack([np.eye(2, dtype=np.float32), -np.eye(2, dtype=np.float32)])
    value, grad = VALUE_AND_GRAD(z, temperature)
    equal(value, math.log(2 + math.exp(-1 / temperature)) + 1 / temperature)
    assert np.isfinite(grad).all()


def test_small_temperature_equals_float64():
    z = views(8)
    z[1] = -z[0]
    value, grad = VALUE_AND_GRAD(z, 0.01)
    equal(value, reference(z, 0.01))
    equal(grad, reference_grad(z, 0.01), rtol=1e-3, atol=1e-3)


def test_zero_rows_have_zero_cosines_and_zero_gradient():
    z = views(9)
    z[0, 2] = z[1, 4] = 0.0
    value, grad = VALUE_AND_GRAD(z, 0.5)
    equal(value, reference(z, 0.5))
    assert np.isfinite(grad).all()
    equal(grad[0, 2], 0.0, atol=0)
    equal(grad[1, 4], 0.0, atol=0)
    assert np.abs(grad[0, 0]).max() > 1e-3
    value, grad = VALUE_AND_GRAD(np.zeros((2, 5, 3), np.float32), 0.5)
    equal(value, math.log(9))
    equal(grad, 0.0, atol=0)


@pytest.mark.parametrize("length", [1e-25, 1e25])
def test_length_of_rows_does_not_matter(length):
    z = views(11)
    expected, expected_grad = VALUE_AND_GRAD(z, 0.5)
    value, grad = VALUE_AND_GRAD(z * length, 0.5)
    equal(value, expected)
    equal(np.asarray(grad, np.float64) * length, expected_grad)


def test_one_pair_has_loss_zero():
    value, grad = VALUE_AND_GRAD(views(13, b=1), 0.07)
    assert value == 0.0
    equal(grad, 0.0)


def test_order_of_images_and_of_views_does_not_matter():
    z = views(15)
    expected, expected_grad = VALUE_AND_GRAD(z, 0.5)
    order = [3, 0, 1, 4, 2]
    value, grad = VALUE_AND_GRAD(z[::-1, order], 0.5)
    equal(value, expected)
    equal(grad, np.asarray(expected_grad)[::-1, order])


@pytest.mark.parametrize(
    ("a", "b"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((0, 3), (0, 3))]
)
def test_bad_shapes_are_named(a, b):
    with pytest.raises(ValueError, match=r"both be \[b, d\]") as error:
        nt_xent(np.ones(a), np.ones(b))
    assert f"{a} and {b}" in str(error.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, np.float32(0)])
def test_bad_temperature_is_named(temperature):
    with pytest.raises(ValueError, match=rf"temperature must lie in \(0, inf\), got {temperature}"):
        nt_xent(np.ones((2, 3)), np.ones((2, 3)), temperature=temperature)


def equations_of(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations_of(inner)


def test_no_array_is_larger_than_rows_times_rows_and_products_are_in_full_precision():
    b, d = 16, 8
    closed = jax.make_jaxpr(jax.value_and_grad(lambda z: nt_xent(z[0], z[1])))(views(18, b, d))
    equations = list(equations_of(closed.jaxpr))
    assert max(v.aval.size for equation in equations for v in equation.outvars) == (2 * b) ** 2
    products = [e.params["precision"] for e in equations if e.primitive.name == "dot_general"]
    assert len(products) == 3
    assert set(products) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}


def test_views_of_two_shapes_are_named_as_that():
    with pytest.raises(ValueError, match=r"must both be \[b, d\] of one shape, got \(6, 4\) and"):
        nt_xent(np.ones((6, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"must both be \[b, d\] and not empty, got \(0, 4\)"):
        nt_xent(np.ones((0, 4)), np.ones((0, 4)))
