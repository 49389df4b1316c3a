"""The two forms of `warp` against each other, scipy, a closed form, and what each platform gets."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxssl import augment
from jaxssl.augment import geometry, resample

RNG = np.random.default_rng
ANGLES = np.float32([0.1, 0.7, math.pi / 4, 1.2, 2.0, 2.9, -0.4, -1.4, -2.5])
SIDE = 48
CROP = geometry.Window(5, 9, 36, 33)


def both_forms(image, matrices, fill=1.0, size=None):
    """[2, n, *size, c]: by gather and in two passes, for each transform."""
    how = {"fill": jnp.asarray(fill, jnp.float32), "size": size or image.shape[:2]}
    forms = [partial(form, **how) for form in (resample.by_gather, resample.in_two_passes)]
    run = jax.jit(jax.vmap(lambda matrix: jnp.stack([form(image, matrix) for form in forms])))
    return np.asarray(run(jnp.stack(matrices))).swapaxes(0, 1)


def blobs(transform=None, sigma=3.0):
    """A soft picture on white as a closed form of the position, read through a transform."""
    grid = np.arange(SIDE) - (SIDE - 1) / 2
    position = np.stack([*np.meshgrid(grid, grid, indexing="ij"), np.ones((SIDE, SIDE))])
    matrix = np.eye(3) if transform is None else np.asarray(transform, float)
    y, x, _ = np.einsum("ij,jrc->irc", matrix, position)
    picture = np.ones((SIDE, SIDE, 3))
    for row, column, *depth in RNG(1).uniform(
        (-13, -13, 0.1, 0.1, 0.1), (13, 13, 0.7, 0.7, 0.7), (6, 5)
    ):
        spot = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
        picture -= np.array(depth) * spot[..., None] / 2
    return picture.astype(np.float32)


@pytest.fixture(scope="module")
def turned():
    """The soft picture turned, cropped and mirrored, in both forms, and as it should be."""
    chains = [
        geometry.compose(
            geometry.rotation(angle),
            geometry.crop(CROP, shape=(SIDE, SIDE)),
            geometry.flip(angle < 1),
        )
        for angle in ANGLES
    ]
    return both_forms(blobs(), chains), np.stack([blobs(chain) for chain in chains]), chains


def test_turned_smooth_images_differ_by_less_than_a_thousandth(turned):
    (gathered, passes), _, _ = turned
    assert np.abs(gathered - passes).mean() < 7e-4
    assert np.abs(gathered - passes).max() < 0.04


def test_both_forms_are_about_as_near_to_the_closed_form(turned):
    (gathered, passes), truth, _ = turned
    assert np.abs(passes - truth).mean() < 1.3 * np.abs(gathered - truth).mean()
    assert np.abs(passes - truth).max() < 0.05


def test_turned_images_equal_scipys(turned):
    (_, passes), _, chains = turned
    for result, chain in zip(passes, np.asarray(chains, float), strict=True):
        linear, centre = chain[:2, :2], np.full(2, (SIDE - 1) / 2)
        for c in range(3):
            expected = ndimage.affine_transform(
                blobs()[..., c].astype(float),
                linear,
                chain[:2, 2] + centre - linear @ centre,
                order=1,
                mode="grid-constant",
                cval=1.0,
            )
            assert np.abs(result[..., c] - expected).mean() < 1.2e-3


@pytest.mark.parametrize(
    ("shape", "size", "fill"),
    [((9, 9, 3), (9, 9), (0.2, 0.5, 1.0)), ((7, 10, 1), (8, 6), 0.3), ((10, 7, 3), (5, 11), 1.0)],
)
def test_what_turns_by_quarters_is_equal_whatever_the_image(shape, size, fill):
    image = RNG(0).random(shape, dtype=np.float32)
    window = geometry.Window(1.5, 2, 5, 4.5)
    moves = [
        jnp.eye(3),
        geometry.flip(True),
        geometry.translation(1.5, -2.25),
        geometry.translation(30, 0),  # nothing left
        geometry.scaling(2.0, 0.7),
        geometry.crop(window, shape=shape[:2], size=size),
        *(geometry.rotation(turns * math.pi / 2) for turns in (1, 2, 3)),
        geometry.compose(geometry.rotation(math.pi / 2), geometry.crop(window, shape=shape[:2])),
        jnp.zeros((3, 3)).at[2, 2].set(1.0),  # the centre everywhere
        jnp.float32([[0, 1, 0.5], [0, 0.5, 1], [0, 0, 1]]),  # one row everywhere
    ]
    gathered, passes = both_forms(image, moves, fill, size)
    np.testing.assert_allclose(passes, gathered, atol=1e-5)


def test_corners_are_the_fill_to_the_last_bit():
    image = RNG(2).random((SIDE, SIDE, 3), dtype=np.float32)
    for fill in (1.0, 0.0):
        gathered, passes = both_forms(image, [geometry.rotation(math.pi / 4)], fill)
        outside = (gathered == fill).all(-1)
        assert outside.mean() > 0.14
        corner = np.abs(np.add.outer(*[np.abs(np.arange(SIDE) - (SIDE - 1) / 2)] * 2)) > 36
        assert (passes[corner[None]] == fill).all()
    white = np.ones((SIDE, SIDE, 1), np.float32)
    assert (both_forms(white, [geometry.rotation(a) for a in ANGLES])[1] == 1).all()


def test_gradients_are_finite_and_the_images_is_the_transpose():
    image = RNG(3).random((7, 6, 1), dtype=np.float32)
    read = jax.jit(lambda x, m: resample.in_two_passes(x, m, jnp.float32(0), size=(5, 8)))
    pull = jax.jit(lambda x, m, g: jax.vjp(read, x, m)[1](g))
    cotangent = RNG(4).random((5, 8, 1), dtype=np.float32)
    for angle in (0.0, 0.5, math.pi / 4, math.pi / 2):
        matrix = geometry.rotation(angle)
        of_image, of_matrix = pull(image, matrix, cotangent)
        assert np.isfinite(of_matrix).all()
        # With a fill of 0 the result is linear in the image: <g, A x> = <Aᵀ g, x>.
        np.testing.assert_allclose(
            np.vdot(of_image, image), np.vdot(cotangent, read(image, matrix)), rtol=1e-5
        )
    singular = jnp.zeros((3, 3)).at[2, 2].set(1.0)
    assert all(np.isfinite(g).all() for g in pull(image, singular, cotangent))


RECIPES = {
    "plankton": augment.plankton,
    "digits": augment.digits,
    "cifar": partial(augment.cifar, blur_p=0.5),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_platform_gets_its_form_alone(name):
    """As it is lowered for a TPU and for a CPU from here, whatever this machine has."""
    b, side = 4, 20
    images = jax.ShapeDtypeStruct((b, side, side, 3), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = jax.jit(lambda key, x: augment.views(key, x, RECIPES[name])).trace(key, images)

    def pixels_gathered(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        gathers = re.findall(r'"stablehlo.gather"\(.*-> tensor<([\dx]+)x\w+>', text)
        assert len(gathers) == text.count('"stablehlo.gather"(')
        # The order of a jitter is looked up by an index: a few numbers a view, no pixels.
        return [dims for dims in gathers if math.prod(map(int, dims.split("x"))) > 2 * b * 4], text

    gathers, text = pixels_gathered("tpu")
    assert not gathers
    assert (f"{side}x{side}x{side}xf32" in text) == (name != "cifar")  # the passes' weights
    gathers, text = pixels_gathered("cpu")
    assert len(gathers) == (name != "cifar")
    assert f"{side}x{side}x{side}xf32" not in text
