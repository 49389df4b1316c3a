"""Geometry against scipy, Pillow, torch, exact moves, and torchvision's law as a plain loop."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from jaxssl.augment import geometry

RNG = np.random.default_rng
KEYS = jax.random.split(jax.random.key(7), 4000)
warp = jax.jit(geometry.warp, static_argnames=("size", "fill"))


def random_affine(rng):
    matrix = np.eye(3)
    matrix[:2, :2] = rng.normal(size=(2, 2))
    matrix[:2, 2] = 2 * rng.normal(size=2)
    return matrix.astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "size", "fill"), [((7, 10, 3), (9, 6), (0.2, 0.5, 1.0)), ((8, 5, 1), None, 0.3)]
)
def test_warp_equals_scipy(shape, size, fill):
    rng = RNG(0)
    image = rng.random(shape, dtype=np.float32)
    out = np.array(size or shape[:2])
    for matrix in (random_affine(rng) for _ in range(5)):
        linear = matrix[:2, :2].astype(float)
        offset = matrix[:2, 2] + (np.array(shape[:2]) - 1) / 2 - linear @ ((out - 1) / 2)
        expected = np.stack(
            [
                ndimage.affine_transform(
                    image[..., c].astype(float),
                    linear,
                    offset,
                    tuple(out),
                    order=1,
                    mode="grid-constant",
                    cval=np.broadcast_to(fill, shape[-1:])[c],
                )
                for c in range(shape[-1])
            ],
            axis=-1,
        )
        np.testing.assert_allclose(warp(image, matrix, size=size, fill=fill), expected, atol=3e-6)


def test_warp_equals_torch_grid_sample():
    torch = pytest.importorskip("torch", reason="the reference is torch.nn.functional.grid_sample")
    rng = RNG(1)
    image = rng.random((9, 9, 3), dtype=np.float32)
    for matrix in (random_affine(rng) for _ in range(5)):
        xy = matrix[[1, 0, 2]][:, [1, 0, 2]]  # torch counts columns first, in half sides
        theta = xy[:2] / np.array([1, 1, 4.5], np.float32)
        grid = torch.nn.functional.affine_grid(
            torch.tensor(theta[None]), [1, 3, 9, 9], align_corners=False
        )
        expected = torch.nn.functional.grid_sample(
            torch.tensor(image.transpose(2, 0, 1)[None]), grid, align_corners=False
        )[0].permute(1, 2, 0)
        np.testing.assert_allclose(warp(image, matrix, fill=0.0), expected, atol=3e-6)


def test_moves_on_the_grid_are_exact():
    image = RNG(2).random((6, 7, 3), dtype=np.float32)

    def moved(transform, **options):
        return np.asarray(warp(image, transform, **options))

    np.testing.assert_array_equal(moved(jnp.eye(3)), image)
    np.testing.assert_array_equal(moved(geometry.flip(False)), image)
    np.testing.assert_array_equal(moved(geometry.flip(True)), image[:, ::-1])
    down_right = np.full_like(image, 0.5)
    down_right[2:, 1:] = image[:-2, :-1]
    np.testing.assert_array_equal(moved(geometry.translation(2, 1), fill=0.5), down_right)
    cut = geometry.crop(geometry.Window(1, 2, 4, 3), shape=(6, 7), size=(4, 3))
    np.testing.assert_array_equal(moved(cut, size=(4, 3)), image[1:5, 2:5])
    doubled = moved(geometry.scaling(2, 2), size=(12, 14))[
        1:-1, 1:-1
    ]  # the border blends with fill
    expected = ndimage.zoom(image, (2, 2, 1), order=1, mode="nearest", grid_mode=True)[1:-1, 1:-1]
    np.testing.assert_allclose(doubled, expected, atol=1e-6)


def test_a_quarter_turn_is_counter_clockwise():
    image = RNG(3).random((6, 6, 1), dtype=np.float32)
    turned = warp(image, geometry.rotation(math.pi / 2))
    np.testing.assert_allclose(turned, np.rot90(image), atol=1e-5)


def test_a_chain_goes_from_left_to_right_and_back():
    image = RNG(4).random((8, 8, 1), dtype=np.float32)
    window = geometry.Window(2, 1, 3, 5)
    chain = geometry.compose(
        geometry.rotation(math.pi / 2),
        geometry.crop(window, shape=(8, 8), size=(3, 5)),
        geometry.flip(True),
    )
    expected = np.rot90(image)[2:5, 1:6][:, ::-1]
    np.testing.assert_allclose(warp(image, chain, size=(3, 5)), expected, atol=1e-5)

    there = geometry.compose(
        geometry.rotation(0.7), geometry.scaling(1.5, 0.5), geometry.translation(2, -3)
    )
    back = geometry.compose(
        geometry.translation(-2, 3), geometry.scaling(1 / 1.5, 1 / 0.5), geometry.rotation(-0.7)
    )
    np.testing.assert_allclose(geometry.compose(there, back), np.eye(3), atol=1e-5)


@pytest.mark.parametrize("size", [(12, 9), (4, 3)])  # enlarged, shrunk
def test_resized_crop_equals_pillow(size):
    image = RNG(5).random((10, 13, 3), dtype=np.float32)
    crop = jax.jit(
        jax.vmap(lambda key: geometry.random_resized_crop(key, image, area=(0.3, 1.0), size=size))
    )
    law = {"shape": (10, 13), "area": (0.3, 1.0), "aspect": (3 / 4, 4 / 3)}
    windows = jax.jit(jax.vmap(lambda key: geometry.random_window(key, **law)))(KEYS[:20])
    for result, top, left, h, w in zip(crop(KEYS[:20]), *map(np.asarray, windows), strict=True):
        box = (left, top, left + w, top + h)
        for c in range(3):
            expected = Image.fromarray(image[..., c]).resize(
                size[::-1], Image.Resampling.BILINEAR, box=box
            )
            np.testing.assert_allclose(result[..., c], expected, atol=2e-6)


def test_crop_matrix_resizes_like_pillow_inside_the_image():
    image = RNG(6).random((10, 12, 1), dtype=np.float32)
    window = geometry.Window(2.5, 3, 5, 6.5)
    result = warp(image, geometry.crop(window, shape=(10, 12), size=(11, 9)), size=(11, 9))
    expected = Image.fromarray(image[..., 0]).resize(
        (9, 11), Image.Resampling.BILINEAR, box=(3, 2.5, 9.5, 7.5)
    )
    np.testing.assert_allclose(result[..., 0], expected, atol=2e-6)


def torchvision_window(rng, h, w, area, aspect):
    """RandomResizedCrop.get_params as it is written: one draw at a time."""
    for _ in range(10):
        target = h * w * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        width, height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < width <= w and 0 < height <= h:
            return rng.integers(0, h - height + 1), rng.integers(0, w - width + 1), height, width
    if w / h < aspect[0]:
        width, height = w, round(w / aspect[0])
    elif w / h > aspect[1]:
        width, height = round(h * aspect[1]), h
    else:
        width, height = w, h
    return (h - height) // 2, (w - width) // 2, height, width


@pytest.mark.parametrize(
    ("shape", "area", "aspect"),
    [
        ((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)),  # SimCLR's
        ((10, 24), (0.3, 0.9), (0.5, 1.0)),  # many tries fail: the fallback takes part
    ],
)
def test_windows_follow_torchvisions_law(shape, area, aspect):
    draw = jax.vmap(lambda key: geometry.random_window(key, shape=shape, area=area, aspect=aspect))
    # float64: a ratio of float32 differs from the loop's own in the last digit, a tie for the test.
    ours = np.stack([np.asarray(v, float) for v in jax.jit(draw)(KEYS)], axis=1)
    rng = RNG(8)
    theirs = np.array([torchvision_window(rng, *shape, area, aspect) for _ in range(4000)])
    assert (ours == ours.round()).all()
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= shape).all()
    for of in (
        lambda top, left, h, w: top,
        lambda top, left, h, w: left,
        lambda top, left, h, w: h * w,
        lambda top, left, h, w: w / h,
        lambda top, left, h, w: (2 * top + h) * 100 + 2 * left + w,  # row and column together
    ):
        assert stats.ks_2samp(of(*ours.T), of(*theirs.T)).pvalue > 1e-3


def test_a_window_that_never_fits_is_the_largest_central_one():
    for shape, expected in (((8, 64), (0, 26, 8, 11)), ((64, 8), (26, 0, 11, 8))):
        law = {"shape": shape, "area": (1.0, 1.0), "aspect": (3 / 4, 4 / 3)}
        window = jax.jit(partial(geometry.random_window, **law))(jax.random.key(0))
        assert tuple(map(int, window)) == expected


def test_angles_are_uniform():
    angles = jax.jit(jax.vmap(lambda key: geometry.random_angle(key, degrees=30.0)))(KEYS)
    limit = math.pi / 6
    assert np.abs(angles).max() <= limit
    assert stats.kstest(angles, stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3


def test_random_rotation_turns_by_its_angle_and_fills_with_white():
    black = np.zeros((15, 15, 1), np.float32)
    rotated = jax.jit(jax.vmap(lambda key: geometry.random_rotation(key, black)))(KEYS[:50])
    angles = [float(geometry.random_angle(key, degrees=180.0)) for key in KEYS[:50]]
    for result, angle in zip(np.asarray(rotated), angles, strict=True):
        expected = ndimage.rotate(
            black[..., 0], math.degrees(angle), reshape=False, order=1, mode="grid-constant", cval=1
        )
        np.testing.assert_allclose(result[..., 0], expected, atol=1e-5)
    assert (rotated[:, 7, 7] == 0).all()
    assert (rotated[:, 0, 0] > 0.99).sum() > 25


def test_flip_has_its_probability():
    image = jnp.array([[[0.0], [1.0]]])
    for p, low, high in ((0.0, 0, 0), (1.0, 4000, 4000), (0.3, 1080, 1320)):  # 4 sigma = 116
        flipped = jax.jit(jax.vmap(lambda key, p=p: geometry.random_flip(key, image, p=p)))(KEYS)
        assert low <= (flipped[:, 0, 0, 0] == 1).sum() <= high
