"""Small runs of a study on scikit-learn's digits, in this process and on its eight devices."""

from __future__ import annotations

import ast
import dataclasses
import re
import signal
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


NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


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
