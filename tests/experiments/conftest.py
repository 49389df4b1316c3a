"""Small runs of a study on scikit-learn's digits, in this process and on its eight devices."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from experiments import study
from jaxssl import analysis
from jaxssl.files import read_lines

SMALL = {
    "seen": ("0", "1", "2"),
    "unseen": ("6", "7"),
    "image_size": 16,
    "batch_size": 32,
    "log_every": 1,
    "draws": 2,
    "labels": (10, 30),
}


ROOT = Path(__file__).parents[2]
STUBS = Path(__file__).parents[1] / "stubs"  # on the PYTHONPATH of a program: no umap-learn


def small(program: Any, **changes: Any) -> Any:
    """A program's configuration of the digits, on three classes."""
    return dataclasses.replace(program.PRESETS["digits"], **{**SMALL, **changes})


def train(program: Any, config: Any, on_validation: Any = None) -> SimpleNamespace:
    """A study as far as its training: what follows costs many times as much."""
    with study.open(config) as run:
        data = study.load(run)
        method = program.make_method(config, data)
        trained = study.train(run, data, method, on_validation)
    rows = read_lines(trained.folder.path / "metrics.jsonl")
    return SimpleNamespace(
        config=config,
        run=run,
        data=data,
        method=method,
        trained=trained,
        rows=rows,
        folder=trained.folder.path,
        last=trained.states["last"],
    )


def numbers(rows: list[dict[str, Any]], split: str | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what a clock says."""
    return [
        {name: value for name, value in row.items() if name not in ("time", "input_wait")}
        for row in rows
        if split in (None, row["split"])
    ]


NOTEBOOKS = ROOT / "docs" / "notebooks"


def run_notebook(name: str, **settings: Any) -> dict[str, Any]:
    """Run a notebook of the documentation from top to bottom, with other settings.

    Those of a run that a fixture has trained go on at its end: nothing is trained twice.
    """
    text = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
    parts = re.split(r"^# %%(.*)$", text, flags=re.MULTILINE)
    told = []
    for mark, cell in zip(parts[1::2], parts[2::2], strict=True):
        told.append(cell)
        if "parameters" in mark:
            known = {n.targets[0].id for n in ast.parse(cell).body if isinstance(n, ast.Assign)}
            assert settings.keys() <= known
            told.append("".join(f"{one} = {value!r}\n" for one, value in settings.items()))
    module = ModuleType(name)
    exec(compile("".join(told), f"{name}.py", "exec"), vars(module))
    return vars(module)


def colab_cells(kind: str) -> list[dict[str, Any]]:
    """Cells of Colab's notebook, "code" or "markdown"."""
    book = json.loads((ROOT / "experiments" / "colab.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == kind]


def execute_colab(
    settings: dict[str, Any],
    tmp_path: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    stubs: Path = STUBS,
    before: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run all code cells of Colab's notebook, with other settings, in a process of its own.

    Modules in `stubs` take the place of those installed; `before`: only the cells before the one
    that has this text.
    """
    sources = []
    for cell in colab_cells("code"):
        source = "".join(cell["source"])
        if before is not None and before in source:
            break
        if "parameters" in cell["metadata"].get("tags", ()):
            source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in settings.items())
        sources.append(source)
    if importlib.util.find_spec("nbclient"):
        script = (
            "import json, sys, nbformat, nbclient\n"
            "book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)"
            " for source in json.load(open(sys.argv[1]))])\n"
            "book = nbclient.NotebookClient(book, timeout=600).execute()\n"
            "for cell in book.cells:\n"
            "    for output in cell.outputs:\n"
            "        print(output.get('text', ''), end='')\n"
            "        print('iframe' if 'iframe' in str(output.get('data', '')) else '')\n"
        )
    else:
        script = (
            "import json, sys\n"
            "names = {'__name__': '__main__'}\n"
            "for source in json.load(open(sys.argv[1])):\n"
            "    exec(compile(source, 'cell', 'exec'), names)\n"
        )
    file = tmp_path / "cells.json"
    file.write_text(json.dumps(sources))
    return subprocess.run(
        [sys.executable, "-c", script, file],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": f"{stubs}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def no_umap(monkeypatch):
    """Tables without a map: numba takes seconds to compile one, and it is tested elsewhere."""
    monkeypatch.setattr(analysis, "with_map", lambda tables: tables)


@pytest.fixture(autouse=True)
def signals():
    """What a program that ends leaves to the system is this process's again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
