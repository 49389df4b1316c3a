"""Every program of CIFAR-10 on a slice of the real images, two steps each, one after another."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import finetune, linear_eval, rnn, simclr, softmax, tune, tuning
from jaxssl import analysis
from jaxssl.analysis import evaluation
from jaxssl.data.cifar_tfds import prepare_cifar

REAL = Path(os.environ.get("JAXSSL_DATA", "absent")) / "cifar10-jpeg.tar.gz"
pytestmark = [
    pytest.mark.program,
    pytest.mark.one_device,
    pytest.mark.skipif(
        not REAL.is_file(), reason="JAXSSL_DATA names no folder that holds cifar10-jpeg.tar.gz"
    ),
]
SMALL = {"batch_size": 16, "steps": 2, "log_every": 1, "evaluate_epochs": 0.2, "draws": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A TFDS folder with 20 images of each class and split; maps are tested elsewhere."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "maps", lambda vectors, labels, *, seed: {})
        patch.setattr(analysis, "with_map", lambda tables: tables)
        prepare_cifar("cifar10", REAL, data_dir=folder, subset=20)
        yield str(folder)


@pytest.fixture(scope="module")
def pretrained(images, tmp_path_factory):
    """`--preset cifar10` but for its size: LARS, resident images, a convnet for the ResNet."""
    folder = tmp_path_factory.mktemp("simclr") / "run"
    preset = simclr.PRESETS["cifar10"]
    assert (preset.encoder, preset.batch_size, preset.epochs) == ("resnet18", 512, 200)
    small = SMALL | {"encoder": "convnet"}
    simclr.main(dataclasses.replace(preset, data_dir=images, run_dir=str(folder), **small))
    return SimpleNamespace(folder=folder, images=images)


@pytest.fixture
def no_page(monkeypatch):
    """Results without their page: the same sections are drawn of SimCLR's run above."""
    monkeypatch.setattr(analysis, "write_report", lambda folder, tables, results, steps: folder)


def read(folder: Path, name: str = "results.json") -> dict:
    return json.loads((folder / name).read_text())


def test_simclr(pretrained):
    found = read(pretrained.folder)
    assert found["training"]["last_step"] == 2
    assert found["sets"]["train"]["images"] == 180  # the rest of the official 200 validates
    assert found["sets"]["test"]["images"] == 200
    assert 0 <= found["knn_accuracy"] <= 1
    assert (pretrained.folder / "report" / "index.html").is_file()


def test_linear_evaluation(pretrained):
    linear_eval.main(linear_eval.LinearEval(run_dir=str(pretrained.folder), layer="z"))
    found = read(pretrained.folder / "linear_eval")
    assert [row["embedding"] for row in found["rows"]] == ["z", "untrained", "raw_pixels"]
    for row in found["rows"]:
        tops = [row["linear"]["top"][k] for k in ("1", "3", "5")]
        assert tops == sorted(tops)
    assert np.sum(found["classification"]["confusion"]) == 200


def test_fine_tuning_on_a_part_of_the_labels(pretrained, no_page, tmp_path):
    start, folder = str(pretrained.folder), str(tmp_path / "run")
    small = {"label_fraction": 0.5, "batch_size": 16, "steps": 2}
    finetune.main(finetune.FineTune(start=start, run_dir=folder, **small))
    found = read(tmp_path / "run")
    assert found["protocol"]["training_images"] == 90
    assert read(tmp_path / "run", "config.json")["study"].startswith("Fine-tuning from S")


def test_softmax(images, no_page, tmp_path):
    preset = softmax.PRESETS["cifar10-cpu"]
    folder = tmp_path / "run"
    small = SMALL | {"label_fraction": 0.5, "data_dir": images, "run_dir": str(folder)}
    softmax.main(dataclasses.replace(preset, **small))
    assert read(folder)["sets"]["train"]["images"] == 90
    assert len(read(folder)["classification"]["per_class"]) == 10


def test_row_classifier(images, no_page, tmp_path):
    preset = rnn.PRESETS["cifar10"]
    folder = tmp_path / "run"
    small = SMALL | {"hidden": 8, "data_dir": images, "run_dir": str(folder), "cell": "lstm"}
    rnn.main(dataclasses.replace(preset, **small))
    assert len(read(folder)["classification"]["per_class"]) == 10


def test_tuning(images, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "draw", lambda study, folder: None)
    small = ["--preset", "cifar10", "--data-dir", images, "--hidden", "8", "--layers", "1"]
    small += ["--steps", "2", "--batch-size", "16", "--trials", "1"]
    tune.main(*tune.parse(["rnn", *small, "--storage", str(tmp_path / "study.sqlite")]))
    best = read(tmp_path, "best.json")
    assert best["dataset"] == "cifar10"
    assert 1e-4 <= best["learning_rate"] <= 1e-1
