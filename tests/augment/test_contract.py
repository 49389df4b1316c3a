"""What every operation keeps: style, shape, type, range, jit and vmap; bad input raises."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.augment import color, geometry, recipes

CROP = geometry.Window(1, 2, 6, 5)
OPS = {
    "warp": lambda key, x: geometry.warp(
        x, geometry.compose(geometry.rotation(0.4), geometry.crop(CROP, shape=(9, 8)))
    ),
    "random_rotation": geometry.random_rotation,
    "random_resized_crop": geometry.random_resized_crop,
    "random_flip": geometry.random_flip,
    "to_grey": lambda key, x: color.to_grey(x),
    "adjust_brightness": lambda key, x: color.adjust_brightness(x, 1.4),
    "adjust_contrast": lambda key, x: color.adjust_contrast(x, 1.4),
    "adjust_saturation": lambda key, x: color.adjust_saturation(x, 1.4),
    "adjust_hue": lambda key, x: color.adjust_hue(x, 0.3),
    "color_jitter": partial(
        color.color_jitter, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2
    ),
    "random_grey": color.random_grey,
    "gaussian_blur": lambda key, x: color.gaussian_blur(x, 0.9, kernel=5),
    "random_blur": color.random_blur,
    "random_gaussian_blur": partial(color.random_gaussian_blur, kernel=3),
    "plankton": recipes.plankton,
    "digits": recipes.digits,
    "cifar": partial(recipes.cifar, blur_p=0.5),
}


# The recipes under vmap are test_recipes' own matter.
@pytest.mark.parametrize("name", sorted(OPS.keys() - {"plankton", "digits", "cifar"}))
def test_an_op_keeps_shape_type_and_range_and_vmap_is_a_loop(name):
    op = OPS[name]
    keys = jax.random.split(jax.random.key(0), 3)
    images = np.random.default_rng(0).random((3, 9, 8, 3), dtype=np.float32)
    images[2] = images[2].round()  # saturated colours, and ties between channels
    batched = np.asarray(jax.jit(jax.vmap(op))(keys, images))
    one = jax.jit(op)  # the doctests run each as it comes
    for key, image, result in zip(keys, images, batched, strict=True):
        np.testing.assert_allclose(result, one(key, image), atol=2e-6)
    assert batched.shape == images.shape
    assert batched.dtype == np.float32
    assert batched.min() >= 0
    assert batched.max() <= 1


@pytest.mark.parametrize("name", OPS)
def test_one_channel_stays_one(name):
    image = jax.ShapeDtypeStruct((9, 8, 1), jnp.float32)
    result = jax.eval_shape(OPS[name], jax.random.key(0), image)
    assert (result.shape, result.dtype) == (image.shape, image.dtype)


@pytest.mark.parametrize("module", [geometry, color, recipes])
def test_style_key_first_then_the_image_options_by_keyword(module):
    public = {
        name: inspect.signature(function)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public
    for name, signature in public.items():
        positional = [
            p.name for p in signature.parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD
        ]
        options = [p for p in signature.parameters.values() if p.default is not p.empty]
        assert all(p.kind == p.KEYWORD_ONLY for p in options), name
        if "key" in positional:
            assert positional in (["key"], ["key", "image"], ["key", "images", "recipe"]), name
        if name.startswith("random_"):
            assert positional[0] == "key", name


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (np.zeros((4, 4, 1), np.uint8), r"uint8 \[4, 4, 1\]"),
        (np.zeros((4, 4), np.float32), r"\[4, 4\]"),
        (np.zeros((2, 4, 4, 1), np.float32), r"\[2, 4, 4, 1\]"),
        (np.zeros((4, 4, 2), np.float32), r"\[4, 4, 2\]"),
    ],
)
@pytest.mark.parametrize("name", OPS)
def test_what_is_not_an_image_is_named(name, image, named):
    with pytest.raises(ValueError, match=r"float32 \[h, w, 1 or 3\], got.*" + named):
        jax.eval_shape(lambda key: OPS[name](key, image), jax.random.key(0))


IMAGE = np.zeros((8, 8, 3), np.float32)


@pytest.mark.parametrize(
    ("op", "options", "named"),
    [
        (geometry.random_rotation, {"degrees": 181}, r"\[0, 180\], got 181"),
        (geometry.random_rotation, {"degrees": -1}, r"\[0, 180\], got -1"),
        (geometry.random_rotation, {"fill": (1.0, 0.0)}, r"3 channels, got fill=\(1.0, 0.0\)"),
        (geometry.random_rotation, {"fill": (1.0, 0.0, 1.5)}, r"\[0, 1\], got \(1.0, 0.0, 1.5\)"),
        (recipes.plankton, {"fill": -0.1}, r"\[0, 1\], got -0.1"),
        (geometry.random_flip, {"p": 1.5}, r"\[0, 1\], got 1.5"),
        (geometry.random_resized_crop, {"area": (0.0, 1.0)}, r"0 < least.*got \(0.0, 1.0\)"),
        (geometry.random_resized_crop, {"area": (0.5, 1.1)}, r"<= 1, got \(0.5, 1.1\)"),
        (geometry.random_resized_crop, {"aspect": (2.0, 1.0)}, r"least <= .*got \(2.0, 1.0\)"),
        (color.color_jitter, {"brightness": -0.1}, r">= 0 .*got \(-0.1, 0.0, 0.0\)"),
        (color.color_jitter, {"hue": 0.6}, r"hue in \[0, .5\], got .* and 0.6"),
        (color.random_grey, {"p": -0.1}, r"\[0, 1\], got -0.1"),
        (color.random_blur, {"kernel_max": 4}, "odd.*got 4 for an image of 8 x 8"),
        (color.random_blur, {"kernel_max": 17}, "2 \\* side - 1: got 17 for an image of 8 x 8"),
        (color.random_gaussian_blur, {"kernel": 0}, "from 1 .*got 0"),
        (color.random_gaussian_blur, {"kernel": 3, "sigma": (0.0, 2.0)}, r"0 < .*\(0.0, 2.0\)"),
        (color.random_gaussian_blur, {"kernel": 3, "p": 2}, r"\[0, 1\], got 2"),
        (recipes.plankton, {"kernel_max": 10}, "odd and >= 1, got 10"),
        (recipes.digits, {"degrees": 90}, r"\[0, 90\).*got 90"),
        (recipes.digits, {"shift": 0.6}, r"\[0, .5\].*got 0.6"),
        (recipes.digits, {"zoom": (0.0, 1.0)}, r"0 < least.*got \(0.0, 1.0\)"),
        (recipes.cifar, {"strength": 3}, "hue in"),
        (recipes.cifar, {"jitter_p": 1.1}, r"\[0, 1\], got 1.1"),
    ],
)
def test_an_option_out_of_range_is_named_with_its_rule(op, options, named):
    with pytest.raises(ValueError, match=named):
        jax.eval_shape(lambda key: op(key, jnp.asarray(IMAGE), **options), jax.random.key(0))
