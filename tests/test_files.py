"""Files: written whole or not at all; what is read is refused in one line."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxssl import files
from jaxssl.errors import InputError


def test_skipped_files_are_a_list_of_objects(tmp_path):
    path = tmp_path / "skipped.json"
    assert files.read_list(path) == []
    path.write_text('[{"path": "a"}]')
    assert files.read_list(path) == [{"path": "a"}]
    for bad in ('{"path": "a"}', '["a"]', "["):
        path.write_text(bad)
        with pytest.raises(InputError, match=r"skipped\.json"):
            files.read_list(path)


def test_numbers_without_a_value_are_null(tmp_path):
    value = {
        "a": np.array([1.5, np.inf]),
        "b": (np.float32(2), np.int64(3)),
        4: [float("nan"), "x"],
    }
    files.write_json(tmp_path / "x.json", value)
    written = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert written == {"a": [1.5, None], "b": [2.0, 3], "4": [None, "x"]}


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_text(path, "old")
    with pytest.raises(TypeError, match="serializable"):
        files.write_json(path, {"a": object()})

    def killed(source, target):
        assert Path(source).read_text() == "new", "renamed before it was written"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


RECORD = {"format": 2, "study": "SimCLR", "dataset": "digits", "config": {"a": 1}, "recipe": {}}


def test_a_runs_record_is_read_as_it_stands(tmp_path):
    files.write_json(tmp_path / "config.json", {**RECORD, "commit": "c"})
    assert files.read_record(tmp_path) == {**RECORD, "commit": "c"}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"config": {"seed": 0}, "study": "simclr"}, "is of an older version of jaxssl: "),
        ({**RECORD, "recipe": None}, r"config\.json: recipe is None, not an object"),
        ({**RECORD, "study": 3}, r"config\.json: study is 3, not a text"),
        ([1], "holds a list, not an object"),
        (None, "no config.json, so no run"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path, record, says):
    if record is not None:
        files.write_json(tmp_path / "config.json", record)
    with pytest.raises(InputError, match=says) as caught:
        files.read_record(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)
