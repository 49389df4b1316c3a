"""Colour against Pillow, colorsys, scipy and float64 NumPy; the random laws by what they do."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from jaxssl.augment import color

KEYS = jax.random.split(jax.random.key(3), 2000)
PICTURE = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
IMAGE = (PICTURE / 255).astype(np.float32)
LUMA = np.array([0.299, 0.587, 0.114])


def draws(op, image, **options):
    """op(key, image) for every key: [2000, h, w, c]."""
    run = jax.jit(jax.vmap(lambda key, image: op(key, image, **options), in_axes=(0, None)))
    return np.asarray(run(KEYS, jnp.asarray(image, jnp.float32)))


def uniform_on(values, low, high):
    return stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
@pytest.mark.parametrize(
    ("adjust", "enhancer", "partner"),
    [
        (color.adjust_brightness, ImageEnhance.Brightness, lambda x: 0.0),
        (color.adjust_contrast, ImageEnhance.Contrast, lambda x: (x @ LUMA).mean()),
        (color.adjust_saturation, ImageEnhance.Color, lambda x: (x @ LUMA)[..., None]),
    ],
)
def test_blends_equal_their_formula_and_pillow(adjust, enhancer, partner, factor):
    ours = np.asarray(adjust(jnp.asarray(IMAGE), factor))
    x = PICTURE / 255
    expected = np.clip(factor * x + (1 - factor) * partner(x), 0, 1)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    pillow = np.asarray(enhancer(Image.fromarray(PICTURE)).enhance(factor), np.float64)
    np.testing.assert_allclose(255 * ours, pillow, atol=1.5)  # Pillow rounds grey and result


def test_factor_one_is_the_image_bit_for_bit():
    for adjust in (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation):
        np.testing.assert_array_equal(adjust(jnp.asarray(IMAGE), 1.0), IMAGE)


def test_grey_equals_pillow_and_keeps_grey_and_white():
    ours = np.asarray(color.to_grey(jnp.asarray(IMAGE)))
    pillow = np.asarray(Image.fromarray(PICTURE).convert("L"), np.float64)
    np.testing.assert_allclose(255 * ours, np.repeat(pillow[..., None], 3, -1), atol=0.51)
    ramp = np.repeat(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16, 1), 3, -1)
    np.testing.assert_array_equal(color.to_grey(jnp.asarray(ramp)), ramp)
    np.testing.assert_array_equal(color.to_grey(jnp.asarray(IMAGE[..., :1])), IMAGE[..., :1])


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5, -0.2, 1.0])
def test_hue_equals_colorsys(shift):
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)), np.float32)
    pixels = np.concatenate([IMAGE.reshape(-1, 3), corners, 0.5 * corners + 0.2])
    expected = []
    for r, g, b in pixels.astype(float):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        expected.append(colorsys.hsv_to_rgb((h + shift) % 1.0, s, v))
    ours = color.adjust_hue(jnp.asarray(pixels[:, None]), shift)
    np.testing.assert_allclose(ours[:, 0], expected, atol=3e-6)


def test_one_channel_has_neither_hue_nor_saturation():
    grey = jnp.asarray(IMAGE[..., :1])
    np.testing.assert_array_equal(color.adjust_hue(grey, 0.3), grey)
    np.testing.assert_allclose(color.adjust_saturation(grey, 0.3), grey, atol=1e-7)
    jittered = color.color_jitter(jax.random.key(0), grey, saturation=0.9, hue=0.5)
    np.testing.assert_allclose(jittered, grey, atol=1e-7)
    np.testing.assert_array_equal(color.color_jitter(jax.random.key(0), IMAGE), IMAGE)


def test_jitter_is_the_single_operations_in_a_uniformly_random_order():
    image = np.random.default_rng(5).random((2, 2, 3), dtype=np.float32)
    strengths = {"brightness": 0.9, "contrast": 0.8, "saturation": 0.7, "hue": 0.5}
    # A key's own factors, from what one operation alone does to a picture where it shows.
    flat, pair, pure = np.full((1, 1, 3), 0.25), np.zeros((1, 2, 3)), np.zeros((1, 1, 3))
    pair[0, 0], pair[0, 1] = 0.4, 0.6
    pure[0, 0] = 0.5, 0.25, 0.25
    alone = {
        "brightness": draws(color.color_jitter, flat, brightness=0.9)[:, 0, 0, 0] / 0.25,
        "contrast": np.diff(draws(color.color_jitter, pair, contrast=0.8)[:, 0, :, 0])[:, 0] / 0.2,
        "saturation": -np.diff(draws(color.color_jitter, pure, saturation=0.7)[:, 0, 0, :2])[:, 0]
        / 0.25,
    }
    for name, factor in alone.items():
        assert uniform_on(factor, 1 - strengths[name], 1 + strengths[name]), name
    turned = draws(color.color_jitter, pure, hue=0.5)[:, 0, 0]
    hues = np.array([colorsys.rgb_to_hsv(*p)[0] for p in turned.astype(float)])
    alone["hue"] = (hues + 0.5) % 1.0 - 0.5
    assert uniform_on(alone["hue"], -0.5, 0.5)

    single = {name: jax.jit(jax.vmap(getattr(color, f"adjust_{name}"))) for name in strengths}
    ours = draws(color.color_jitter, image, **strengths)
    of_order = []
    for order in itertools.permutations(strengths):
        result = np.repeat(image[None], len(KEYS), 0)
        for name in order:
            result = single[name](result, alone[name].astype(np.float32))
        of_order.append(np.asarray(result))
    of_order = np.stack(of_order)  # [24, 2000, h, w, c]
    hit = np.abs(of_order - ours).max((2, 3, 4)) < 1e-4
    assert hit.any(0).all()
    # Where clipping is idle some orders agree; each is then hit with the probability of them all.
    alike = (np.abs(of_order[:, None] - of_order[None]).max((3, 4, 5)) < 1e-4).sum(1) / 24
    expected = alike.sum(1)
    assert (np.abs(hit.sum(1) - expected) < 4.5 * np.sqrt(expected)).all()


@pytest.mark.parametrize(
    ("name", "image", "factor"),
    [
        ("brightness", [[[0.2] * 3]], lambda x: x[:, 0, 0, 0] / 0.2),
        ("contrast", [[[0.45] * 3, [0.55] * 3]], lambda x: (x[:, 0, 1, 0] - x[:, 0, 0, 0]) / 0.1),
        ("saturation", [[[0.55, 0.45, 0.45]]], lambda x: (x[:, 0, 0, 0] - x[:, 0, 0, 1]) / 0.1),
    ],
)
def test_a_strength_above_one_draws_no_negative_factor(name, image, factor):
    assert uniform_on(factor(draws(color.color_jitter, image, **{name: 2.5})), 0.0, 3.5)


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_random_grey_has_its_probability(p):
    result = draws(color.random_grey, IMAGE[:2, :2], p=p)
    grey = (result == result[..., :1]).all((1, 2, 3))
    assert abs(grey.mean() - p) <= 4 * np.sqrt(p * (1 - p) / len(KEYS))
    np.testing.assert_array_equal(
        result[~grey], np.broadcast_to(IMAGE[:2, :2], (len(KEYS), 2, 2, 3))[~grey]
    )


def scipy_blur(image, kernel, sigma):
    taps = np.exp(-0.5 * ((np.arange(kernel) - kernel // 2) / sigma) ** 2)
    taps /= taps.sum()
    rows = ndimage.correlate1d(image.astype(float), taps, axis=0, mode="mirror")
    return ndimage.correlate1d(rows, taps, axis=1, mode="mirror")


@pytest.mark.parametrize(("kernel", "sigma"), [(1, 1.0), (5, 2.0), (19, 9.0)])
def test_blur_equals_scipy(kernel, sigma):
    blur = jax.jit(color.gaussian_blur, static_argnames="kernel")
    ours = blur(jnp.asarray(IMAGE), sigma, kernel=kernel)
    np.testing.assert_allclose(ours, scipy_blur(IMAGE, kernel, sigma), atol=2e-6)


def test_random_blur_draws_odd_kernels_evenly_with_opencvs_sigma():
    image = IMAGE[:8, :7]
    ours = draws(color.random_blur, image, kernel_max=11)
    kernels = range(1, 12, 2)
    blurred = [scipy_blur(image, k, 0.3 * ((k - 1) * 0.5 - 1) + 0.8) for k in kernels]
    hit = np.stack([np.abs(ours - b).max((1, 2, 3)) < 2e-6 for b in blurred])
    assert (hit.sum(0) == 1).all()
    assert stats.chisquare(hit.sum(1)).pvalue > 1e-3


def test_gaussian_blur_has_its_probability_and_sigmas():
    dot = np.zeros((9, 9, 1), np.float32)
    dot[4, 4] = 1
    ours = draws(color.random_gaussian_blur, dot, kernel=3, p=0.4, sigma=(0.5, 2.0))
    blurred = ours[:, 4, 4, 0] < 1
    assert abs(blurred.mean() - 0.4) <= 4 * np.sqrt(0.4 * 0.6 / len(KEYS))
    np.testing.assert_array_equal(ours[~blurred], np.broadcast_to(dot, ours.shape)[~blurred])
    ratio = ours[blurred, 4, 5, 0] / ours[blurred, 4, 4, 0]
    assert uniform_on(np.sqrt(-0.5 / np.log(ratio.astype(float))), 0.5, 2.0)
