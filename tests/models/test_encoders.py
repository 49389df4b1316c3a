import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models import ENCODERS, make_encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_keeps_the_contract(name):
    def make():
        return make_encoder(name, image_size=65, channels=1, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

    encoder = nnx.eval_shape(make)
    assert 1 < encoder.min_size <= 32
    graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}

    def run(params, rest, images):
        model = nnx.merge(graphdef, params, rest, copy=True)
        return model(images), nnx.state(model, nnx.BatchStat)

    images = jax.ShapeDtypeStruct((2, 65, 65, 1), jnp.float32)
    h, statistics = jax.eval_shape(run, params, rest, images)
    assert (h.shape, h.dtype) == ((2, encoder.features), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {jnp.dtype(jnp.float32)}


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


def test_the_width_is_that_of_the_resnets():
    def make(name, width):
        return nnx.eval_shape(
            lambda: make_encoder(name, image_size=32, channels=3, width=width, rngs=nnx.Rngs(0))
        )

    assert [make("resnet18", width).features for width in (16, 64)] == [128, 512]
    assert make("resnet50", 16).features == 512
    for name, width, message in (
        ("resnet18", 0, "width 0: at least 1"),
        ("convnet", 16, "width 16: .* an option of the ResNets, not of convnet"),
    ):
        with pytest.raises(InputError, match=message):
            make(name, width)


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
