"""The run folder: one writer, one configuration, metrics that survive a kill."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap

import pytest

from jaxssl.errors import InputError, WriteError
from jaxssl.files import read_lines as read_metrics
from jaxssl.training import processes
from jaxssl.training.runs import RunFolder, unfinished

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


def test_an_unfinished_run_of_the_same_settings_is_found_and_no_other(tmp_path):
    new = tmp_path / "simclr-folder-20261127-120000"
    settings = {"seed": 0, "steps": 9, "seen": ("a", "b")}
    others = {"seed": ({"seed": 1}, "abc"), "data": ({}, "abd"), "finished": ({}, "abc")}
    for hour, (what, (changes, data)) in enumerate(others.items()):
        path = tmp_path / f"simclr-folder-20261127-09000{hour}"
        with folder(path, settings | changes, data=data):
            (path / "checkpoints" / "3").mkdir(parents=True)
        if what == "finished":
            (path / "results.json").write_text("{}")

    def found():
        return unfinished(new, settings | {"steps": 12}, may_differ={"steps"}, data="abc")

    assert found() is None
    for name in ("simclr-folder-wide-20261127-080000", "simclr-folder-20261127-070000"):
        assert found() is None  # of another data set
        with folder(tmp_path / name, settings, data="abc"):
            assert found() is None  # before its first checkpoint there is nothing to go on with
            (tmp_path / name / "checkpoints" / "3").mkdir(parents=True)
            assert found() is None  # a process is at it
    assert found() == tmp_path / "simclr-folder-20261127-070000"
    (tmp_path / "simclr-folder-20261127-080000").mkdir()
    (tmp_path / "simclr-folder-20261127-080000" / "config.json").write_text("[")
    (tmp_path / "simclr-folder-20261127-080000" / "checkpoints" / "3").mkdir(parents=True)
    assert found() == tmp_path / "simclr-folder-20261127-070000"


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


def test_a_folder_that_is_removed_or_moved_in_training_is_noticed_at_the_next_line(tmp_path):
    for gone in (shutil.rmtree, lambda path: path.rename(tmp_path / "elsewhere")):
        with folder(tmp_path / "run") as run:
            run.rewind(0)
            run.log(1, 0.5, "train", {"loss": 0.5})
            gone(tmp_path / "run")
            with pytest.raises(WriteError, match=r"metrics\.jsonl cannot be written: No such file"):
                run.log(2, 1.0, "train", {"loss": 0.5})


def test_a_full_disk_is_a_line_and_what_was_written_is_whole(tmp_path):
    """A limit on the size of files is the disk that a test can fill; SIGXFSZ is off in Python."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with folder(tmp_path) as run:
        run.rewind(0)
        run.log(1, 0.5, "train", {"loss": 0.5})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(WriteError, match="MB free there: free space, and the same command"):
                run.log(2, 1.0, "train", {"loss": 0.5})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with folder(tmp_path) as run:
        assert [row["step"] for row in run.rewind(9)] == [1]
        run.log(2, 1.0, "train", {"loss": 0.5})
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_lost_and_damaged_lines_are_said(tmp_path, capsys):
    with folder(tmp_path) as run:
        run.rewind(0)
        for step in (1, 2, 3):
            run.log(step, step / 2, "train", {"loss": 0.5})
        assert run.lines == 3
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 2', '"step": 0'))
    with folder(tmp_path) as run:
        assert [row["step"] for row in run.rewind(3, lines=3)] == [1, 3]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{path}: 1 damaged lines are left out"
    assert said[1].startswith(f"{path}: 2 of the 3 lines that were written to step 3: ")


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "config.json", "tensorboard"])
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_a_line(tmp_path, name):
    for make in (os.mkdir, os.mkfifo):
        path = tmp_path / make.__name__
        with folder(path):
            pass
        with contextlib.suppress(FileNotFoundError):
            (path / name).unlink()
        make(path / name)
        with contextlib.suppress(InputError), folder(path) as run:
            run.rewind(0)


def test_what_a_killed_writer_left_is_swept(tmp_path):
    with folder(tmp_path):
        pass
    left = tmp_path / "report" / f".index.html.00000000-{2**22 + 1}-0123ab.tmp"
    left.parent.mkdir()
    left.touch()
    with folder(tmp_path):
        assert not left.exists()
