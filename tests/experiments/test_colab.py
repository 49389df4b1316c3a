"""The notebook is what its source makes; it runs from top to bottom in test_simclr."""

import ast
import importlib.metadata
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from PIL import Image

from experiments import cli, presets, uploads
from jaxssl.errors import InputError

from .conftest import ROOT, colab_cells, execute_colab

TRAIN = 'f"experiments.{PROGRAM}"'  # what the cell has that trains


def test_the_notebook_is_what_its_source_makes():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/make_notebook.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    both = colab_cells("markdown") + colab_cells("code")
    assert all(set(cell) >= {"id", "metadata", "source"} for cell in both)
    assert not any("# %%" in line or line == '"""\n' for cell in both for line in cell["source"])
    # The source is a program too, and says the same as the cells in order.
    in_order = "\n".join("".join(cell["source"]) for cell in colab_cells("code"))
    compile(in_order, "cells", "exec")


def test_a_setting_that_is_wrong_ends_in_a_sentence(tmp_path):
    done = execute_colab({"IMAGES": "not/there", "SOURCE": ""}, tmp_path)
    assert done.returncode
    assert "IMAGES is 'not/there', which is not there." in done.stderr
    assert "experiments.simclr" not in done.stdout


def named(*names):
    """Values that the notebook's cells assign, found without running anything else."""
    found = {}
    for cell in colab_cells("code"):
        for node in ast.parse("".join(cell["source"])).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in names:
                found[ast.unparse(node.targets[0])] = eval(ast.unparse(node.value))
    return [found[name] for name in names]


def test_the_names_it_knows_before_the_package_is_there_are_the_packages():
    programs, with_images, for_yours = named("PROGRAMS", "PRESETS_WITH_IMAGES", "PRESETS_FOR_YOURS")
    assert set(programs) == set(cli.STUDIES) - {"finetune", "frozen"}
    folders = {name for name, p in presets.PRESETS.items() if p.get("dataset") == "folder"}
    assert set(for_yours) == folders
    assert set(with_images) == presets.PRESETS.keys() - folders


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"PROGRAM": "simcrl"}, "PROGRAM is 'simcrl': choose simclr, supcon, "),
        ({"PRESET": "digit"}, "PRESET is 'digit': choose digits, "),
        ({"PRESET": None}, "PRESET is None: it must be a text in quotes."),
        ({"FLAGS": "--seen 'copepod"}, "FLAGS cannot be read (No closing quotation)"),
        ({"FLAGS": "--epochs 2 --run_dir=x"}, "FLAGS has --run-dir: set RUNS and RUN above"),
        ({"FLAGS": "--preset folder"}, "FLAGS has --preset: set PRESET above"),
        ({"RUN": ""}, "RUN is '': it must be the name of one folder"),
        ({"RUN": "/content/drive/MyDrive/a"}, "it must be the name of one folder"),
        ({"RUNS": "README.md"}, "RUNS is 'README.md', where no folder can be made"),
        ({"RUNS": "/content/drive/MyDrive/a"}, "RUNS lies on Drive, which is there in Colab alone"),
        ({"SOURCE": "not/there.zip"}, "SOURCE is 'not/there.zip', which is not there"),
        ({"IMAGES": "tests"}, "IMAGES is 'tests', but PRESET 'digits' brings its own images"),
        (
            {"IMAGES": "tests", "PRESET": "cifar10-cpu"},
            'brings its own images: for yours set PRESET to "folder-lite0" or "folder"',
        ),
        ({"IMAGES": "upload"}, "Outside of Colab there is no upload"),
        ({"PRESET": "folder"}, "PRESET 'folder' is for images of your own, but IMAGES is \"\""),
    ],
)
def test_a_wrong_setting_ends_in_a_sentence_before_anything_is_installed(
    settings, sentence, tmp_path
):
    done = execute_colab({"RUNS": str(tmp_path / "runs"), **settings}, tmp_path, before=TRAIN)
    assert done.returncode
    assert sentence in done.stderr
    assert "on cpu" not in done.stdout  # which the cell that installs says at its end


@pytest.fixture
def colab(tmp_path):
    """The notebook in a Colab of stubs, up to where it trains: drive, uploads, pip."""
    stubs = tmp_path / "stubs"
    (stubs / "google" / "colab").mkdir(parents=True)
    (stubs / "google" / "colab" / "drive.py").write_text(
        "def mount(place):\n    raise ValueError('mount failed')\n"
    )
    (stubs / "google" / "colab" / "files.py").write_text(
        "import json, os, pathlib\n\n"
        "def upload():\n"
        "    print('an upload is offered')\n"
        "    chosen = map(pathlib.Path, json.loads(os.environ['CHOSEN']))\n"
        "    return {path.name: path.read_bytes() for path in chosen}\n"
    )
    (stubs / "pip.py").write_text("")

    def run(*chosen, **settings):
        files = json.dumps([str(tmp_path / name) for name in chosen])
        given = {"RUNS": str(tmp_path / "runs"), **settings}
        environment = {**os.environ, "COLAB_RELEASE_TAG": "release", "CHOSEN": files}
        return execute_colab(given, tmp_path, environment, stubs=stubs, before=TRAIN)

    return run


def test_drive_refused_is_a_sentence(colab):
    done = colab(RUNS="/content/drive/MyDrive/jaxssl")
    assert "Drive was not mounted (mount failed): allow it when Colab asks, or" in done.stderr
    assert "not on Drive in RUNS." in done.stderr


def test_imagenets_weights_are_installed_for_the_presets_that_begin_with_them(colab, tmp_path):
    (tmp_path / "images").mkdir()
    images = str(tmp_path / "images")
    done = colab(PRESET="folder-lite0", IMAGES=images)
    assert "jaxssl[experiments,pretrained] @ file:///" in done.stdout
    assert "jaxssl[experiments] @ file:///" in colab().stdout
    told = "".join(line for cell in colab_cells("code")[:1] for line in cell["source"])
    assert 'begin with "folder-lite0"' in told


def picture(path, grey=100, size=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), grey).save(path)
    return path


def zipped(path, contents):
    """A zip of pictures, name -> grey, and of other files, name -> bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as out:
        for name, content in contents.items():
            if isinstance(content, int):
                buffer = io.BytesIO()
                Image.new("L", (9, 9), content).save(buffer, "PNG")
                content = buffer.getvalue()
            out.writestr(name, content)
    return path


def kept(tmp_path):
    files = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    return [zipfile.ZipFile(p).namelist() for p in files]


UPLOAD = {"IMAGES": "upload", "PRESET": "folder"}


def test_an_upload_that_was_cancelled_is_a_sentence(colab, tmp_path):
    done = colab(IMAGES="upload")
    assert "IMAGES is 'upload', but PRESET 'digits' brings its own images" in done.stderr
    done = colab(**UPLOAD)
    assert "Nothing was uploaded: run all cells again and choose" in done.stderr
    assert kept(tmp_path) == []


def test_a_bad_upload_is_not_kept_and_the_next_is_offered(colab, tmp_path):
    (tmp_path / "corrupt.zip").write_bytes(b"PK no zip")
    zipped(tmp_path / "good.zip", {"a/1.png": 10, "b/2.png": 20})
    done = colab("corrupt.zip", **UPLOAD)
    assert "uploads: corrupt.zip is no zip, or it is cut short or damaged" in done.stdout
    assert "The upload is not kept; the line above says why." in done.stderr
    assert kept(tmp_path) == []
    done = colab("good.zip", **UPLOAD)
    assert done.returncode == 0, done.stderr
    assert "an upload is offered" in done.stdout
    assert kept(tmp_path) == [["a/1.png", "b/2.png"]]
    done = colab(**UPLOAD)  # another session
    assert done.returncode == 0, done.stderr
    assert "an upload is offered" not in done.stdout
    assert str(tmp_path / "runs") in done.stdout


def test_of_several_files_all_are_used(colab, tmp_path):
    for grey in range(3):
        picture(tmp_path / f"{grey}.png", grey)
    done = colab("0.png", "1.png", "2.png", **UPLOAD)
    assert done.returncode == 0, done.stderr
    assert kept(tmp_path) == [["0.png", "1.png", "2.png"]]
    assert "3 images of 0.png, 1.png, 2.png" in done.stdout


def join(tmp_path, **options):
    return uploads.join(tmp_path / "up", tmp_path / "runs" / "uploaded.zip", **options)


def test_zips_are_joined_as_if_unpacked_into_one_folder(tmp_path):
    up = tmp_path / "up"
    zipped(up / "one.zip", {"one/a/1.png": 10, "one/b/2.png": 20, "__MACOSX/x": b"one"})
    zipped(up / "two.zip", {"a/3.png": 30, "b/2.png": 20, "__MACOSX/x": b"two"})
    zipped(up / "three.zip", {"notes/read me.txt": b"no image"})
    (up / "labels.csv").write_text("image,label\n1.png,a\n")
    assert "3 images of labels.csv, one.zip, three.zip, two.zip" in join(tmp_path)
    assert [sorted(names) for names in kept(tmp_path)] == [
        ["a/1.png", "a/3.png", "b/2.png", "labels.csv", "notes/read me.txt"]
    ]


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "nothing was uploaded"),
        ({"a.rar": b"", "b.png": 1}, "a.rar is an archive that is not opened: make a zip of it"),
        ({"notes.txt": b""}, "uploaded.zip holds no image"),
        ({"one.zip": b"", "b.png": 1}, "one.zip is no zip, or it is cut short or damaged"),
        ({"bad.png": b"no png", "b.png": 1}, "uploaded.zip cannot be read"),
    ],
)
def test_an_upload_that_cannot_be_used_is_a_line_and_leaves_nothing(files, line, tmp_path):
    (tmp_path / "up").mkdir()
    for name, content in files.items():
        if isinstance(content, int):
            picture(tmp_path / "up" / name, content)
        else:
            (tmp_path / "up" / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        join(tmp_path)
    assert line in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
    assert kept(tmp_path) == []


def test_two_files_of_one_name_are_never_one_of_them(tmp_path):
    zipped(tmp_path / "up" / "one.zip", {"a/1.png": 10})
    zipped(tmp_path / "up" / "two.zip", {"a/1.png": 20})
    with pytest.raises(InputError, match=r"one\.zip and two\.zip both hold 'a/1\.png'.* rename"):
        join(tmp_path)


def test_unreadable_images_are_kept_where_the_flags_skip_them(tmp_path):
    picture(tmp_path / "up" / "a.png")
    (tmp_path / "up" / "b.png").write_bytes(b"no png")
    into = tmp_path / "runs" / "uploaded.zip"
    uploads.main([str(tmp_path / "up"), str(into), "--seen", "a", "--on-bad-image", "skip", "-h"])
    assert kept(tmp_path) == [["a.png", "b.png"]]


def test_a_gpu_whose_jax_has_no_cuda_is_told_so(tmp_path):
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    names = {"jax-cuda12-plugin", "jax-cuda13-plugin"}
    if names & {d.metadata["Name"] for d in importlib.metadata.distributions()}:
        pytest.skip("jax has CUDA here")
    environment = {**os.environ, "PATH": path, "JAX_PLATFORMS": ""}
    done = execute_colab({"RUNS": str(tmp_path / "runs")}, tmp_path, environment, before=TRAIN)
    assert "JAX does not reach this runtime's GPU. jax is installed without CUDA" in done.stderr


def test_without_a_report_there_is_a_sentence(tmp_path):
    done = execute_colab({"RUNS": str(tmp_path / "runs"), "FLAGS": "--help"}, tmp_path)
    assert "There is no report at " in done.stderr


def test_the_stop_button_waits_until_the_program_has_saved(tmp_path):
    # A shell ignores Ctrl-C in what it runs behind, and so do that one's children.
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    child = heard + (
        "import time\ntry:\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5)\n    print('saved', flush=True)\n"
        "    raise SystemExit(130)\n"
    )
    (cell,) = (c["source"] for c in colab_cells("code") if "def say(" in "".join(c["source"]))
    script = heard + "".join(cell) + f"\nprint('code', say([sys.executable, '-c', {child!r}]))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.stdout.readline() != "begun\n":
        assert process.poll() is None
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as Jupyter sends it
    told, error = process.communicate(timeout=60)
    assert told == "saved\ncode 130\n", error
