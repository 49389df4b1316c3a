"""The flags that all studies share: what they refuse, and what they make of the data and model."""

from __future__ import annotations

import dataclasses
import json
import math
import struct

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import arcface, presets, protocol, simclr, softmax, triplet
from experiments.images import load_data, with_label_fraction
from jaxssl.errors import InputError
from jaxssl.models import pretrained

DIGITS = softmax.PRESETS["digits"]


def changed(config, **changes):
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("program", "changes", "line"),
    [
        (softmax, {"batch_size": 0}, "--batch-size is 0: it must be 1 or more"),
        (softmax, {"learning_rate": 0.0}, "--learning-rate is 0.0: it must be above 0"),
        (softmax, {"learning_rate": math.nan}, "--learning-rate is nan: it must be above 0"),
        (softmax, {"label_fraction": 1.5}, "--label-fraction is 1.5: it must be 1 or less"),
        (softmax, {"draws": 1}, "--draws is 1: it must be 2 or more"),
        (softmax, {"steps": 0}, "--steps is 0: it must be 1 or more"),
        (simclr, {"temperature": -0.1}, "--temperature is -0.1: it must be above 0"),
        (simclr, {"temperature": math.inf}, "--temperature is inf: it must be above 0"),
        (triplet, {"margin": -1.0}, "--margin is -1.0: it must be 0 or more"),
        (arcface, {"scale": 0.0}, "--scale is 0.0: it must be above 0"),
        (arcface, {"margin": 30.0}, "arcface's lies in [0, 1.571), in radians, not degrees"),
        (arcface, {"margin": 1.0, "kind": "cosface"}, "cosface's lies in [0, 1)"),
    ],
)
def test_a_number_out_of_range_is_one_line_before_anything_is_written(
    program, changes, line, tmp_path
):
    config = changed(program.PRESETS["digits"], run_dir=str(tmp_path / "run"), **changes)
    with pytest.raises(InputError) as error:
        program.main(config)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_each_kind_of_margin_has_its_papers_default():
    config = arcface.PRESETS["digits"]
    assert arcface.margin_of(config) == 0.5
    assert arcface.margin_of(changed(config, kind="cosface")) == 0.35
    assert arcface.margin_of(changed(config, kind="cosface", margin=0.2)) == 0.2


def test_lookalikes_are_the_data_sets_own_unless_classes_are_named():
    plankton = softmax.PRESETS["plankton"]
    assert plankton.harder_unseen == (
        *("copepod_cyclopoid_oithona", "trichodesmium_bowtie", "chaetognath_sagitta"),
    )
    assert changed(plankton, seen=("a", "b")).harder_unseen == ()
    assert changed(plankton, lookalikes=()).harder_unseen == ()
    assert changed(plankton, seen=("a", "b"), lookalikes=("c",)).harder_unseen == ("c",)
    assert softmax.PRESETS["plankton-wide"].harder_unseen == ()


def test_the_wide_protocol_is_the_data_readmes():
    wide = presets.PLANKTON_WIDE
    assert (len(set(wide["seen"])), len(set(wide["unseen"]))) == (21, 10)
    assert not set(wide["seen"]) & set(wide["unseen"])
    assert wide["labels"] == (100, 300, 1000)


def test_a_label_fraction_keeps_its_share_of_every_class():
    whole = load_data(DIGITS)
    part = with_label_fraction(whole, 0.1, seed=0)
    counts, shares = np.bincount(whole.train.labels), np.bincount(part.train.labels)
    np.testing.assert_array_equal(shares, np.rint(counts * 0.1))
    assert set(part.train.ids) < set(whole.train.ids)
    assert part.test is whole.test
    assert with_label_fraction(whole, 1.0, seed=0) is whole


def test_checkpoints_come_as_often_as_they_are_to_be_kept():
    config = simclr.PRESETS["digits"]  # validates every 5 epochs
    data = load_data(config)
    every = protocol.plan(config, data).evaluate_every
    assert protocol.plan(changed(config, keep_every=2.0), data).evaluate_every == every * 2 // 5
    assert protocol.plan(changed(config, keep_every=10.0), data).evaluate_every == every


def test_the_studys_backbone_has_the_studys_counts(capsys):
    config = changed(softmax.PRESETS["plankton"], encoder="efficientnet_v2_s", describe=True)
    softmax.main(config)
    whole, frozen = capsys.readouterr().out.split("with --freeze trunk")
    assert whole.split()[-7:-5] == ["trainable", "1,503,198"]
    numbers = dict(line.rsplit(maxsplit=1) for line in frozen.splitlines()[1:])
    assert {name.strip(): n for name, n in numbers.items()} == {
        "total": "1,503,198",
        "trainable": "599,302",
        "frozen": "903,896",
        "batch statistics": "4,560",
    }


def trainable(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_freeze_leaves_the_trunk_out_of_training():
    small = changed(DIGITS, color="rgb", image_size=32, encoder="efficientnet_v2_s")

    def made(**changes):
        config = changed(small, **changes)
        return trainable(nnx.eval_shape(lambda: protocol.make_encoder(config, nnx.Rngs(0))))

    trunk = 903_896
    assert made() - made(freeze="trunk") == trunk
    assert made(pretrained="x.pth") == made(freeze="trunk")  # what weights are given for
    assert made(pretrained="x.pth", freeze="none") == made()
    convnet = changed(DIGITS, freeze="trunk")
    assert trainable(protocol.make_encoder(convnet, nnx.Rngs(0))) == 0


def test_pretrained_weights_come_into_the_encoder_and_are_named(tmp_path):
    """Random tensors under torchvision's names, in a file of the safetensors format."""
    config = changed(DIGITS, color="rgb", image_size=16, encoder="efficientnet_v2_s")
    encoder = protocol.make_encoder(config, nnx.Rngs(0))
    tensors = {}
    random = np.random.default_rng(0)
    for prefix, layer in pretrained._torchvision_names(encoder.trunk):
        for suffix, variable in pretrained._variables(layer):
            value = random.uniform(0.5, 1.0, variable.shape).astype(np.float32)
            axes = (3, 2, 0, 1) if value.ndim == 4 else range(value.ndim)
            tensors[f"{prefix}.{suffix}"] = np.ascontiguousarray(value.transpose(*axes))
    tensors["classifier.1.bias"] = np.zeros(1000, np.float32)
    header, body = {}, b""
    for name, tensor in tensors.items():
        span = [len(body), len(body) + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": span}
        body += tensor.tobytes()
    text = json.dumps(header).encode()
    file = tmp_path / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)
    config = changed(config, pretrained=str(file))
    said = protocol.load_pretrained(config, encoder)
    assert "weights.safetensors" in said
    assert "1 left over" in said
    assert "trunk frozen" in said
    np.testing.assert_array_equal(
        encoder.trunk.stem_conv.kernel[...],
        tensors["features.0.0.weight"].transpose(2, 3, 1, 0),
    )
    said = protocol.load_pretrained(DIGITS, encoder)
    assert said == "random weights; no --pretrained file given"
    with pytest.raises(InputError, match=r"missing\.pth"):
        protocol.load_pretrained(changed(config, pretrained="missing.pth"), encoder)


def test_leaky_relu_is_the_backbones():
    config = changed(DIGITS, leaky_relu=True)
    with pytest.raises(InputError, match="LeakyReLU is an option of the efficientnets: convnet"):
        protocol.make_encoder(config, nnx.Rngs(0))
