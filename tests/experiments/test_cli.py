"""How a program reads its flags, how it ends, and what the other processes hear."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import jaxssl
from experiments import (
    cli,
    embed,
    export,
    folders,
    label_next,
    predict,
    report,
    rnn,
    simclr,
    softmax,
)
from jaxssl import data
from jaxssl.errors import InputError
from jaxssl.training import processes

ROOT = Path(__file__).parents[2]
DIGITS = rnn.PRESETS["digits"]


@pytest.fixture
def told(monkeypatch):
    """What the other processes are told when this one ends."""
    calls = []
    monkeypatch.setattr(processes, "leave", lambda *call: calls.append(call))
    return calls


def test_an_error_nobody_foresaw_is_told_to_the_other_processes(told, monkeypatch, capsys):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(SystemExit) as end, cli.ending():
        raise KeyError("label")
    assert end.value.code == 1
    assert told == [("KeyError('label')", 1)]
    assert "Traceback" in capsys.readouterr().err


def test_alone_such_an_error_is_a_plain_traceback(told, capsys):
    with pytest.raises(KeyError), cli.ending():
        raise KeyError("label")
    assert not told
    assert not capsys.readouterr().err


def test_an_interrupt_is_a_line_that_fits_programs_without_a_run_folder(told, capsys):
    with pytest.raises(SystemExit) as end, cli.ending():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert told[0][1] == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("interrupted; start the same command again")


@pytest.mark.parametrize(
    ("program", "flags", "argument", "said"),
    [
        (simclr, ["--on-bad-image", "fail"], "(on_bad_image='skip')", "(--on-bad-image skip)"),
        (simclr, ["--group-by", "["], "group_by='['", "--group-by '[': no column"),
        (simclr, ["--labels-from", "t.csv"], "(labels_from)", "(--labels-from)"),
        (simclr, [], "name the classes to read (classes)", "name the classes to read (--seen)"),
        (predict, [], "name the classes to read (classes)", "give them one name"),
    ],
)
def test_the_library_names_arguments_and_a_program_the_flags(
    told, capsys, monkeypatch, tmp_path, program, flags, argument, said
):
    for name in ("Salp", "salp", "krill"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 200).save(tmp_path / "images" / name / "0.png")
    if "--on-bad-image" in flags:
        shutil.rmtree(tmp_path / "images" / "salp")
        (tmp_path / "images" / "krill" / "1.png").write_bytes(b"no picture")

    def read(config):
        told = {name: getattr(config, name) for name in ("labels_from", "group_by")}
        data.open_images(tmp_path / "images", data.Reading(8, cache_dir=tmp_path, **told))

    presets = getattr(program, "PRESETS", {"predict": getattr(program, "Predict", object)()})
    config = cli.parse(flags, presets)
    with pytest.raises(InputError) as error:
        read(config)
    assert argument in str(error.value)
    monkeypatch.setattr(sys, "argv", ["x.py", *flags])
    with pytest.raises(SystemExit):
        cli.run(read, presets)
    line = capsys.readouterr().err
    assert said in line
    assert argument not in line


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["simcrl"], "'simcrl' is no program: did you mean simclr? choose simclr, supcon, "),
        (["label-nxt"], "did you mean label_next?"),
        (["digits"], "'digits' is no program: choose simclr, "),
    ],
)
def test_a_misspelt_program_names_the_nearest(told, capsys, monkeypatch, typed, said):
    monkeypatch.setattr(cli.malloc, "ask", lambda: None)  # it would start this process anew
    monkeypatch.setattr(sys, "argv", ["jaxssl", *typed])
    with pytest.raises(SystemExit):
        cli.front_door()
    assert said in capsys.readouterr().err


def test_the_version_is_told(monkeypatch, capsys):
    monkeypatch.setattr(cli.malloc, "ask", lambda: None)
    monkeypatch.setattr(sys, "argv", ["jaxssl", "--version"])
    cli.front_door()
    assert capsys.readouterr().out == f"jaxssl {jaxssl.__version__}\n"


def test_a_run_that_nobody_named_is_said_to_be_missing_and_runs_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = "^the folder of a finished run is missing: name it first"
    published = r"; or a published network without a run: --encoder efficientnet_lite0$"
    with pytest.raises(InputError, match=missing + published):
        embed.main(embed.Embed(data_dir="x"))
    for number in range(5):
        (tmp_path / "runs" / f"r{number}").mkdir(parents=True)
        (tmp_path / "runs" / f"r{number}" / "config.json").write_text("{}")
        os.utime(tmp_path / "runs" / f"r{number}" / "config.json", (number, number))
    newest = "such as runs/r4, runs/r3, runs/r2"
    for main in (
        lambda: embed.main(embed.Embed(data_dir="x")),
        lambda: predict.main(predict.Predict(data_dir="x")),
        lambda: label_next.main(label_next.LabelNext()),
        lambda: report.main(report.Report()),
        lambda: export.main(export.Export(to="atlas")),
    ):
        with pytest.raises(InputError, match=f"{missing}, {newest}"):
            main()
    with pytest.raises(InputError, match=f"'runs' is no run folder: it has no .*, {newest}"):
        predict.main(predict.Predict(run_dir="runs", data_dir="x"))
    with pytest.raises(InputError, match="'nowhere' is no run folder: there is no such folder"):
        predict.main(predict.Predict(run_dir="nowhere", data_dir="x"))


def test_another_interrupt_while_the_line_is_made_ends_without_a_traceback(monkeypatch):
    """Whatever is under way then is on disk whole or not there; see scripts/torture.py."""

    def again(*end):
        raise KeyboardInterrupt

    def gone(code):
        raise SystemExit(code)

    monkeypatch.setattr(cli, "_end", again)
    monkeypatch.setattr(os, "_exit", gone)
    with pytest.raises(SystemExit) as end, cli.ending():
        raise KeyboardInterrupt
    assert end.value.code == 130


def test_a_signal_outside_of_training_is_a_line_and_resumable(told, capsys):
    def stopped():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    with pytest.raises(SystemExit) as end, cli.ending():
        stopped()
    assert end.value.code == 75
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("stopped by SIGTERM outside of training; start the same command again")


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (["--data-dir", "my images"], " --data-dir 'my images' --run-dir 'runs/a b'"),
        (["--run_dir=there", "--seed", "3"], " --run_dir=there --seed 3"),
    ],
)
def test_an_interrupt_names_the_very_command_that_goes_on(told, capsys, monkeypatch, flags, more):
    """A default run folder is a new one each time: the same command would not go on."""

    def stopped(config):
        again = folders.how_to_go_on(config, "runs/a b")
        cli.goes_on(again)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_FRONT", ["jaxssl", "simclr"])
    monkeypatch.setattr(sys, "argv", ["simclr.py", *flags])
    with pytest.raises(SystemExit):
        cli.run(stopped, simclr.PRESETS)
    assert capsys.readouterr().err == f"simclr: interrupted; go on with: jaxssl simclr{more}\n"
    assert not folders.how_to_go_on(simclr.PRESETS["digits"], "runs/a")  # nobody typed a command


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_where_python_drops_exceptions_is_not_lost(told, capsys, number, code):
    """The torture hit JAX's callback of the garbage collector, and the run went on to its end."""

    class Dropped:
        def __del__(self):
            os.kill(os.getpid(), number)
            for _ in range(1000):  # the handler runs in here, and what it raises is dropped
                pass

    def stopped():
        dropped = Dropped()
        del dropped
        time.sleep(60)  # which the signal ends

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs us behind
    with pytest.raises(SystemExit) as end, cli.ending():
        stopped()
    assert end.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: free space"),
        (PermissionError(errno.EACCES, "Permission denied", "/a\nb"), r"/a\nb: Permission denied"),
        (MemoryError(), "the memory does not suffice"),
    ],
)
def test_what_no_program_can_mend_is_a_line(told, capsys, error, says):
    with pytest.raises(SystemExit) as end, cli.ending():
        raise error
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_names_are_text_on_the_terminal(capsys):
    with cli.names_as_text():
        print("class \x1b[2J\u202e\tof 3\n", end="")
        print("\r 40 %", file=sys.stderr)
    said = capsys.readouterr()
    assert said.out == "class \\x1b[2J\\u202e\tof 3\n"
    assert said.err == "\r 40 %\n"


@pytest.mark.parametrize(
    ("flags", "preset"),
    [
        ([], "digits"),
        (["--data-dir", "X"], "folder"),
        (["--data-dir=X"], "folder"),
        (["--dataset", "folder", "--data-dir", "X"], "folder"),
        (["--dataset", "plankton", "--data-dir", "X"], "plankton"),
        (["--dataset=plankton", "--data-dir", "X"], "plankton"),
        (["--preset", "plankton-cpu", "--data-dir", "X"], "plankton-cpu"),
        (["--dataset", "digits", "--data-dir", "X"], "digits"),
        (["--dataset", "cifar10", "--data-dir", "X"], "cifar10"),
    ],
)
def test_which_preset_the_flags_name(flags, preset):
    found = cli.parse(flags, simclr.PRESETS)
    folder = "X" if flags and "X" in flags[-1] else ""
    expected = dataclasses.replace(simclr.PRESETS[preset], data_dir=folder)
    assert dataclasses.replace(found, preset="") == expected
    assert found.dataset in ("digits", "folder", "cifar10")


def test_flags_win_over_their_preset():
    found = cli.parse(["--preset", "plankton-cpu", "--epochs", "3"], softmax.PRESETS)
    expected = dataclasses.replace(softmax.PRESETS["plankton-cpu"], epochs=3, preset="plankton-cpu")
    assert found == expected


def test_settings_come_from_a_file_and_flags_win(tmp_path):
    file = tmp_path / "best.json"
    settings = {"cell": "lstm", "hidden": 512, "learning_rate": 0.01, "views": "digits"}
    settings |= {"steps": None, "seen": ["3", "4"], "lookalikes": None, "dataset": "digits"}
    settings |= {"bfloat16": True, "resident": True}
    file.write_text(json.dumps(settings))
    flags = ["--hidden", "128", "--config", str(file), "--no-bfloat16"]
    config = cli.parse(flags, rnn.PRESETS)
    expected = {"cell": "lstm", "hidden": 128, "learning_rate": 0.01, "seen": ("3", "4")}
    expected |= {"views": "digits", "resident": True, "config": str(file)}
    assert config == dataclasses.replace(DIGITS, **expected)
    file.write_text(json.dumps({"dataset": "cifar10", "epochs": 3}))
    config = cli.parse([f"--config={file}"], rnn.PRESETS)
    assert config.seen == rnn.PRESETS["cifar10"].seen
    assert (config.image_size, config.epochs) == (32, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"hiden": 3, "cell": "gru", "depth": 1}', "this program has not: depth, hiden"),
        ("{", "cannot be read as JSON"),
        ("[1]", "holds a list, not an object"),
        (None, "there is no such file"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message, monkeypatch, capsys):
    file = tmp_path / "best.json"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["rnn", "--config", str(file)])
    with pytest.raises(SystemExit) as end:
        cli.run(rnn.main, rnn.PRESETS)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    with pytest.raises(InputError, match=message):
        cli.parse(["--config", str(file)], rnn.PRESETS)


def test_what_does_not_exist_is_one_line():
    with pytest.raises(InputError, match="'planktn' is no dataset or preset here: choose digits"):
        cli.parse(["--dataset", "planktn"], simclr.PRESETS)
    with pytest.raises(InputError, match="'vgg' is no study: choose simclr, supcon"):
        cli.load_program("vgg")


def test_a_flag_that_does_not_exist_has_the_exit_code_of_a_mistake(capsys):
    with pytest.raises(SystemExit) as end:
        cli.parse(["--temprature", "1"], simclr.PRESETS)
    assert end.value.code == 2
    assert "temprature" in capsys.readouterr().err


def test_a_file_is_imported_only_where_it_is_named_and_must_be_a_study(tmp_path):
    file = tmp_path / "other.py"
    file.write_text("PRESETS = {}\n")
    with pytest.raises(InputError, match="defines no study: it has no make_method"):
        cli.load_program(str(file))
    file.write_text("import no_such_module\n")
    with pytest.raises(InputError, match="cannot be imported: ModuleNotFoundError"):
        cli.load_program(str(file))


def test_the_front_door_lists_the_programs_and_runs_one(tmp_path):
    """From a folder that has an `experiments` of its own."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise SystemExit('not this one')")
    door = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['jaxssl', *sys.argv[1:]]\n"
    door += "from experiments.cli import front_door; front_door()"

    def jaxssl(*flags):
        return subprocess.run(
            [sys.executable, "-c", door, *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    menu = jaxssl("--help")
    for name in (*cli.STUDIES, *cli.TOOLS):
        assert f"\n  {name} " in menu.stdout
    shown = jaxssl("report", "nowhere")
    assert shown.returncode == 2
    (line,) = shown.stderr.splitlines()
    assert line.startswith("report: ")
    assert "nowhere" in line
    wrong = jaxssl("simclrr")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
