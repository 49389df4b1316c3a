import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl import lowering
from jaxssl.models import ConvNet, convolution, depthwise, linear, make_encoder, onednn
from jaxssl.training import devices
from jaxssl.training.hlo import communication

pytestmark = pytest.mark.usefixtures("onednn")

CASES = {
    # x, kernel, strides, padding, dilation
    "3x3": ((2, 7, 6, 5), (3, 3, 5, 4), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "strides of their own": ((2, 9, 8, 5), (3, 2, 5, 4), (2, 1), ((1, 0), (0, 2)), (1, 1)),
    "dilated": ((1, 9, 8, 3), (3, 2, 3, 4), (1, 1), ((1, 2), (0, 1)), (2, 3)),
    "by channel": ((2, 7, 6, 17), (3, 3, 1, 17), (1, 2), ((1, 1), (0, 1)), (1, 1)),
    "in groups": ((2, 7, 6, 8), (3, 3, 4, 6), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "a stem of 7x7": ((2, 20, 21, 3), (7, 7, 3, 33), (2, 2), ((3, 3), (3, 3)), (1, 1)),
    "cut off": ((2, 9, 8, 5), (3, 3, 5, 4), (1, 1), ((-1, 1), (2, -2)), (1, 1)),
    "one place": ((3, 4, 5, 70), (1, 1, 70, 19), (1, 1), ((0, 0), (0, 0)), (1, 1)),
}


def drawn(*shapes):
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def by_loops(x, kernel, strides, padding, dilation):
    """Convolve in float64, place by place."""
    (above, below), (left, right) = padding
    x = x[:, max(-above, 0) : min(below, 0) or None, max(-left, 0) : min(right, 0) or None]
    added = [[max(side, 0) for side in pads] for pads in padding]
    x = np.pad(x.astype(np.float64), ((0, 0), *added, (0, 0)))
    groups = x.shape[3] // kernel.shape[2]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:3], reach, strides, strict=True)]
    y = np.zeros((len(x), *sizes, kernel.shape[3]))
    some, out = kernel.shape[2], kernel.shape[3] // groups
    for row, column in np.ndindex(*sizes):
        top, left = row * strides[0], column * strides[1]
        seen = x[:, top : top + reach[0] : dilation[0], left : left + reach[1] : dilation[1]]
        for g in range(groups):
            part = slice(g * out, (g + 1) * out)
            y[:, row, column, part] = np.einsum(
                "bijc,ijco->bo", seen[..., g * some : (g + 1) * some], kernel[..., part]
            )
    return y


@pytest.mark.parametrize("layout", ["HWIO", "HWOI", "IHWO"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_loops_in_float64(case, layout):
    shape, kernel, *how = case
    x, kernel = drawn(shape, kernel)
    expected = by_loops(x, kernel, *how)
    kernel = kernel.transpose(["HWIO".index(axis) for axis in layout]).copy()
    found = jax.jit(lambda x, kernel: onednn.convolve(x, kernel, *how, layout))(x, kernel)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())


@pytest.mark.parametrize(
    ("sides", "strides", "padding"),
    [
        ((3, 3), (1, 1), ((1, 1), (1, 1))),
        ((7, 7), (2, 2), ((3, 3), (3, 3))),
        ((5, 2), (3, 1), ((0, 4), (1, 0))),
        ((2, 3), (2, 4), ((0, 0), (0, 0))),  # the last row and columns meet no window
        ((3, 2), (1, 2), ((-1, 1), (2, -2))),
    ],
    ids=["3x3", "a stem", "sides of their own", "not to the end", "cut off"],
)
def test_by_filter_equals_loops_in_float64(sides, strides, padding):
    (x,) = drawn((4, 10, 12, 3))
    places = onednn.convolve(x, np.ones((*sides, 3, 5), np.float32), strides, padding).shape
    gradient = np.random.default_rng(1).normal(size=places).astype(np.float32)
    found = jax.jit(lambda x, g: onednn.by_filter(x, g, sides, strides, padding))(x, gradient)
    expected = np.zeros((*sides, 3, 5))
    for row, column, i, j in np.ndindex(*places[1:3], *sides):
        at = row * strides[0] + i - padding[0][0], column * strides[1] + j - padding[1][0]
        ends = [side + min(pads[1], 0) for side, pads in zip((10, 12), padding, strict=True)]
        starts = [max(-pads[0], 0) for pads in padding]
        if all(start <= p < end for start, p, end in zip(starts, at, ends, strict=True)):
            seen, came = x[:, *at].astype(np.float64), gradient[:, row, column].astype(np.float64)
            expected[i, j] += seen.T @ came
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_multiplies_matrices_turned_or_not(turned):
    left, right = drawn((60, 17), (17, 33))
    expected = left.astype(np.float64) @ right
    left, right = (v.T.copy() if turn else v for v, turn in zip((left, right), turned, strict=True))

    def penalty(form):
        return jax.grad(lambda a, b: jnp.sum(form(a, b) ** 3), (0, 1))(left, right)

    def ours(a, b):
        return onednn.product(a, b, *turned)

    np.testing.assert_allclose(jax.jit(ours)(left, right), expected, atol=1e-5 * expected.std())
    plain = penalty(lambda a, b: (a.T if turned[0] else a) @ (b.T if turned[1] else b))
    for found, wanted in zip(penalty(ours), plain, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * jnp.std(wanted))


@pytest.mark.parametrize(
    ("form", "xla", "kernel", "strides"),
    [
        (convolution._convolve, convolution._xla, (3, 3, 4, 4), (1, 1)),
        (convolution._convolve, convolution._xla, (3, 3, 4, 4), (2, 2)),
        (convolution._convolve, convolution._xla, (1, 1, 4, 4), (1, 1)),
        (depthwise._convolve, depthwise._xla, (3, 3, 1, 4), (1, 1)),
    ],
    ids=["3x3", "of stride 2", "1x1", "by channel"],
)
def test_a_gradient_can_be_differentiated(form, xla, kernel, strides):
    x, kernel = drawn((2, 6, 5, 4), kernel)
    how = strides, ((0, 0), (0, 0))

    def penalty(form):  # on the size of both gradients
        def loss(x, kernel):
            return jnp.sum(form(x, kernel, *how) ** 3)

        def size(x, kernel):
            return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, kernel))

        return jax.jit(jax.grad(size, (0, 1)))(x, kernel)

    for found, expected in zip(penalty(form), penalty(xla), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5 * jnp.std(expected))


def test_it_is_mapped_over_by_vmap():
    x, kernel = drawn((3, 2, 6, 5, 4), (3, 3, 4, 4))
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    how = (1, 1), ((1, 1), (1, 1))

    def gradient(form):
        def loss(x, kernel):
            return jnp.sum(form(x, kernel, *how) ** 2)

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(x, kernels)

    both = gradient(convolution._convolve), gradient(convolution._xla)
    for found, expected in zip(*both, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "call"),
    [
        ("convnet", 32, "convolution"),
        ("efficientnet_lite0", 32, "convolution"),
        ("dinov2_s", 28, "matmul"),
    ],
)
def test_an_encoder_computes_by_it_and_learns_the_same(name, side, call, monkeypatch):
    (images,) = drawn((4, side, side, 3))
    encoder = make_encoder(name, image_size=side, channels=3, rngs=nnx.Rngs(0))
    encoder.eval()
    graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)

    def found(devices):
        monkeypatch.setattr(jax, "device_count", lambda: devices)

        def loss(params):
            return jnp.mean(nnx.merge(graphdef, params, rest, copy=True)(images) ** 3)

        lowered = jax.jit(jax.value_and_grad(loss)).lower(params)
        return lowered.as_text(), *lowered.compile()(params)

    (text, value, gradient), (other_text, expected, of_xla) = found(1), found(8)
    assert f"__onednn${call}" in text
    assert call == "matmul" or "stablehlo.convolution" not in text
    assert "onednn" not in other_text
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # As one vector: attention's key bias has no gradient but rounding's.
    got, wanted = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (gradient, of_xla)
    )
    assert np.linalg.norm(got - wanted) < 1e-5 * np.linalg.norm(wanted)


SPREAD = {
    "few channels": ((8, 9, 9, 5), (3, 3, 5, 6), convolution.convolve),
    "strides": ((16, 9, 9, 5), (3, 3, 5, 6), convolution.convolve),
    "in tiles": ((8, 32, 32, 208), (3, 3, 208, 192), convolution.convolve),
    "by channel": ((8, 9, 9, 6), (3, 3, 1, 6), depthwise.convolve_depthwise),
    "rows times a kernel": ((8, 3, 5), (5, 7), None),
}


@pytest.mark.parametrize("name", SPREAD)
def test_several_cpus_convolve_each_their_own_images(name):
    x_shape, kernel_shape, form = SPREAD[name]
    x, kernel = drawn(x_shape, kernel_shape)
    strides = (2, 2) if name == "strides" else (1, 1)

    def value(x, kernel):
        if form is None:
            return jnp.sum(
                jnp.sin(linear.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ()))))
            )
        return jnp.sum(jnp.sin(form(x, kernel, strides, "SAME")))

    def on(count):
        placement = devices.placement_over(jax.devices()[:count], len(x))
        whole = placement.replicated
        lowered = jax.jit(
            lowering.made_for(placement.mesh)(jax.value_and_grad(value, (0, 1))),
            in_shardings=(placement.sharded, whole),
            out_shardings=(whole, (placement.sharded, whole)),
        ).lower(x, kernel)
        return lowered.as_text(), lowered.compile()

    (one_text, one), (text, program) = on(1), on(8)
    assert "__onednn" in text
    for call in ("convolution", "matmul"):
        assert (f"__onednn${call}" in text) == (f"__onednn${call}" in one_text)
    assert ("__onednn$convolution" in text) == (form is not None and name != "in tiles")
    assert "stablehlo.convolution" not in text
    moved = communication(program.as_text(), strict=True)
    assert set(moved) == {"all-reduce"}, "images stay where they are"
    for got, wanted in zip(
        jax.tree.leaves(program(x, kernel)), jax.tree.leaves(one(x, kernel)), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("rows", "kind"), [(6, jax.sharding.AxisType.Auto), (8, jax.sharding.AxisType.Explicit)]
)
def test_rows_that_do_not_divide_or_are_shared_out_by_hand_are_left_to_xla(rows, kind):
    x, kernel = drawn((rows, 9, 9, 5), (3, 3, 5, 6))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    convolve = lowering.made_for(mesh)(
        lambda x, kernel: convolution.convolve(x, kernel, (1, 1), "SAME")
    )
    lowered = jax.jit(convolve).lower(x, kernel)
    assert "onednn" not in lowered.as_text()
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(lowered.compile()(x, kernel), expected, rtol=1e-4, atol=1e-4)


def test_a_map_is_written_once_for_the_next_convolution_and_its_gradient(build, monkeypatch):
    """XLA would compute BatchNorm and ReLU once more for a loop over parts of the map."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr("jaxssl.models.convolution.WINDOW_BYTES", 2**14)
    model = build(lambda: ConvNet(widths=(8, 16, 32), channels=3, rngs=nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    (images,) = drawn((8, 32, 32, 3))

    def loss(params):
        return jnp.mean(nnx.merge(graphdef, params, rest, copy=True)(images))

    program = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    assert " while(" in program
    _, entry = program.split("\nENTRY")
    written = [line for line in entry.splitlines() if re.search(r"relu\)/max\"", line)]
    assert len(written) == 2, written  # the last one's mean is all that is asked for


def test_windows_of_a_stem_are_made_of_a_few_images_at_a_time(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    x, kernel, gradient = drawn((256, 32, 32, 3), (3, 3, 3, 16), (256, 32, 32, 16))
    around = ((1, 1), (1, 1))

    def by_kernel(x, gradient):
        _, pull = jax.vjp(
            lambda kernel: convolution.convolve(x, kernel, (1, 1), around), jnp.asarray(kernel)
        )
        return pull(gradient)

    memory = jax.jit(by_kernel).lower(x, gradient).compile().memory_analysis()
    of_all = 4 * 256 * 32 * 32 * 27
    assert memory.temp_size_in_bytes < 0.3 * of_all


def test_only_float32_that_is_there_is_taken():
    one = jnp.ones((1, 2, 2, 1))
    assert onednn.takes(one, one)
    assert not onednn.takes(one, one.astype(jnp.bfloat16))
    assert not onednn.takes(one, one[:0])


def test_it_is_not_called_where_programs_are_kept_on_disk(tmp_path, monkeypatch):
    assert lowering.has_onednn()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert not lowering.has_onednn()
    jax.config.update("jax_enable_compilation_cache", False)
    assert lowering.has_onednn()
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("JAXSSL_ONEDNN", "0")
    assert not lowering.has_onednn()


def test_programs_are_kept_on_disk_where_it_is_not_called(tmp_path, monkeypatch):
    for setting, kept in (("1", False), ("0", True)):
        monkeypatch.setenv("JAXSSL_ONEDNN", setting)
        devices.keep_compiled(tmp_path)
        assert (jax.config.jax_compilation_cache_dir == str(tmp_path)) == kept


def test_another_jaxlib_is_tried_in_a_process_of_its_own(monkeypatch):
    try:
        for python, works in ((sys.executable, True), ("/bin/false", False)):
            lowering._carries_onednn.cache_clear()
            monkeypatch.setattr(lowering, "WITH_ONEDNN", ())
            monkeypatch.setattr(sys, "executable", python)
            assert lowering.has_onednn() == works

        def forever(command, *, timeout, **options):
            raise subprocess.TimeoutExpired(command, timeout)

        monkeypatch.setattr(subprocess, "run", forever)
        lowering._carries_onednn.cache_clear()
        assert not lowering.has_onednn()
    finally:
        lowering._carries_onednn.cache_clear()


def test_what_computes_otherwise_is_found(monkeypatch):
    onednn.check()
    right = onednn._xla
    monkeypatch.setattr(onednn, "_xla", lambda *of, how: 1 + right(*of, how=how))
    with pytest.raises(RuntimeError, match="otherwise than XLA"):
        onednn.check()


def test_an_encoder_is_exported_where_the_environment_does_without(build, onednn, monkeypatch):
    encoder = build(lambda: ConvNet(widths=(4, 8), channels=3, rngs=nnx.Rngs(0)))
    encoder.eval()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    images = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    spec = jax.ShapeDtypeStruct(images.shape, images.dtype)
    with pytest.raises(ValueError, match="Cannot serialize code with custom calls"):
        jax.export.export(jax.jit(lambda x: encoder(x)))(spec)
    monkeypatch.setenv("JAXSSL_ONEDNN", "0")
    exported = jax.export.export(jax.jit(lambda x: encoder(x)))(spec)
    np.testing.assert_allclose(exported.call(images), encoder(images), rtol=1e-4, atol=1e-5)
