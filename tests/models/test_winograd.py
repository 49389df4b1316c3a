import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.models import convolution, windows, winograd

# Images, height, width, channels in and out, padding.
CASES = {
    "tiles that fit": (4, 8, 12, 5, 3, ((1, 1), (1, 1))),
    "tiles that reach beyond": (3, 7, 10, 4, 6, ((1, 1), (1, 1))),
    "without padding": (2, 9, 6, 3, 3, ((0, 0), (0, 0))),
    "another padding on every side": (2, 5, 6, 3, 4, ((0, 1), (2, 0))),
    "padded by more than the kernel's reach": (2, 3, 4, 3, 4, ((3, 4), (1, 0))),
    "a single place": (5, 3, 3, 4, 2, ((0, 0), (0, 0))),
}


def drawn(case, seed=0):
    images, height, width, channels, out, padding = case
    random = np.random.default_rng(seed)
    shape = [side + sum(pads) - 2 for side, pads in zip((height, width), padding, strict=True)]
    return (
        random.normal(size=(images, height, width, channels)),
        random.normal(size=(3, 3, channels, out)) / (9 * channels) ** 0.5,
        random.normal(size=(images, *shape, out)),
        padding,
    )


def by_loops(x, kernel, gradient, padding):
    """Return the result and both gradients, in float64."""
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = gradient.shape[1:3]
    y, of_x, of_kernel = np.zeros_like(gradient), np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(3):
        for j in range(3):
            seen = np.s_[:, i : i + height, j : j + width]
            y += padded[seen] @ kernel[i, j]
            of_x[seen] += gradient @ kernel[i, j].T
            of_kernel[i, j] = np.einsum("bhwc,bhwo->co", padded[seen], gradient)
    (above, _), (left, _) = padding
    return y, of_x[:, above : above + x.shape[1], left : left + x.shape[2]], of_kernel


def in_tiles(x, kernel, gradient, padding, tile):
    x, kernel, gradient = (jnp.asarray(v, jnp.float32) for v in (x, kernel, gradient))
    return (
        winograd.convolve(x, kernel, padding, tile),
        winograd.by_input(x, kernel, gradient, padding, tile),
        winograd.by_filter(x, gradient, padding, tile),
    )


@pytest.mark.parametrize("tile", winograd.POINTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("room", [2**10, 2**30], ids=["several groups of images", "one group"])
def test_equals_loops_in_float64(case, tile, room, monkeypatch):
    monkeypatch.setattr(winograd, "GROUP_BYTES", room)
    jax.clear_caches()  # what was traced with the other room
    found = in_tiles(*drawn(case), tile)
    for got, wanted in zip(found, by_loops(*drawn(case)), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, atol=2e-5 * wanted.std())


@pytest.mark.parametrize(("tile", "bound"), [(2, 1e-6), (4, 2e-6)])
def test_rounding_is_a_small_part_of_the_result(tile, bound):
    case = (8, 16, 16, 64, 64, ((1, 1), (1, 1)))
    for got, wanted in zip(in_tiles(*drawn(case), tile), by_loops(*drawn(case)), strict=True):
        assert np.sqrt(np.mean((got - wanted) ** 2)) < bound * wanted.std()
        assert abs(got - wanted).max() < 20 * bound * wanted.std()


@pytest.mark.parametrize("tile", winograd.POINTS)
def test_the_form_is_exact_but_for_rounding(tile):
    how = winograd.form(tile)
    random = np.random.default_rng(0)
    seen, kernel = random.normal(size=tile + 2), random.normal(size=3)
    made = how.to_result @ ((how.to_weights @ kernel) * (how.to_seen @ seen))
    np.testing.assert_allclose(made, np.correlate(seen, kernel), atol=1e-13)


AROUND = ((1, 1), (1, 1))


def tiles(images, side, channels, out, dtype=jnp.float32, side_of_kernel=3, stride=1):
    x = jax.ShapeDtypeStruct((images, side, side, channels), dtype)
    kernel = jax.ShapeDtypeStruct((side_of_kernel, side_of_kernel, channels, out), dtype)
    how = (stride, stride), AROUND
    return [winograd.best_tile(x, kernel, *how, by_filter=b) for b in (False, True)]


# As the rule chose on Zen 5 when its forms were measured one beside the other (BENCHMARKS.md): the
# quickest but for a few that are up to a quarter behind.
@pytest.mark.parametrize(
    ("cores", "case", "expected"),
    [
        (1, (8, 32, 128, 128), [2, 4]),
        (1, (8, 16, 256, 256), [4, 4]),
        (1, (8, 32, 64, 64), [2, 4]),
        (1, (256, 16, 32, 32), [0, 0]),
        (1, (256, 32, 16, 16), [0, 0]),
        (1, (8, 32, 3, 64), [0, 0]),
        # Tiles of 4 would reach beyond the map.
        (1, (32, 6, 256, 256), [2, 2]),
        (1, (16, 10, 128, 128), [2, 2]),
        (1, (64, 2, 512, 512), [2, 2]),
        (1, (128, 1, 512, 512), [0, 0]),
        # The kernel is what is transformed.
        (1, (8, 8, 512, 512), [2, 2]),
        (1, (4, 4, 512, 512), [0, 0]),
        # Two cores share products better than what is transformed.
        (2, (16, 32, 64, 64), [0, 4]),
        (2, (16, 16, 256, 256), [4, 4]),
        (2, (16, 4, 512, 512), [2, 2]),
        (2, (2, 16, 128, 128), [0, 0]),
        # Of eight only the fewest channels are of a measurement, and an older one.
        (8, (16, 32, 128, 128), [0, 4]),
        (8, (16, 32, 256, 256), [4, 4]),
        (1, (0, 8, 64, 64), [0, 0]),
        (1, (8, 8, 0, 64), [0, 0]),
    ],
)
def test_the_tile_is_what_was_measured_to_be_quick(cores, case, expected, monkeypatch):
    monkeypatch.setattr("jaxssl.lowering.cores", lambda: cores)
    assert tiles(*case) == expected


def test_there_is_no_tile_where_somebody_asks_for_precision_or_another_convolution(monkeypatch):
    monkeypatch.setattr("jaxssl.lowering.cores", lambda: 1)
    taken = 8, 16, 256, 256
    assert tiles(*taken, jnp.bfloat16) == [0, 0]
    assert tiles(*taken, side_of_kernel=5) == [0, 0]
    assert tiles(*taken, stride=2) == [0, 0]
    with jax.default_matmul_precision("highest"):
        assert tiles(*taken) == [0, 0]
    with jax.default_matmul_precision("default"):
        assert tiles(*taken) == [4, 4]


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_a_convolution_and_its_gradients_take_it_on_a_cpu(precision, monkeypatch):
    taken = []

    def noted(name, function):
        return lambda *options: taken.append(name) or function(*options)

    monkeypatch.setattr("jaxssl.lowering.cores", lambda: 1)
    names = ["convolve", "by_input", "by_filter"]
    for name in names:
        monkeypatch.setattr(winograd, name, noted(name, getattr(winograd, name)))
    case = drawn((4, 16, 16, 64, 64, ((1, 1), (1, 1))))
    x, kernel, gradient = (jnp.asarray(v, jnp.float32) for v in case[:3])
    with jax.default_matmul_precision(precision):
        # With a single device `convolve` is this; the tests have eight.
        y, pull = jax.vjp(lambda *of: convolution._convolve(*of, (1, 1), case[3]), x, kernel)
        found = y, *jax.jit(pull)(gradient)
    assert sorted(set(taken)) == (sorted(names) if precision == "default" else [])
    for got, exact in zip(found, by_loops(*case), strict=True):
        np.testing.assert_allclose(got, exact, atol=2e-5 * exact.std())


def test_it_is_mapped_over_by_vmap():
    x, kernel, _, padding = drawn((3, 8, 8, 4, 4, ((1, 1), (1, 1))))
    x, kernel = (jnp.asarray(v, jnp.float32) for v in (x, kernel))
    many = jnp.stack([x, 2 * x, -x])
    mapped = jax.vmap(lambda x: winograd.convolve(x, kernel, padding, 4))(many)
    alone = jnp.stack([winograd.convolve(x, kernel, padding, 4) for x in many])
    np.testing.assert_allclose(mapped, alone, atol=2e-5)


@pytest.mark.parametrize(("count", "room", "images"), [(64, 20, 16), (97, 20, 97), (97, 3, 1)])
def test_images_go_in_equal_groups_near_to_what_has_room(count, room, images):
    assert windows.images_at_a_time(count, room) == images


@pytest.mark.parametrize("count", [1, 6, 96])
def test_a_group_without_room_is_one_image(count):
    assert windows.images_at_a_time(count, room=1e-3) == 1
