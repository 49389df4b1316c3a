"""The short form of scripts/torture.py: a damaged run folder, read by report and comparison."""

import shutil

import numpy as np
import pytest

from jaxssl import files
from jaxssl.analysis.methods import label_rows, read_methods
from jaxssl.analysis.run import read_run


@pytest.fixture
def damages(load_script):
    return load_script("_damages.py")


def report(folder):
    run = read_run(folder)
    if not run.results:
        print("the program says: no results.json")
    if not run.metrics:
        print("the page says: metrics.jsonl is missing or empty")
    tables = [
        (name, part, table.ids, table.class_names, table.metadata, table.vectors.tobytes())
        for name, sets in run.tables.items()
        for part, table in sets.items()
    ]
    return repr((run.results, run.metrics, run.record, tables))


def compare(folder):
    return repr([label_rows(method) for method in read_methods([folder])])


def copy_sealed(run, folder):
    """The run as today's writers leave it: its config and its metrics with their checksums."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report"))
    files.write_record(folder / "config.json", files.read_json(folder / "config.json"))
    rows = files.read_lines(folder / "metrics.jsonl")
    files.write_text(folder / "metrics.jsonl", "".join(map(files.line_of, rows)))
    return folder


def test_every_damage_of_every_file_is_a_line_or_changes_nothing(run, damages, tmp_path):
    folder = copy_sealed(run, tmp_path / "run")
    found = damages.torture(
        folder,
        {"report": report, "compare": compare},
        count=32,
        files=lambda name: name.suffix != ".lock" and name.name != "skipped.json",
    )
    assert found["faults"] == []
    assert found["readings"] == 64
    assert found["outcomes"]["refused in a line"] > 12


def test_the_torture_itself_notices_a_silent_change(run, damages, tmp_path):
    def careless(folder):
        return np.frombuffer((folder / "results.json").read_bytes(), np.uint8).sum()

    folder = copy_sealed(run, tmp_path / "run")
    damages.SECONDS = 1
    found = damages.torture(
        folder, {"careless": careless}, count=16, files=lambda name: name.name == "results.json"
    )
    kinds = {fault.split("FAULT: ")[1].split(":")[0] for fault in found["faults"]}
    assert kinds == {"silently another", "traceback", "hangs"}
