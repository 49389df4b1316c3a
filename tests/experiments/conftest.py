"""Small runs of a study on scikit-learn's digits, in this process and on its eight devices."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
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


@pytest.fixture
def no_umap(monkeypatch):
    """Tables without a map: numba takes seconds to compile one, and it is tested elsewhere."""
    monkeypatch.setattr(analysis, "with_map", lambda tables: tables)
