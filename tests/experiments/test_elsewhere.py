"""Pretrain here, judge there: which images flags mean, and what is refused in one line."""

from __future__ import annotations

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from experiments import datasets, elsewhere
from experiments.config import Elsewhere, Images
from experiments.finished import Finished
from jaxssl.errors import InputError

from .test_datasets import make_folder

CLASSES = {"a": 12, "b": 12, "c": 12}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A run on class folders: its settings and its fingerprint, without a network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = Images(
        dataset="folder", image_size=16, data_dir=make_folder(tmp_path / "own", CLASSES)
    )
    record = {"data": datasets.read(images, 3).fingerprint}
    (tmp_path / "run").mkdir()
    settings = SimpleNamespace(seed=3)
    return Finished(tmp_path / "run", record, None, settings, images)


def test_the_runs_own_images_wherever_they_lie(home, tmp_path):
    own = datasets.read(home.images, 3).fingerprint
    moved = shutil.move(tmp_path / "own", tmp_path / "moved")
    judged = elsewhere.judged_on(home, Elsewhere(data_dir=str(moved)))
    assert (judged.data.fingerprint, judged.about) == (own, {})
    assert judged.images.data_dir == str(moved)
    # A class fewer: no longer the run's own.
    shutil.rmtree(tmp_path / "moved" / "c")
    judged = elsewhere.judged_on(home, Elsewhere(data_dir=str(moved)))
    assert judged.about["judged_on"] == str(moved)
    with pytest.raises(InputError, match="cannot open the image folder"):
        elsewhere.judged_on(home, Elsewhere())


def test_another_folder_is_split_as_a_study_of_it_would_be(home, tmp_path, capsys):
    other = make_folder(tmp_path / "other", {"a": 20, "d": 10}, colour=120)
    run = dataclasses.replace(home, images=dataclasses.replace(home.images, seen=("a", "b")))
    judged = elsewhere.judged_on(run, Elsewhere(data_dir=other))
    fresh = datasets.read(Images(dataset="folder", image_size=16, data_dir=other), 3)
    assert judged.data.fingerprint == fresh.fingerprint
    assert judged.data.classes == ("a", "d")
    assert judged.about == {"pretrained_on": f"{tmp_path / 'own'} (run)", "judged_on": other}
    out = capsys.readouterr().out
    assert f"pretrained on {tmp_path / 'own'} (run), judged on {other}" in out
    assert out.count("images of /") == 1 + 1  # of the fresh study, and once here
    digits = elsewhere.judged_on(run, Elsewhere(dataset="digits", seen=("0", "1")))
    assert (digits.data.classes, digits.about["judged_on"]) == (("0", "1"), "digits")
    assert digits.data.shape == (16, 16, 1)


def test_labels_of_a_table_for_the_runs_own_images(home, tmp_path, capsys):
    rows = [f"{name}/{i}.png,{'even' if i % 2 else 'odd'}" for name in "ab" for i in range(12)]
    table = tmp_path / "late.csv"
    table.write_text("\n".join(["path,label", *rows]))
    learnt = pa.table({"id": [f"a/{i}.png" for i in range(12)]})
    (tmp_path / "run" / "embeddings").mkdir()
    pyarrow.parquet.write_table(learnt, tmp_path / "run" / "embeddings" / "train.parquet")
    judged = elsewhere.judged_on(home, Elsewhere(labels_from=str(table)))
    assert judged.data.classes == ("even", "odd")
    assert judged.about["judged_on"].endswith(f"own, labels from {table}")
    known = sum(name.startswith("a/") for name in judged.data.test.ids)
    assert known
    said = f"warning: {known} of {len(judged.data.test)} test images have the name of an image"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("counts", "flags", "said"),
    [
        ({"": 9}, {}, "labels are needed, and no image of .*there has one; give --labels-from"),
        ({"x": 9, "y": 9}, {"seen": ("x",)}, "two classes or more are needed.*'x' alone"),
        ({"x": 9, "y": 9}, {"seen": ("z",)}, "no class 'z' in .*the nearest first"),
        ({"x": 0}, {}, "there holds no image"),
    ],
)
def test_what_cannot_be_judged_is_one_line(counts, flags, said, home, tmp_path):
    there = make_folder(tmp_path / "there", counts)
    with pytest.raises(InputError, match=said) as error:
        elsewhere.judged_on(home, Elsewhere(data_dir=there, **flags))
    assert "\n" not in str(error.value)


def test_an_unlabelled_run_cannot_judge_itself(home, tmp_path):
    own = make_folder(tmp_path / "flat", {"": 20})
    images = dataclasses.replace(home.images, data_dir=own)
    record = {"data": datasets.read(images, 3).fingerprint}
    run = dataclasses.replace(home, images=images, record=record)
    with pytest.raises(InputError, match="labels are needed, and no image of the run has one"):
        elsewhere.judged_on(run, Elsewhere())
    assert np.all(datasets.read(images, 3).train.labels < 0)
