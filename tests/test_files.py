"""Files: written whole or not at all; what is read is refused in one line."""

import contextlib
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxssl import files
from jaxssl.errors import InputError, WriteError, visible


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


def test_a_record_tells_every_flipped_bit(tmp_path):
    path = tmp_path / "x.json"
    record = {"score": 0.25, "names": ["a", "\ud800"], "step": 7}
    files.write_record(path, record)
    assert files.read_json(path, sealed=True) == record
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            with contextlib.suppress(InputError):
                assert files.read_json(path, sealed=True) == record  # white space, an escape's case


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"a": ',
        bytes(range(256)),
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b'{"a": 1' + b"0" * 10_000 + b"}",
        None,
        "folder",
        "pipe",
        "link",
        "sparse",
    ],
    ids=str,
)
def test_json_in_any_state_is_one_line(tmp_path, content):
    path = tmp_path / "x.json"
    match content:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to("nowhere")
        case "sparse":
            with open(path, "wb") as file:
                file.truncate(10**10)
        case bytes():
            path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json: cannot be read as JSON") as caught:
        files.read_json(path)
    assert len(str(caught.value)) <= 300 + len(str(path))
    assert str(caught.value).isprintable()


def test_a_line_of_metrics_tells_every_flipped_bit(tmp_path):
    path, row = tmp_path / "metrics.jsonl", {"step": 3, "split": "val", "loss": 0.5}
    whole = files.line_of(row).encode()
    said = []
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            kept = files.read_lines(path, say=said.append)
            assert kept == [] or {**row, **kept[0]} == kept[0], damaged
    assert len(said) > 7 * len(whole)
    assert said[0] == f"{path}: 1 damaged lines are left out"


def test_only_the_dead_leave_temporary_files(tmp_path):
    dead, alive, here, other = 2**22 + 1, os.getpid(), files._machine(), "0" * 8
    gone, *names = [f".a.json.{here}-{dead}-0123ab.tmp", f".a.json.{here}-{alive}-0123ab.tmp"]
    names += [far := f".a.json.{other}-{dead}-0123ab.tmp", ".mine.tmp", "a.json"]
    for name in (gone, *names):
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *names
    }  # another machine's may be at work
    names.remove(far)
    files.sweep(tmp_path, idle=0)
    assert {path.name for path in tmp_path.iterdir()} == {*names}
    (tmp_path / gone).touch()
    (tmp_path / far).touch()
    os.utime(tmp_path / far, (0, 0))
    files.write_text(tmp_path / "b.json", "")  # the first write of a process in a folder sweeps it
    assert {path.name for path in tmp_path.iterdir()} == {*names, "b.json"}


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"No space left on device, [\d,.]+ MB free there: free"):
        files.write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(WriteError, match="is its folder still there"):
        files.write_text(tmp_path / "gone" / "x.json", "new")


def test_what_a_terminal_obeys_is_shown():
    text = "\x1b[2J\x9b1m\r\n\u202ecod\u2066.\u2028\ud800 Käfer 珊瑚 👩\u200d🔬"
    shown = r"\x1b[2J\x9b1m\r\n\u202ecod\u2066.\u2028\ud800 Käfer 珊瑚 👩" + "\u200d🔬"
    assert visible(text) == shown


NAMES = (
    "a/b",
    "..",
    "../../etc/passwd",
    "a\\b",
    "a\nb",
    "a\x1b[2Jb",
    "\u202efdp.exe",
    "-rf",
    "con",
)
NAMES += ("LPT1.txt", "x" * 400, "é" * 200, "", " . ", "a:b", "a\udcffb", "\ud800", "name.", "a\0b")


def test_a_name_from_the_data_is_one_file_s_on_any_system(tmp_path):
    """Written, each is one new entry of the folder; no two texts share one."""
    found = [files.safe_name(text) for text in NAMES]
    for i, name in enumerate(found, 1):
        files.write_text(tmp_path / f"{name}-train.parquet", "x")
        assert len(list(tmp_path.iterdir())) == i
        assert name == visible(name)
        assert name.isprintable()
        assert not set(name) & set('<>:"/\\|?*')
        assert name[0] not in "- "
        assert name[-1] not in ". "
        assert name.partition(".")[0].lower() not in ("con", "lpt1")
        assert files.safe_name(name) == name
    assert files.safe_name("Ceratium förhöj.v2") == "Ceratium förhöj.v2"


def test_a_name_of_255_bytes_is_written_whole_too(tmp_path):
    path = tmp_path / ("é" * 127 + "x")
    files.write_text(path, "new")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["new"]


def test_what_a_person_changed_is_kept_and_the_new_file_has_a_number(tmp_path):
    path, said = tmp_path / "a.csv", []
    assert files.free(path) == path
    files.write_text(path, "old", note="")
    assert files.own_files(tmp_path) == {"a.csv"}
    assert files.free(path, say=said.append) == path
    path.write_text("mine")
    assert files.own_files(tmp_path) == set()
    assert files.free(path, say=said.append) == tmp_path / "a-2.csv"
    assert said == ["a.csv was changed since it was written and is kept: the new one is a-2.csv"]
    # The second is nobody's work; and what another hand wrote, or of other things, is kept too.
    files.write_text(tmp_path / "a-2.csv", "new", note="")
    assert files.free(path) == tmp_path / "a-2.csv"
    assert files.free(tmp_path / "a-2.csv", "other labels").name == "a-2-2.csv"
    (tmp_path / "b.csv").write_text("theirs")
    assert files.is_kept(tmp_path / "b.csv")
    # Damaged notes lose nothing: what they told of is kept.
    (tmp_path / files.NOTES).write_text("[")
    assert files.is_kept(tmp_path / "a-2.csv")


def test_a_kill_between_note_and_file_leaves_the_old_file_known(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    files.write_text(path, "old", note="")
    replace = os.replace

    def killed(source, target):
        if Path(target) == path:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(path, "new", note="")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert not files.is_kept(path)
