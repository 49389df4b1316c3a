"""The encoder that the flags name: frozen, from a file, described."""

from __future__ import annotations

import dataclasses
import json
import struct

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import datasets, describe, networks, rnn, softmax, study
from jaxssl.errors import InputError
from jaxssl.models import pretrained

DIGITS = softmax.PRESETS["digits"]
TRUNK = 903_896  # parameters of the study's


def changed(config, **changes):
    return dataclasses.replace(config, **changes)


def described(capsys, *arguments: str) -> str:
    describe.main(*describe.parse(list(arguments)))
    return capsys.readouterr().out


def test_the_studys_backbone_has_the_studys_counts(capsys):
    flags = ["softmax", "--preset", "plankton", "--encoder", "plankton_v2_s"]
    whole, frozen = described(capsys, *flags).split("with --freeze trunk")
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
    small = changed(DIGITS, color="rgb", image_size=32, encoder="plankton_v2_s")

    def made(**changes):
        return trainable(
            nnx.eval_shape(lambda: networks.make_encoder(changed(small, **changes))[0])
        )

    assert made() - made(freeze="trunk") == TRUNK
    assert changed(small, pretrained="x.pth").frozen_until == "trunk"  # what weights are given for
    assert changed(small, pretrained="x.pth", freeze="none").frozen_until == "none"
    convnet, start, _ = networks.make_encoder(changed(DIGITS, freeze="trunk"))
    assert all(norm.frozen for norm in convnet.norms)
    assert trainable(convnet) == 0
    assert "its trunk is frozen" in start


def test_batchnorm_keeps_the_statistics_that_weights_came_with():
    def kept(**changes):
        encoder = nnx.eval_shape(lambda: networks.make_encoder(changed(DIGITS, **changes))[0])
        return [norm.frozen for norm in encoder.norms]

    assert not any(kept())
    assert all(kept(batch_norm="kept"))
    assert kept(freeze="1").count(True) == 1
    assert not any(kept(freeze="1", batch_norm="adapted"))
    given = changed(DIGITS, pretrained="x.pth")
    # A checkpoint's weights are filled in without the file: what BatchNorm does must be the same.
    for batch_norm, again in {"auto": "kept", "adapted": "adapted"}.items():
        assert changed(given, batch_norm=batch_norm).for_structure().batch_norm == again
    assert DIGITS.for_structure().batch_norm == "auto"


def test_a_method_that_does_not_heed_beside_start_is_refused(monkeypatch):
    outline = {"classes": ("a", "b"), "shape": (16, 16, 1), "steps_per_epoch": 2, "total_steps": 4}
    asked = changed(DIGITS, beside_start=True)
    data = datasets.of_outline(outline, asked)
    heeded = nnx.eval_shape(lambda: softmax.make_method(asked, data).model)
    assert type(heeded.joined).__name__ == "BesideStart"
    monkeypatch.setattr(networks, "encoding", lambda *_: {})
    method = softmax.make_method(asked, data)
    study._check_encoding(changed(asked, beside_start=False), method)
    with pytest.raises(InputError, match="--beside-start: Softmax does not say"):
        study._check_encoding(asked, method)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random tensors under torchvision's names, in a file of the safetensors format."""
    config = changed(DIGITS, color="rgb", image_size=16, encoder="plankton_v2_s")
    encoder = nnx.eval_shape(lambda: networks.make_encoder(config)[0])
    tensors = {}
    random = np.random.default_rng(0)
    for name, slot in pretrained._slots(encoder.trunk.published()).items():
        tensors[name] = random.uniform(0.5, 1.0, slot.shape).astype(np.float32)
    tensors["classifier.1.bias"] = np.zeros(1000, np.float32)
    header, body = {}, b""
    for name, tensor in tensors.items():
        span = [len(body), len(body) + tensor.nbytes]
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": span}
        body += tensor.tobytes()
    text = json.dumps(header).encode()
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return changed(config, pretrained=str(file)), tensors


def test_pretrained_weights_come_into_the_encoder_and_are_named(weights):
    config, tensors = weights
    encoder, said, _ = networks.make_encoder(config)
    for part in ("weights.safetensors", "1 left over", "its trunk is frozen"):
        assert part in said
    np.testing.assert_array_equal(
        encoder.trunk.stem_conv.kernel[...],
        tensors["features.0.0.weight"].transpose(2, 3, 1, 0),
    )
    assert trainable(encoder.trunk) == 0
    # To be filled from a checkpoint: the same structure, and no file is read.
    again = changed(config, pretrained="gone.pth").for_structure()
    blank = nnx.eval_shape(lambda: networks.make_encoder(changed(config).for_structure())[0])
    assert (again.pretrained, again.freeze) == ("", "trunk")
    free = networks.make_encoder(changed(config, freeze="none"))[0]
    norms = [part.frozen for _, part in nnx.iter_modules(free.trunk) if hasattr(part, "var")]
    assert all(norms)
    assert not free.bn1.frozen  # the added layers' statistics are of no one yet
    assert jax.tree.structure(nnx.state(blank)) == jax.tree.structure(nnx.state(encoder))
    assert networks.make_encoder(DIGITS)[1] == "random weights; no --pretrained file given"
    with pytest.raises(InputError, match=r"missing\.pth"):
        networks.make_encoder(changed(config, pretrained="missing.pth"))


def test_leaky_relu_is_the_backbones():
    with pytest.raises(InputError, match=r"negative slope 0\.01: convnet has no such option"):
        networks.make_encoder(changed(DIGITS, leaky_relu=True))


@pytest.mark.parametrize(
    ("arguments", "layers"),
    [
        (["simclr"], ["head/linears/2", "trainable"]),
        (["arcface"], ["class_weights"]),
        (["softmax"], ["Classifier  [6]"]),
        (["rnn", "--layers", "2"], ["encoder/layers/1/recurrent", "head/classifier"]),
    ],
)
def test_describe_prints_the_table_and_writes_nothing(
    arguments, layers, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = described(capsys, *arguments)
    for layer in layers:
        assert layer in out
    assert not list(tmp_path.iterdir())


def test_describe_is_of_studies_with_a_network_of_their_own():
    with pytest.raises(InputError, match="finetune has no network of its own"):
        describe.parse(["finetune"])


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_cifars_rows_are_96_values(cell, gates):
    config = changed(rnn.PRESETS["cifar10"], cell=cell, layers=3, hidden=256, l2=64, l3=32)
    outline = {"classes": tuple("0123456789"), "shape": (32, 32, 3)}
    data = datasets.of_outline(outline | {"steps_per_epoch": 1, "total_steps": 9}, config)
    model = nnx.eval_shape(lambda: rnn.make_method(config, data).model)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model.encoder, nnx.Param)))
    assert count == sum(gates * 256 * (inputs + 256 + 2) for inputs in (96, 256, 256))
    head = model.head
    assert [linear.kernel.shape for linear in head.linears] == [(256, 64), (64, 32)]
    assert head.classifier.kernel.shape == (32, 10)
