"""The notebooks of docs/ run from top to bottom; studies in test_simclr and test_outside."""

from __future__ import annotations

import math

import numpy as np

from .conftest import NOTEBOOKS, run_notebook


def test_a_loss_in_a_step_of_ones_own():
    names = run_notebook("own_step", STEPS=2, BATCH=16)
    assert len(names["losses"]) == 2
    assert all(0 < loss < 2 * math.log(31) for loss in names["losses"])
    assert names["params"][0].sharding.is_fully_replicated


def test_embeddings_of_ones_images(capsys):
    names = run_notebook("own_images")
    assert names["h"].shape == (200, 256)
    nearest = np.argmax((names["unit"] @ names["unit"].T)[0, 1:]) + 1
    said = capsys.readouterr().out
    assert f"like {names['images'].ids[0]} are ['{names['images'].ids[nearest]}'" in said


def test_each_notebook_is_run_by_a_test():
    tests = "".join(file.read_text() for file in NOTEBOOKS.parents[1].glob("tests/**/test_*.py"))
    assert all(f'run_notebook("{file.stem}"' in tests for file in NOTEBOOKS.glob("*.py"))
