import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
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


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_sharded_batch_under_jit_equals_one_device(devices):
    z = views(3, b=16)
    expected, expected_grad = VALUE_AND_GRAD(z, 0.5)
    sharded = jax.device_put(z, NamedSharding(make_mesh(devices), P(None, "data")))
    value, grad = VALUE_AND_GRAD(sharded, 0.5)
    equal(value, expected)
    equal(grad, expected_grad, atol=1e-7)


W = np.random.default_rng(10).normal(size=(8, 4)).astype(np.float32)
X = views(4, b=16, d=8)


def network(w, x, axis_name=None):
    """A loss of parameters that every device holds, on inputs [2, b, d] that it holds a part of."""
    return nt_xent(jnp.tanh(x[0] @ w), jnp.tanh(x[1] @ w), axis_name=axis_name)


@pytest.fixture(scope="module")
def one_device():
    return jax.jit(jax.value_and_grad(network, argnums=(0, 1)))(W, X)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_shard_map_gradients_equal_one_device(devices, check_vma, one_device):
    value, (grad_w, grad_x) = one_device

    def shard(f, out_specs):
        specs = {"mesh": make_mesh(devices), "in_specs": (P(), P(None, "data"))}
        return jax.shard_map(f, out_specs=out_specs, check_vma=check_vma, **specs)

    def loss(w, x):
        return network(w, x, axis_name="data")

    def step(w, x):
        value, (grad_w, grad_x) = jax.value_and_grad(loss, argnums=(0, 1))(w, x)
        return value[None], lax.pmean(grad_w, "data"), grad_x

    outside = jax.value_and_grad(shard(loss, P()), argnums=(0, 1))
    inside = shard(step, (P("data"), P(), P(None, "data")))
    (value_out, grads_out), (values, inside_w, inside_x) = jax.jit(
        lambda w, x: (outside(w, x), inside(w, x))
    )(W, X)
    equal(value_out, value)
    equal(grads_out[0], grad_w, atol=1e-7)
    equal(grads_out[1], grad_x, atol=1e-7)
    equal(values, np.full(devices, value))
    equal(inside_w, grad_w, atol=1e-7)
    # As documented: without check_vma the local rows' gradient counts every device's copy.
    equal(inside_x, np.asarray(grad_x) * (1 if check_vma else devices), atol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_pmap_gradient_equals_one_device(devices, one_device):
    def step(w, x):
        value, grad = jax.value_and_grad(network)(w, x, axis_name="data")
        return value, lax.pmean(grad, "data")

    shards = X.reshape(2, devices, 16 // devices, 8)
    mapped = jax.pmap(step, "data", in_axes=(None, 1), devices=jax.devices()[:devices])
    value, grad = mapped(W, shards)
    expected, (expected_w, _) = one_device
    equal(value, np.full(devices, expected))
    equal(grad, np.broadcast_to(expected_w, grad.shape), atol=1e-7)


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


def test_vmap_equals_one_at_a_time():
    batch = np.stack([views(seed) for seed in (6, 7, 8)])
    temperatures = np.array([0.1, 0.5, 1.0], np.float32)
    values, grads = jax.vmap(VALUE_AND_GRAD)(batch, temperatures)
    for i, temperature in enumerate([0.1, 0.5, 1.0]):
        expected, expected_grad = VALUE_AND_GRAD(batch[i], temperature)
        equal(values[i], expected)
        equal(grads[i], expected_grad)


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


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    z = (views(12) * 300).astype(dtype)  # squares overflow float16
    expected, expected_grad = VALUE_AND_GRAD(z.astype(jnp.float32), 0.05)
    value, grad = VALUE_AND_GRAD(z, 0.05)
    assert value.dtype == jnp.float32
    assert grad.dtype == dtype
    equal(value, expected, rtol=1e-6)
    equal(grad, expected_grad, rtol=1e-2)


def test_one_pair_has_loss_zero():
    value, grad = VALUE_AND_GRAD(views(13, b=1), 0.07)
    assert value == 0.0
    equal(grad, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_not_hidden(bad):
    z = views(14)
    z[0, 1, 2] = bad
    assert np.isnan(VALUE_AND_GRAD(z, 0.5)[0])


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


def test_second_call_does_not_recompile():
    before = VALUE_AND_GRAD._cache_size()
    for temperature in (0.5, 0.1):
        VALUE_AND_GRAD(views(16, b=6), temperature)
    assert VALUE_AND_GRAD._cache_size() == before + 1


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
