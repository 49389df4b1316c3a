"""A run folder's files: what is read, what is refused in one line, what is written whole."""

import json

import numpy as np
import pytest

from jaxssl.analysis import run as run_files
from jaxssl.analysis.embeddings import Embeddings, save
from jaxssl.errors import InputError


@pytest.fixture
def folder(tmp_path):
    table = Embeddings(np.ones((1, 2)), ("1",), ("",), ("a",), np.array([0]), ("test",))
    for name in ("test", "unseen-b", "unseen-a", "train", "other"):
        save(tmp_path / "embeddings" / f"{name}.parquet", table)
    save(tmp_path / "embeddings" / "untrained" / "test.parquet", table)
    return tmp_path


def test_only_the_embedding_is_demanded(folder):
    found = run_files.read_run(folder)
    assert list(found.tables["h"]) == ["train", "test", "unseen-a", "unseen-b"]
    assert list(found.tables["untrained"]) == ["test"]
    assert found.tables["raw_pixels"] == {}
    assert (found.settings, found.provenance, found.metrics, found.results) == ({}, {}, [], {})


def test_settings_are_told_from_provenance(folder):
    (folder / "config.json").write_text(json.dumps({"config": {"seed": 3}, "commit": "c"}))
    found = run_files.read_run(folder)
    assert (found.settings, found.provenance) == ({"seed": 3}, {"commit": "c"})
    both = {"config": {"pretrained": "a.pth"}, "pretrained": "a.pth: 9 tensors loaded"}
    (folder / "config.json").write_text(json.dumps(both))  # the flag, and what came of it
    found = run_files.read_run(folder)
    assert found.provenance == {"pretrained": "a.pth: 9 tensors loaded"}
    (folder / "config.json").write_text(json.dumps({"seed": 3, "commit": "c"}))
    found = run_files.read_run(folder)
    assert (found.settings, found.provenance) == ({"seed": 3}, {"commit": "c"})


def test_a_killed_run_leaves_half_a_line(folder):
    path = folder / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "split": "val", "lo')
    (record,) = run_files.read_run(folder).metrics
    assert (record["step"], record["split"]) == (1, "train")
    # One damaged in the middle is no reason to lose the others.
    path.write_text('{"step": 1, "lo\n{"step": 2}\n[3]\n{"loss": 4}\n')
    assert [row["step"] for row in run_files.read_run(folder).metrics] == [2]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("config.json", "{", "cannot be read as JSON"),
        ("results.json", "[1]", "not an object"),
        ("embeddings/test.parquet", "PAR1", "not a readable embedding table"),
    ],
)
def test_a_broken_file_is_named_in_one_line(folder, name, text, says):
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        run_files.read_run(folder)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_run_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        run_files.read_run(tmp_path / "none")
    with pytest.raises(InputError, match="no embeddings"):
        run_files.read_run(tmp_path)
