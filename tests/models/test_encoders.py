import functools
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models import ENCODERS, RowEncoder, make_encoder
from jaxssl.models.encoders import DEFAULTS


def shapes(name, image_size, channels=1, **options):
    """An encoder of which nothing is computed."""
    return nnx.eval_shape(
        lambda: make_encoder(
            name, image_size=image_size, channels=channels, rngs=nnx.Rngs(0), **options
        )
    )


@functools.cache
def short(name):
    """Seconds to trace, for some: two tests look at the same one."""
    return shapes(name, 65, dtype=jnp.bfloat16)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_keeps_the_contract(name):
    encoder = short(name)
    graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}

    def run(params, rest, images):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return model(images), nnx.state(model, nnx.BatchStat)

    images = jax.ShapeDtypeStruct((2, 65, 65, 1), jnp.float32)
    h, statistics = jax.eval_shape(run, params, rest, images)
    assert (h.shape, h.dtype) == ((2, encoder.features), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} <= {jnp.dtype(jnp.float32)}


def parameters(module) -> list[int]:
    return [id(variable) for _, variable in nnx.to_flat_state(nnx.state(module, nnx.Param))]


@pytest.mark.parametrize("name", ENCODERS)
def test_the_blocks_hold_every_parameter_once(name):
    encoder = short(name)
    blocks = encoder.blocks_list()
    assert len({block for block, _ in blocks}) == len(blocks) > 1
    held = [i for _, parts in blocks for part in parts for i in parameters(part)]
    assert sorted(held) == sorted(parameters(encoder))


@pytest.mark.parametrize("name", ENCODERS)
def test_too_small_an_image_is_one_clear_line(name):
    least = ENCODERS[name].min_size
    with pytest.raises(InputError, match=f"image size {least - 1} is under the {least} pixels"):
        shapes(name, least - 1)
    assert shapes(name, least).min_size == least


def test_names_make_the_networks_they_say():
    assert [shapes(name, 64).features for name in ("convnet", "resnet18", "resnet50")] == [
        *(256, 512, 2048)
    ]
    conventions = {"plankton_v2_s": "torchvision", "tf_plankton_v2_s": "tensorflow"}
    for name, convention in conventions.items():
        assert shapes(name, 64).trunk.convention == convention
    with pytest.raises(InputError, match="'vgg' does not exist: choose one of convnet, resnet18, "):
        shapes("vgg", 32)


def test_resnets_take_the_stem_that_fits_the_image():
    assert [shapes("resnet18", size).stem for size in (64, 65)] == ["cifar", "imagenet"]


def test_an_option_goes_to_the_encoders_that_have_it():
    assert [shapes("resnet18", 32, width=width).features for width in (16, 64)] == [128, 512]
    assert shapes("plankton_v2_s", 32, negative_slope=0.01).negative_slope == 0.01
    assert shapes("convnet", 32, **DEFAULTS).features == 256  # a program's flags, all at default
    with pytest.raises(InputError, match="width 0 of a ResNet: at least 1"):
        shapes("resnet18", 32, width=0)
    for options, message in (
        ({"width": 16}, "width 16: convnet has no such option, only resnet18, resnet50"),
        ({"negative_slope": 0.01}, r"negative slope 0\.01: convnet .* only plankton_v2_s, tf_"),
    ):
        with pytest.raises(InputError, match=message):
            shapes("convnet", 32, **options)
    with pytest.raises(TypeError, match="height is no option of an encoder: one of width, "):
        shapes("convnet", 32, height=3)


@pytest.mark.parametrize("name", ["convnet", "resnet18", "efficientnet_lite0", "dinov2_s", "rows"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (2, 32, 32, 1), (2, 2, 32, 32, 3)])
def test_what_are_no_images_of_the_encoder_is_named(name, shape):
    if name == "rows":
        encoder = RowEncoder("rnn", hidden=4, image_size=32, channels=3, rngs=nnx.Rngs(0))
    else:
        encoder = shapes(name, 32, 3)
    graphdef, state = nnx.split(encoder)
    with pytest.raises(ValueError, match=rf"must be \[b, h, w, c\].*{re.escape(str([*shape]))}"):
        jax.eval_shape(
            lambda state, x: nnx.merge(graphdef, state, copy=True)(x),
            state,
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )
