"""The recipes: what they do to marks whose way can be followed; views on 1 and 8 devices."""

import colorsys
import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

from jaxssl import augment
from jaxssl.augment import recipes

KEYS = jax.random.split(jax.random.key(11), 400)
STILL = {"brightness": 0.0, "kernel_max": 1}


def over_keys(view, image):
    return np.asarray(jax.jit(jax.vmap(view, in_axes=(0, None)))(KEYS, jnp.asarray(image)))


def transforms(view, side, background):
    """The affine map of each view, (row, column) from the centre, followed by three soft marks.

    Returns [400, 2, 3]: columns 0 and 1 are what a step down and to the right became, column 2
    where the centre went.
    """
    grid = np.arange(side) - (side - 1) / 2
    starts = np.array([(-3.0, -3.0), (4.0, -2.0), (-1.0, 5.0)])
    run = jax.jit(jax.vmap(view, in_axes=(0, None)))
    ends = []
    for row, column in starts:
        mark = np.exp(-((grid[:, None] - row) ** 2 + (grid[None] - column) ** 2) / (2 * 1.5**2))
        image = background + (1 - 2 * background) * mark[..., None]
        seen = np.abs(np.asarray(run(KEYS, image.astype(np.float32)))[..., 0] - background)
        weight = seen.sum((1, 2))
        ends.append([seen.sum(2) @ grid / weight, seen.sum(1) @ grid / weight])
    ends = np.array(ends).transpose(2, 1, 0)  # [400, 2, 3 marks]
    return ends @ np.linalg.inv(np.concatenate([starts.T, np.ones((1, 3))]))


def test_digits_turn_zoom_and_shift_a_little_and_never_flip():
    moved = transforms(partial(recipes.digits, **STILL), side=32, background=0)
    angle = np.degrees(np.arctan2(moved[:, 0, 1] - moved[:, 1, 0], moved[:, 0, 0] + moved[:, 1, 1]))
    determinant = np.linalg.det(moved[:, :, :2])
    assert np.abs(angle).max() < 15.5
    assert stats.kstest(angle, stats.uniform(-15, 30).cdf).pvalue > 1e-3
    assert (determinant > 0).all()  # no mirror image
    zoom = np.sqrt(determinant)
    assert stats.kstest(zoom, stats.uniform(0.85, 0.3).cdf).pvalue > 1e-3
    assert np.abs(moved[:, :, 2]).max() < 3.2 + 0.1
    assert np.abs(moved[:, :, 2]).max() > 2.9


def test_plankton_turns_to_any_angle_flips_half_and_crops_within_its_area():
    moved = transforms(partial(recipes.plankton, **STILL), side=48, background=1)
    linear = moved[:, :, :2]
    determinant = np.linalg.det(linear)
    mirrored = determinant < 0
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(KEYS))
    linear[mirrored, 1] *= -1
    u, s, vt = np.linalg.svd(linear)  # a rotation, then the crop's two enlargements
    turn = u @ vt
    angle = np.arctan2(turn[:, 0, 1], turn[:, 0, 0])
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    area = 1 / np.abs(determinant)
    assert 0.47 < area.min() < 0.55
    assert 0.95 < area.max() < 1.02
    assert (s[:, 0] / s[:, 1]).max() < 4 / 3 * 1.05
    # The centre of the image stays inside the view, with room around it.
    assert np.abs(moved[:, :, 2]).max() < 0.35 * 48


def test_plankton_fills_with_white_and_scales_it_with_the_image():
    white = np.ones((16, 16, 1), np.float32)
    # No seam: the fill takes the brightness of the image, one factor a view, clipped at white.
    factors = over_keys(recipes.plankton, white)
    assert np.ptp(factors, axis=(1, 2, 3)).max() < 2e-6
    assert 0.8 <= factors.min() < 0.83
    assert 0.4 < (factors[:, 0, 0, 0] > 1 - 1e-6).mean() < 0.6
    # Turned by about 45 degrees a black image has white corners, whatever the colours do.
    black = over_keys(partial(recipes.plankton, area=(1.0, 1.0)), np.zeros_like(white))
    assert black[:, :, :, 0].max((1, 2)).max() == 1.0
    assert (black[:, 0, 0, 0] > 0.79).mean() > 0.3
    assert black[:, 8, 8].max() < 0.21


@pytest.mark.parametrize("recipe", [recipes.plankton, recipes.digits])
def test_a_view_of_the_background_is_the_background(recipe):
    fill = 0.2, 0.5, 0.9
    still = {"hue": 0.0} if recipe is recipes.plankton else {}
    view = partial(recipe, fill=fill, brightness=0.0, **still)
    seen = over_keys(view, np.broadcast_to(np.float32(fill), (12, 12, 3)))
    np.testing.assert_allclose(seen, np.broadcast_to(fill, seen.shape), atol=2e-6)


def test_plankton_colours_a_coloured_organism():
    green = np.ones((8, 8, 3), np.float32)
    green[...] = 0.2, 0.8, 0.4
    centre = over_keys(recipes.plankton, green)[:, 4, 4]
    hue = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in centre.astype(float)])
    shift = (hue - 7 / 18 + 0.5) % 1.0 - 0.5
    assert np.abs(shift).max() < 0.301
    assert stats.kstest(shift, stats.uniform(-0.3, 0.6).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("side", "widest"), [(32, 7), (64, 11)])
def test_plankton_blur_is_held_to_a_quarter_of_the_side(side, widest):
    still = {"degrees": 0.0, "area": (1.0, 1.0), "aspect": (1.0, 1.0), "brightness": 0.0}
    image = np.ones((side, side, 1), np.float32)
    image[side // 2] = 0
    view = jax.jit(jax.vmap(partial(recipes.plankton, **still), in_axes=(0, None)))
    dark = np.asarray(view(KEYS[:40], image))[:, :, side // 2, 0] < 1 - 1e-5
    assert dark.sum(1).max() == widest


def test_options_at_rest_leave_the_image_up_to_the_flip():
    image = np.random.default_rng(1).random((16, 16, 3), dtype=np.float32)
    mirror = image[:, ::-1]
    at_rest = {
        partial(
            recipes.plankton, degrees=0.0, area=(1.0, 1.0), aspect=(1.0, 1.0), hue=0.0, **STILL
        ): (image, mirror),
        partial(recipes.digits, degrees=0.0, shift=0.0, zoom=(1.0, 1.0), **STILL): (image,),
        partial(recipes.cifar, area=(1.0, 1.0), aspect=(1.0, 1.0), strength=0.0, grey_p=0.0): (
            image,
            mirror,
        ),
    }
    for view, forms in at_rest.items():
        result = over_keys(view, image)
        same = np.stack([np.abs(result - form).max((1, 2, 3)) < 1e-5 for form in forms])
        assert (same.sum(0) == 1).all()
        assert (np.abs(same.mean(1) - 1 / len(forms)) < 0.1).all()


def test_cifar_jitters_and_greys_as_often_as_the_paper_says():
    image = np.random.default_rng(2).random((4, 4, 3), dtype=np.float32)
    result = over_keys(partial(recipes.cifar, area=(1.0, 1.0), aspect=(1.0, 1.0)), image)
    grey = (result == result[..., :1]).all((1, 2, 3))
    plain = np.zeros(len(KEYS), bool)
    for form in (image, image[:, ::-1]):
        plain |= np.abs(result - form).max((1, 2, 3)) < 1e-5
    for share, expected in ((grey.mean(), 0.2), (plain[~grey].mean(), 0.2)):
        assert abs(share - expected) < 4 * np.sqrt(0.16 / 300)


def test_cifar_blurs_on_demand():
    image = np.random.default_rng(3).random((40, 40, 1), dtype=np.float32)
    still = partial(recipes.cifar, area=(1.0, 1.0), aspect=(1.0, 1.0), strength=0.0, grey_p=0.0)
    rough = [
        np.abs(np.diff(v, axis=1)).mean() for v in over_keys(partial(still, blur_p=0.5), image)
    ]
    unblurred = np.isclose(rough, np.abs(np.diff(image, axis=1)).mean(), rtol=1e-4)
    assert 0.4 < unblurred.mean() < 0.62  # half, and the sigmas so small that nothing moves
    assert np.min(rough) < 0.5 * np.max(rough)


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(4).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)


def every_op(key, image):
    """All that the recipes are made of, compiled once a device count."""
    image = augment.random_flip(key, augment.random_resized_crop(key, image))
    image = recipes.plankton(key, augment.random_grey(key, image))
    return augment.random_gaussian_blur(key, image, kernel=3)


@pytest.fixture(scope="module")
def views_by_devices(batch):
    results = {}
    for n in (1, 8):
        mesh = jax.make_mesh((n,), ("data",), (AxisType.Auto,), devices=jax.devices()[:n])
        placed = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
        run = jax.jit(lambda key, images: augment.views(key, images, every_op))
        results[n] = run(jax.random.key(5), placed)
        assert len(results[n].sharding.device_set) == n
    return results


def test_views_do_not_depend_on_the_number_of_devices(views_by_devices):
    # The same keys; what is left is the rounding of sums that are compiled for other shapes.
    np.testing.assert_allclose(views_by_devices[8], views_by_devices[1], atol=2e-6)
    assert views_by_devices[8].sharding.spec[1] == "data"


def test_an_images_views_depend_on_its_place_alone(batch, views_by_devices):
    image = augment.to_float(jnp.asarray(batch[3]))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(5), 3))
    one = jax.jit(every_op)
    for number, key in enumerate(keys):
        np.testing.assert_allclose(views_by_devices[1][number, 3], one(key, image), atol=2e-5)


def reveal(key, image):
    """A view that shows what its key draws."""
    return jnp.broadcast_to(jax.random.uniform(key), image.shape)


def test_views_draw_from_their_images_key_split_by_their_number():
    key, images = jax.random.key(0), np.zeros((64, 1, 1, 1), np.uint8)
    for number in (1, 3):
        drawn = augment.views(key, images, reveal, number=number)
        assert drawn.shape == (number, 64, 1, 1, 1)
        assert len(np.unique(drawn)) == number * 64
        for i in (0, 63):
            keys = jax.random.split(jax.random.fold_in(key, i), number)
            expected = [float(jax.random.uniform(k)) for k in keys]
            np.testing.assert_array_equal(drawn[:, i, 0, 0, 0], np.float32(expected))
        np.testing.assert_array_equal(
            augment.views(key, images[:16], reveal, number=number), drawn[:, :16]
        )


def test_one_view_draws_from_its_images_own_key():
    key, images = jax.random.key(0), np.zeros((16, 1, 1, 1), np.uint8)
    drawn = augment.view(key, images, reveal)
    expected = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(16)]
    np.testing.assert_array_equal(drawn[:, 0, 0, 0], np.float32(expected))


def test_bytes_and_floats_are_the_same_images():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = augment.to_float(jnp.asarray(images))
    assert floats.dtype == jnp.float32
    np.testing.assert_allclose(floats, images / 255, atol=1e-7)
    half = floats.astype(jnp.bfloat16)
    assert augment.to_float(half).dtype == jnp.float32
    np.testing.assert_array_equal(augment.view(jax.random.key(0), images, None), floats)
    pair = augment.views(jax.random.key(0), images, lambda key, image: image)
    np.testing.assert_array_equal(pair, jnp.stack([floats, floats]))


def test_batches_that_are_none_are_named():
    key = jax.random.key(0)
    for make in (augment.view, augment.views):
        with pytest.raises(ValueError, match=r"\[b, h, w, c\], got \[4, 4, 1\]"):
            make(key, np.zeros((4, 4, 1), np.uint8), recipes.digits)
    with pytest.raises(ValueError, match=">= 1, got 0"):
        augment.views(key, np.zeros((1, 4, 4, 1), np.uint8), recipes.digits, number=0)
    with pytest.raises(ValueError, match="uint8 or float, got int32"):
        augment.to_float(np.zeros((1, 4, 4, 1), np.int32))


def dim(key, image):
    return image * jax.random.uniform(key)


@pytest.mark.parametrize("recipe", [recipes.digits, dim, None])
def test_images_on_explicit_axes_have_the_views_of_one_device_and_stay_spread(recipe):
    mesh = jax.make_mesh((8,), ("data",))  # of the default's axes
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
    spread = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    key = jax.random.key(0)

    def check(make, whole_key, spec):
        expected = make(key, images)
        for found in (make(whole_key, spread), jax.jit(make)(whole_key, spread)):
            np.testing.assert_allclose(found, expected, atol=1e-6)
            kind = NamedSharding(mesh, spec)
            assert found.sharding.is_equivalent_to(kind, found.ndim)

    for whole_key in (key, jax.device_put(key, NamedSharding(mesh, PartitionSpec()))):
        for meshed in (False, True):
            with jax.set_mesh(mesh) if meshed else contextlib.nullcontext():
                one = partial(augment.view, recipe=recipe)
                check(one, whole_key, PartitionSpec("data"))
                if recipe is not None:
                    three = partial(augment.views, recipe=recipe, number=3)
                    check(three, whole_key, PartitionSpec(None, "data"))
