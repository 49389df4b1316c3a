"""The run folder: one writer, one configuration, metrics that survive a kill."""

import errno
import fcntl
import json
import subprocess
import sys
import textwrap

import pytest

from jaxssl.errors import InputError
from jaxssl.files import read_lines as read_metrics
from jaxssl.training import processes
from jaxssl.training.runs import RunFolder

from .conftest import FACTS


def folder(path, config=None, *, data=None, **options):
    return RunFolder(path, config or {}, facts={**FACTS, "data": data}, **options)


def test_another_configuration_is_refused_and_every_field_named(tmp_path):
    with folder(tmp_path, {"seed": 0, "batch_size": 8, "steps": 2, "seen": ("a", "b")}):
        pass
    with (
        pytest.raises(InputError, match=r"batch_size was 8, is 16; seed was 0, is 1") as error,
        folder(
            tmp_path,
            {"seed": 1, "batch_size": 16, "steps": 9, "seen": ("a", "b")},
            may_differ={"steps"},
        ),
    ):
        pass
    assert "steps" not in str(error.value)
    assert "\n" not in str(error.value)


def test_other_images_are_refused(tmp_path):
    with folder(tmp_path, data="abc"):
        pass
    with (
        pytest.raises(InputError, match="images or their order"),
        folder(tmp_path, data="abd"),
    ):
        pass


def test_a_refused_folder_is_free_again(tmp_path):
    with folder(tmp_path, {"seed": 0}):
        pass
    for _ in range(2):
        with pytest.raises(InputError), folder(tmp_path, {"seed": 1}):
            pass
    with folder(tmp_path, {"seed": 0}) as run:
        assert run.resumed


HOLD = """
import sys, time
from jaxssl.training.runs import RunFolder
with RunFolder(sys.argv[1], {}, facts={"study": "Net", "dataset": "noise", "recipe": {}}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_kill_frees_the_folder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=rf"in use by process {holder.pid} on "),
            folder(tmp_path),
        ):
            pass
        holder.kill()
    with folder(tmp_path):
        pass


@pytest.mark.parametrize("lock", [None, "process 7 on here since yesterday"])
def test_a_folder_that_is_not_the_first_process_s_is_refused(tmp_path, monkeypatch, lock):
    """As on a host whose own disk has that path, empty or from a run of its own."""
    if lock:
        (tmp_path / ".lock").write_text(lock)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    told = [str(tmp_path), "process 7 on there since today"]
    monkeypatch.setattr(processes, "from_first", lambda make: told)
    with (
        pytest.raises(InputError, match="need a run folder on a disk that they share"),
        folder("elsewhere"),
    ):
        pass
    (tmp_path / ".lock").write_text(told[1])
    with folder("elsewhere") as run:
        assert run.path == tmp_path


def test_a_file_system_without_locks_is_not_taken_for_a_folder_in_use(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(InputError, match=r"that cannot lock files \(No locks available\): choose"),
        folder(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"run folder .*file/run cannot be written"),
        folder(tmp_path / "file" / "run"),
    ):
        pass


def test_a_last_line_cut_short_is_passed_over_and_later_rows_are_dropped(tmp_path):
    with folder(tmp_path) as run:
        run.rewind(0)
        for step in (1, 2, 3):
            run.log(step, step / 2, "train", {"loss": 0.5})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    with folder(tmp_path) as run:
        assert [row["step"] for row in run.rewind(2)] == [1, 2]
        run.log(3, 1.5, "train", {"loss": 0.25})
    read = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in read] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_the_folder_of_an_older_version_is_refused_and_kept(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "study": "SimCLR"}))
    with (
        pytest.raises(InputError, match=r"is of an older version of jaxssl: .* train it again"),
        folder(tmp_path),
    ):
        pass
    assert not (tmp_path / "metrics.jsonl").exists()
