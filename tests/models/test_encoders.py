import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models import ENCODERS, make_encoder


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(("size", "channels"), [(32, 1), (65, 3)])
def test_every_encoder_keeps_the_contract(name, size, channels):
    def make():
        return make_encoder(name, image_size=size, channels=channels, rngs=nnx.Rngs(0))

    encoder = nnx.eval_shape(make)
    assert encoder.min_size <= 32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(encoder, nnx.Param))} == {
        jnp.dtype(jnp.float32)
    }
    graphdef, state = nnx.split(encoder)
    for dtype in (jnp.float32, jnp.bfloat16):
        h = jax.eval_shape(
            lambda state, x: nnx.merge(graphdef, state)(x),
            state,
            jax.ShapeDtypeStruct((2, size, size, channels), dtype),
        )
        assert (h.shape, h.dtype) == ((2, encoder.features), jnp.float32)


def test_names_make_the_networks_they_say():
    expected = {
        "convnet": "ConvNet",
        "resnet18": "ResNet",
        "resnet50": "ResNet",
        "efficientnet_v2_s": "PlanktonBackbone",
        "tf_efficientnetv2_s": "PlanktonBackbone",
    }
    sizes = {"convnet": 256, "resnet18": 512, "resnet50": 2048}
    conventions = {"efficientnet_v2_s": "torchvision", "tf_efficientnetv2_s": "tensorflow"}
    for name in ENCODERS:
        made = nnx.eval_shape(
            lambda n=name: make_encoder(n, image_size=64, channels=3, rngs=nnx.Rngs(0))
        )
        assert type(made).__name__ == expected[name]
        assert made.features == sizes.get(name, 128)
        if name in conventions:
            assert made.trunk.convention == conventions[name]


def test_resnets_take_the_stem_that_fits_the_image():
    stems = [
        nnx.eval_shape(
            lambda s=s: make_encoder("resnet18", image_size=s, channels=3, rngs=nnx.Rngs(0))
        ).stem
        for s in (64, 65)
    ]
    assert stems == ["cifar", "imagenet"]


def test_unknown_name_is_one_clear_line():
    with pytest.raises(InputError, match="'vgg' does not exist: choose one of convnet, resnet18, "):
        make_encoder("vgg", image_size=32, channels=3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("name", "size", "least"),
    [("convnet", 15, 16), ("resnet18", 7, 8), ("efficientnet_v2_s", 8, 9)],
)
def test_too_small_an_image_is_one_clear_line(name, size, least):
    def make(size):
        return nnx.eval_shape(
            lambda: make_encoder(name, image_size=size, channels=1, rngs=nnx.Rngs(0))
        )

    with pytest.raises(InputError, match=f"image size {size} is under the {least} pixels"):
        make(size)
    assert make(least).min_size == least
