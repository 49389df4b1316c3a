"""Folders as their owners have them, by the command that they would type first."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli, folders, simclr
from jaxssl import analysis, files, training

DATA = Path(os.environ.get("JAXSSL_DATA", "absent"))
SCRIPT = DATA.parent / "cases" / "layouts.py"
pytestmark = [
    pytest.mark.program,
    pytest.mark.one_device,
    pytest.mark.skipif(
        not (SCRIPT.is_file() and (DATA / "planktonset1.tar.gz").is_file()),
        reason="JAXSSL_DATA names no folder with planktonset1.tar.gz, cases/layouts.py beside it",
    ),
]
TINY = ["--image-size", "16", "--steps", "2", "--batch-size", "8", "--draws", "2", "--no-imagenet"]

# name -> what the owner types after `jaxssl simclr --data-dir X`, what the program says of it.
LAYOUTS: dict[str, tuple[list[str], list[str]]] = {
    "flat": ([], ["no labels", "all images are in the training part"]),
    "flat_in_one_folder": ([], ["images of", "all images are in the training part"]),
    "classes": ([], ["labels from the names of folders", "classes are seen"]),
    "classes --unseen 1": (["--unseen", "1"], ["1 is unseen"]),
    "classes --seen all": (["--seen", "all"], ["classes are seen, none is unseen"]),
    "presplit": ([], ["split"]),
    "table_csv": ([], ["labels from"]),
    "ecotaxa_export": ([], ["object"]),
    "ecotaxa_backup": ([], ["labels from"]),
    "scale_bar --crop-bottom auto": (
        ["--crop-bottom", "auto"],
        ["31 pixels under every picture are taken off"],
    ),
    "tiff_12_in_16": ([], ["bit"]),
    "tiff_8_in_16": ([], ["bit"]),
    "dark_field": ([], ["background: black"]),
    "rare": ([], ["left out"]),
    "links --follow-links": (["--follow-links"], ["classes"]),
    "pages": ([], ["50 images"]),
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    images = folder / "images"
    subprocess.run(["tar", "xzf", str(DATA / "planktonset1.tar.gz"), "-C", folder], check=True)
    subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "planktonset1"), str(images)],
        check=True,
        capture_output=True,
    )
    return images


class Reached(Exception):
    """A run is where its images only have to be learnt from."""


@pytest.fixture
def only_to_training(monkeypatch):
    """`with only_to_training() as batches:` the program stops at its first batch, not compiled."""
    picture = folders.save_what_goes_in

    @contextlib.contextmanager
    def stopping():
        batches = []

        def fit(state, work, **options):
            batches.append(next(iter(work.stream(0))))
            raise Reached

        def without_views(path, data, seed):
            picture(path, dataclasses.replace(data, recipe=None), seed)

        monkeypatch.setattr(training, "fit", fit)
        monkeypatch.setattr(folders, "save_what_goes_in", without_views)
        with pytest.raises(Reached):
            yield batches

    return stopping


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_first_command_works(name, layouts, only_to_training, tmp_path, capsys, monkeypatch):
    """The one without classes to the report, the others to their first batch."""
    monkeypatch.setattr(analysis, "with_map", lambda tables: tables, raising=False)
    flags, said = LAYOUTS[name]
    folder = layouts / name.split()[0]
    arguments = ["--data-dir", str(folder), *flags, *TINY, "--run-dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["simclr", *arguments])
    settings = cli.parse(arguments, simclr.PRESETS)
    if name == "flat":
        simclr.main(settings)
        assert (tmp_path / "run" / "report" / "index.html").is_file()
        assert (tmp_path / "run" / "checkpoints" / "2" / "MANIFEST.json").is_file()
    else:
        with only_to_training() as batches:
            simclr.main(settings)
        (batch,) = batches
        assert batch["image"].shape == (8, 16, 16, 1)
        assert batch["image"].std() > 0
    assert (tmp_path / "run" / "report" / "crop.png").is_file() == ("--crop-bottom" in flags)
    out = capsys.readouterr().out
    first = "\n".join(out.splitlines()[:10])
    for words in said:
        assert words in first
    assert files.read_record(tmp_path / "run")["dataset"] == "folder"
