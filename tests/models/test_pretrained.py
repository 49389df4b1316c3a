"""What load_pretrained says and refuses; that the features are right is in the networks' tests."""

import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models import (
    ConvNet,
    PlanktonBackbone,
    efficientnet_lite0,
    fold_batch_norm,
    freeze,
    load_pretrained,
    named_tensors,
    pretrained,
    resnet18,
)
from jaxssl.models.resnet import BasicBlock, ResNet


def save(path: Path, tensors: dict[str, np.ndarray], kind: type = np.float16) -> Path:
    header, body = {}, b""
    for name, array in tensors.items():
        data = array.astype(kind).tobytes()
        header[name] = {
            "dtype": {np.float16: "F16", np.float32: "F32"}[kind],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def norm(prefix: str, size: int) -> dict[str, np.ndarray]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{n}": np.full(size, i + 1.0) for i, n in enumerate(names)}


def weights() -> dict[str, np.ndarray]:
    """Of a ResNet of one block of width 2, as torchvision names them."""
    return {
        "conv1.weight": np.arange(2 * 3 * 49.0).reshape(2, 3, 7, 7),
        **norm("bn1", 2),
        "bn1.num_batches_tracked": np.array(0),
        "layer1.0.conv1.weight": np.ones((2, 2, 3, 3)),
        **norm("layer1.0.bn1", 2),
        "layer1.0.conv2.weight": np.ones((2, 2, 3, 3)),
        **norm("layer1.0.bn2", 2),
        "fc.weight": np.ones((10, 2)),
        "fc.bias": np.ones(10),
    }


@pytest.fixture
def encoder(build) -> ResNet:
    return build(
        lambda: ResNet(BasicBlock, (1,), channels=3, stem="imagenet", width=2, rngs=nnx.Rngs(0))
    )


def test_every_number_comes_to_its_place(encoder, tmp_path):
    file = weights()
    report = load_pretrained(encoder, save(tmp_path / "net.safetensors", file))
    for (o, i, y, x), number in np.ndenumerate(file["conv1.weight"]):
        assert encoder.conv1.kernel[...][y, x, i, o] == number
    bn2 = encoder.stages[0][0].bn2
    assert [float(v[0]) for v in (bn2.scale, bn2.bias, bn2.mean, bn2.var)] == [1, 2, 3, 4]
    assert encoder.conv1.kernel.dtype == jnp.float32
    assert (report.loaded, report.missing, report.left_over) == (15, (), ("fc.weight", "fc.bias"))
    assert str(report) == "net.safetensors: 15 tensors loaded, 2 left over; random: nothing"


def changed(**changes) -> dict[str, np.ndarray]:
    file = weights() | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in file.items() if value is not None}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (changed(bn1__running_var=None), r"14 of this encoder's 15 .* bn1\.running_var is missing"),
        (
            changed(conv1__weight=np.ones((2, 3, 3, 3))),
            r"conv1\.weight is \(2, 3, 3, 3\), here \(2, 3, 7, 7\)",
        ),
        (changed(bn1__bias=np.ones(3)), r"bn1\.bias is \(3,\), here \(2,\): no encoder here"),
        (changed(bn1__bias=np.array([1, np.nan])), r"bn1\.bias is not finite"),
        (
            changed(layer1__1__conv1__weight=np.ones((2, 2, 3, 3))),
            r"1 more have no place in it, such as layer1\.1\.conv1\.weight",
        ),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(file, message, encoder, tmp_path):
    before = nnx.state(encoder)
    before = nnx.to_pure_dict(before)
    path = save(tmp_path / "net.safetensors", file)
    with pytest.raises(InputError, match=message):
        load_pretrained(encoder, path)
    after = nnx.to_pure_dict(nnx.state(encoder))
    assert str(after) == str(before)


def test_a_file_whose_name_promises_another_content_is_refused(encoder, tmp_path):
    path = save(tmp_path / "resnet-0123abcd.safetensors", weights())
    with pytest.raises(
        InputError, match=r"sha256 begins with \w{8}, not 0123abcd as its name says"
    ):
        load_pretrained(encoder, path)


def test_encoders_that_no_file_fits_are_named(build, tmp_path):
    path = save(tmp_path / "net.safetensors", weights())
    refused = [
        (lambda: ConvNet(channels=3, rngs=nnx.Rngs(0)), "no pretrained weights for ConvNet"),
        (
            lambda: resnet18(channels=3, stem="cifar", rngs=nnx.Rngs(0)),
            "need the ImageNet stem, .*raise the image size above 64",
        ),
        (
            lambda: ResNet(
                BasicBlock, (1,), channels=1, stem="imagenet", width=2, rngs=nnx.Rngs(0)
            ),
            "are for RGB images, this encoder takes grey ones: use 3 channels",
        ),
    ]
    for make, message in refused:
        with pytest.raises(InputError, match=message):
            load_pretrained(nnx.eval_shape(make), path)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: ConvNet(channels=1, rngs=nnx.Rngs(0)), "jaxssl"),
        # Other names than its own would leave out what the study added behind its trunk.
        (lambda: PlanktonBackbone(image_size=16, channels=3, rngs=nnx.Rngs(0)), "jaxssl"),
        (lambda: small_resnet(channels=1, stem="cifar"), "jaxssl"),
        (lambda: small_resnet(channels=3, stem="imagenet"), "torchvision"),
        (lambda: efficientnet_lite0(channels=3, rngs=nnx.Rngs(0)), "efficientnet-lite-pytorch"),
    ],
)
def test_what_is_named_is_read_again_to_the_bit(make, names, build, tmp_path):
    """That files with published names are read right is proven against torch elsewhere."""
    encoder, other = build(make, 1), build(make, 2)
    source, tensors = named_tensors(encoder)
    assert source == names
    path = save(tmp_path / "net.safetensors", tensors, np.float32)
    report = load_pretrained(other, path)
    assert (report.loaded, report.missing, report.left_over) == (len(tensors), (), ())
    for kind in (nnx.Param, nnx.BatchStat):
        jax.tree.map(
            np.testing.assert_array_equal, nnx.state(encoder, kind), nnx.state(other, kind)
        )
    freeze(other)  # what is frozen has the same names
    assert named_tensors(other)[1].keys() == tensors.keys()


def test_an_encoder_without_its_batch_norm_is_not_named(build):
    encoder = build(lambda: small_resnet(channels=3, stem="imagenet"))
    with pytest.raises(ValueError, match="BatchNorm was folded away"):
        named_tensors(fold_batch_norm(encoder))


def small_resnet(**options) -> ResNet:
    return ResNet(BasicBlock, (1, 1), width=2, rngs=nnx.Rngs(0), **options)


def test_the_backbone_says_which_layers_stay_random(build, tmp_path):
    backbone = build(lambda: PlanktonBackbone(image_size=16, channels=3, rngs=nnx.Rngs(0)))
    file = {"features.0.0.weight": np.ones((24, 3, 3, 3)), **norm("features.0.1", 24)}
    for stage, blocks in enumerate(backbone.trunk.stages, start=1):
        for index, block in enumerate(blocks):
            for part, conv in enumerate(block.convs):
                prefix = f"features.{stage}.{index}.block.{part}"
                file[f"{prefix}.0.weight"] = np.ones(conv.kernel.shape).transpose(3, 2, 0, 1)
                file |= norm(f"{prefix}.1", conv.out_features)
    whole = file | {"features.4.0.block.0.0.weight": np.ones(3), "classifier.1.bias": np.ones(3)}
    path = save(tmp_path / "net.safetensors", whole)
    report = load_pretrained(backbone, path)
    assert report.missing == ("bn1", "bn2", "conv1", "conv2", "linear")
    assert report.left_over == ("features.4.0.block.0.0.weight", "classifier.1.bias")
    assert report.loaded == len(file)
    # The other convention pads and normalises in another way.
    other = nnx.eval_shape(
        lambda: PlanktonBackbone(
            image_size=16, channels=3, convention="tensorflow", rngs=nnx.Rngs(0)
        )
    )
    with pytest.raises(
        InputError,
        match=r"0 of this encoder's 95 tensors fit, conv_stem\.weight is missing: choose the "
        "encoder plankton_v2_s, which they fit",
    ):
        load_pretrained(other, path)


@pytest.mark.parametrize("tensors", [{}, {"module": np.ones(1)}, {"....": np.ones(1)}])
def test_names_without_a_network_behind_a_prefix(tensors, encoder, tmp_path):
    with pytest.raises(InputError, match="no encoder here has such weights"):
        load_pretrained(encoder, save(tmp_path / "net.safetensors", tensors))


def test_a_prefix_before_all_names_is_told(tmp_path):
    wanted = nnx.eval_shape(lambda: resnet18(channels=3, stem="imagenet", rngs=nnx.Rngs(0)))
    slots = pretrained._slots(wanted.published())
    tensors = {f"module.{name}": np.ones(slot.shape) for name, slot in slots.items()}
    with pytest.raises(
        InputError,
        match=r"save them without 'module\.' before their names; choose the encoder resnet18, "
        "which they fit",
    ):
        load_pretrained(wanted, save(tmp_path / "net.safetensors", tensors))
