"""NT-Xent and SupCon in tiles: against float64, the whole matrix, and one device."""

import functools
import math
import os
import re
import socket
import subprocess
import sys

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.losses import nt_xent, sup_con
from jaxssl.losses._ring import choose_tile

B, D = 24, 5  # 48 rows: a ring of 8 devices with 6 rows each, two tiles of 4 with filling


def views(seed, b=B, d=D):
    return np.random.default_rng(seed).normal(size=(2, b, d)).astype(np.float32)


def make_mesh(devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def equal(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rtol, atol=atol)


@functools.partial(jax.jit, static_argnames="tile_size")
def pairs(z, temperature, tile_size):
    loss = lambda z: nt_xent(z[0], z[1], temperature=temperature, tile_size=tile_size)  # noqa: E731
    return jax.value_and_grad(loss)(z)


@functools.partial(jax.jit, static_argnames="tile_size")
def classes(z, labels, temperature, tile_size):
    loss = lambda z: sup_con(z, labels, temperature=temperature, tile_size=tile_size)  # noqa: E731
    return jax.value_and_grad(loss)(z)


def float64(z, labels, temperature):
    """SupCon in NumPy, with its gradient by hand: the unit rows' and then the rows'."""
    z = np.asarray(z, np.float64)
    lengths = np.linalg.norm(z, axis=1, keepdims=True)
    x = z / lengths
    s = x @ x.T / temperature
    np.fill_diagonal(s, -np.inf)
    top = s.max(axis=1, keepdims=True)
    lse = top + np.log(np.exp(s - top).sum(axis=1, keepdims=True))
    positive = (labels[:, None] == labels[None]) & ~np.eye(len(z), dtype=bool)
    count = positive.sum(axis=1, keepdims=True)
    anchors = count > 0
    mean = np.where(positive, s, 0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    w = (np.exp(s - lse) - positive / np.maximum(count, 1)) * anchors / anchors.sum()
    dx = (w + w.T) @ x / temperature
    dz = (dx - (dx * x).sum(axis=1, keepdims=True) * x) / lengths
    return ((lse - mean) * anchors).sum() / anchors.sum(), dz


def test_a_thousand_rows_equal_float64_in_value_and_gradient():
    z = views(0, b=500, d=16)
    value, grad = float64(z.reshape(1000, 16), np.tile(np.arange(500), 2), 0.2)
    got, got_grad = pairs(z, 0.2, tile_size=96)  # 1,000 = 10 · 96 + 40
    equal(got, value, rtol=1e-6)
    equal(got_grad.reshape(1000, 16), grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("temperature", [0.01, 2.0])
@pytest.mark.parametrize("n", [45, 48])
def test_sup_con_equals_float64_in_value_and_gradient(temperature, n):
    # 45 rows in tiles of 8 are filled up; 48 meet in a ring of eight blocks. Unequal classes, one
    # of a single row.
    z = views(1).reshape(-1, D)[:n]
    labels = np.minimum(np.arange(n) % 7 * 3, 11) - 5
    labels[4] = 99
    value, grad = float64(z, labels, temperature)
    got, got_grad = classes(z, labels, temperature, tile_size=8)
    equal(got, value)
    equal(got_grad, grad, rtol=1e-4, atol=1e-6 / temperature)


def test_sharded_rows_under_jit_equal_one_device_and_gather_no_matrix():
    z = views(2, b=128)
    expected, expected_grad = pairs(z, 0.5, tile_size=1000)
    sharded = jax.device_put(z, NamedSharding(make_mesh(8), P(None, "data")))
    compiled = pairs.lower(sharded, 0.5, tile_size=16).compile()
    value, grad = compiled(sharded, 0.5)
    equal(value, expected)
    equal(grad, expected_grad, atol=1e-7)
    shapes = re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
    largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
    assert largest <= 8 * 16 * 16 < 256 * 256 / 8
    # Nor all of z: blocks are passed on.
    assert "all-gather" not in compiled.as_text()
    assert "collective-permute" in compiled.as_text()


@pytest.mark.parametrize("check_vma", [True, False])
def test_without_an_axis_name_each_device_has_its_own_loss(check_vma):
    z = views(4)
    each = jax.shard_map(
        lambda z: nt_xent(z[0], z[1], tile_size=2)[None],
        mesh=make_mesh(2),
        in_specs=P(None, "data"),
        out_specs=P("data"),
        check_vma=check_vma,
    )
    expected = [pairs(part, 0.5, tile_size=1000)[0] for part in np.split(z, 2, axis=1)]
    equal(jax.jit(each)(z), expected)


@pytest.mark.parametrize(("devices", "check_vma"), [(3, True)], ids=["odd"])
def test_the_ring_equals_one_device_in_value_and_gradients(devices, check_vma):
    z, w = views(3), np.random.default_rng(4).normal(size=(D, 4)).astype(np.float32)

    def network(w, z, axis_name=None, tile_size=4):
        a, b = jnp.tanh(z @ w)
        return nt_xent(a, b, axis_name=axis_name, tile_size=tile_size)

    whole = functools.partial(network, tile_size=1000)
    value, (grad_w, grad_z) = jax.jit(jax.value_and_grad(whole, argnums=(0, 1)))(w, z)
    shard = functools.partial(
        jax.shard_map,
        mesh=make_mesh(devices),
        in_specs=(P(), P(None, "data")),
        check_vma=check_vma,
    )
    loss = functools.partial(network, axis_name="data")

    def inside(w, z):
        value, grad = jax.value_and_grad(loss)(w, z)
        return value[None], lax.pmean(grad, "data")

    outside = jax.value_and_grad(shard(loss, out_specs=P()), argnums=(0, 1))
    step = jax.jit(lambda w, z: (outside(w, z), shard(inside, out_specs=(P("data"), P()))(w, z)))
    (value_out, (out_w, out_z)), (values, inside_w) = step(w, z)
    equal(value_out, value)
    equal(out_w, grad_w, atol=1e-7)
    equal(out_z, grad_z, atol=1e-7)
    equal(values, np.full(devices, value))
    equal(inside_w, grad_w, atol=1e-7)


def test_sup_con_round_a_ring_of_two_axes_equals_one_device():
    z, labels = views(5).reshape(-1, D), np.arange(48) // 5
    expected, expected_grad = classes(z, labels, 0.1, tile_size=48)
    axes = ("host", "chip")
    ring = jax.shard_map(
        lambda z, labels: sup_con(z, labels, axis_name=axes, tile_size=4),
        mesh=jax.make_mesh((2, 4), axes, axis_types=(AxisType.Auto,) * 2),
        in_specs=P(axes),
        out_specs=P(),
    )
    value, grad = jax.jit(jax.value_and_grad(ring))(z, labels)
    equal(value, expected)
    equal(grad, expected_grad, atol=1e-7)


def test_corners_are_finite_and_equal_the_whole_matrix():
    opposed = views(7)
    opposed[1] = -opposed[0]
    zeros = views(8)
    zeros[0, 3] = zeros[1, 5] = 0.0
    equal_rows = np.ones_like(opposed)
    for z in (opposed, zeros, equal_rows):
        expected, expected_grad = pairs(z, 0.01, tile_size=1000)
        value, grad = pairs(z, 0.01, tile_size=4)
        equal(value, expected)
        equal(grad, expected_grad, rtol=1e-3, atol=1e-5)
    bad = views(9)
    bad[0, 1, 2] = np.nan
    assert np.isnan(pairs(bad, 0.01, tile_size=4)[0])
    assert classes(opposed.reshape(-1, D), np.arange(48), 0.1, tile_size=4)[0] == 0.0


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)


def test_nothing_is_larger_than_two_blocks_of_rows_at_131072_rows():
    z = jax.ShapeDtypeStruct((2, 65536, 32), np.float32)
    closed = jax.make_jaxpr(jax.value_and_grad(lambda z: nt_xent(z[0], z[1])))(z)
    assert max(sizes(closed.jaxpr)) == 2 * 131072 * 32


@pytest.mark.parametrize(
    ("rows", "asked", "tile"),
    [
        *((1024, None, None), (1026, None, 512), (9, 3, 4), (8, 8, None)),
        *((2048, None, None), (4096, None, 512)),  # spread over eight devices
    ],
)
def test_the_tile_is_chosen_by_the_rows(rows, asked, tile):
    assert choose_tile(rows, None, asked) == tile


def test_a_bad_tile_is_named():
    with pytest.raises(ValueError, match="tile_size must be None or an integer >= 1, got 0"):
        nt_xent(np.ones((4, 3)), np.ones((4, 3)), tile_size=0)


PROCESS = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxssl.losses import nt_xent

port, process, folder = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices())
mine = np.load(f"{folder}/z.npy")[:, 24 * int(process) : 24 * int(process) + 24]
z = jax.make_array_from_process_local_data(NamedSharding(mesh, P(None, "data")), mine)
loss = lambda z, axis_name=None: nt_xent(z[0], z[1], axis_name=axis_name, tile_size=8)
ring = jax.shard_map(
    lambda z: loss(z, "data"), mesh=mesh, in_specs=P(None, "data"), out_specs=P()
)
for name, form in (("ring", ring), ("jit", loss)):
    whole = NamedSharding(mesh, P())
    value, grad = jax.jit(jax.value_and_grad(form), out_shardings=whole)(z)
    np.savez(f"{folder}/{name}{process}.npz", value=value, grad=grad)
"""


def test_two_processes_equal_one(tmp_path):
    """Four devices in two processes, blocks of z sent between them by gloo."""
    z = views(9, b=48)
    np.save(tmp_path / "z.npy", z)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=2"),
        "JAX_PLATFORMS": "cpu",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, str(i), str(tmp_path)],
            env=os.environ | flags,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], errors
    value, grad = float64(z.reshape(96, D), np.tile(np.arange(48), 2), 0.5)
    for form in ("ring", "jit"):
        for process in (0, 1):
            found = np.load(tmp_path / f"{form}{process}.npz")
            equal(found["value"], value)
            equal(found["grad"].reshape(96, D), grad)
