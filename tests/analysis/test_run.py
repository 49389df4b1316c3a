"""A run folder's files: what is read, what is refused in one line, what is written whole."""

import json

import numpy as np
import pytest

from jaxssl.analysis import run as run_files
from jaxssl.analysis.embeddings import Embeddings, save
from jaxssl.errors import InputError

from .conftest import write_record


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
    assert "raw_pixels" not in found.tables
    assert (found.settings, found.provenance, found.results) == ({}, {}, None)
    assert (found.study, found.dataset, list(found.metrics)) == ("Embedding", "", [])
    assert list(run_files.read_run(folder, embeddings=("h",)).tables) == ["h"]


def test_settings_recipe_and_provenance_are_told_apart(folder):
    write_record(folder, study="BYOL", margin=0.5)
    found = run_files.read_run(folder)
    assert (found.study, found.dataset, found.seed) == ("BYOL", "<b>plankton</b>", 0)
    assert found.settings["run_dir"] == "x"
    assert found.recipe == {
        "batch_size": 128,
        "encoder": "convnet",
        "pretrained": "",
        "margin": 0.5,
    }
    assert set(found.provenance) == {
        *("data", "command", "versions", "commit", "pretrained", "devices"),
    }


def test_a_folder_of_the_old_form_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"config": {"seed": 3}, "study": "simclr"}))
    with pytest.raises(InputError, match="older version of jaxssl") as caught:
        run_files.read_run(folder)
    assert str(caught.value).startswith(f"{folder} is ")


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
        ("config.json", '{"format": 2, "study": 3}', "study is 3, not a text"),
        ("linear_eval/results.json", '{"rows": [{"linear": 1}]}', "evaluate it again"),
        ("config.json", "{", "cannot be read as JSON"),
        ("results.json", "[1]", "not an object"),
        ("embeddings/test.parquet", "PAR1", "not a readable embedding table"),
    ],
)
def test_a_broken_file_is_named_in_one_line(folder, name, text, says):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    read = run_files.linear_evaluation if "linear" in name else run_files.read_run
    with pytest.raises(InputError, match=says) as caught:
        read(folder)
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)
