"""Two real processes train as one: the program on both, stopped by a signal to one of them."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments import simclr
from jaxssl import data, embedding, models, training
from jaxssl.files import read_json
from jaxssl.files import read_lines as read_metrics
from jaxssl.training import devices
from jaxssl.training.checkpoint import damage

from .conftest import small, train

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.program

# Validated after every fourth step.
CONFIG = small(simclr, steps=720, evaluate_epochs=0.33)
FLAGS = ["--batch-size", "32", "--steps", "720", "--evaluate-epochs", "0.33", "--log-every", "1"]
FLAGS += ["--seen", "0", "1", "2", "--unseen", "6", "7"]


def train_rows(folder: Path) -> dict[int, dict]:
    rows = read_metrics(folder / "metrics.jsonl")
    return {row["step"]: row for row in rows if row["split"] == "train"}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two processes of a device each, until a signal to the second stops both."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
    }
    flags = [*FLAGS, "--coordinator", f"127.0.0.1:{port}", "--processes", "2"]
    # Only the first is told the folder: the second takes it from there.
    own = [["--run-dir", str(folder / "run")], []]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "experiments.simclr", *flags, "--process", str(i), *own[i]],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    try:
        while len(train_rows(folder / "run")) < 4:
            assert [process.poll() for process in both] == [None, None], both[1].communicate()
            time.sleep(0.2)
        both[1].send_signal(signal.SIGTERM)
        said = [process.communicate() for process in both]
    finally:
        for process in both:
            process.kill()
    return folder / "run", [process.returncode for process in both], said


def test_a_signal_to_one_stops_both_at_one_step_and_saves_it(two):
    folder, codes, said = two
    assert codes == [75, 75]
    lines = [stderr.splitlines()[-1] for _, stderr in said]
    assert lines[0] == lines[1]
    assert "stopped by a signal to one of the processes after step" in lines[0]
    step = max(train_rows(folder))
    assert f"after step {step} of 720" in lines[0]
    assert damage(folder / "checkpoints" / str(step)) is None


def test_only_the_first_prints_and_it_says_where(two):
    folder, _, said = two
    assert "on 2 x cpu in 2 processes" in said[0][0]
    assert said[1][0] == ""
    assert read_json(folder / "config.json")["devices"] == "2 x cpu in 2 processes"
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl")]
    assert steps == sorted(steps)


def test_the_losses_are_one_process_and_its_checkpoint_goes_on_in_one(two, tmp_path, monkeypatch):
    """Batches, keys, negatives and BatchNorm are those of two devices in one process."""
    mesh = jax.sharding.Mesh(jax.devices()[:2], ("data",), axis_types=(AxisType.Auto,))
    placement = devices.Placement(NamedSharding(mesh, P("data")), NamedSharding(mesh, P()))
    monkeypatch.setattr(training, "data_placement", lambda batch_size: placement)
    folder, _, _ = two
    rows = train_rows(folder)
    total = max(rows) + 2
    for run_dir in (folder, tmp_path / "run"):  # goes on, and from the start
        config = dataclasses.replace(CONFIG, steps=total, run_dir=str(run_dir))
        train(simclr, config)
    one = train_rows(tmp_path / "run")
    went_on = train_rows(folder)
    assert went_on.keys() == one.keys() == set(range(1, total + 1))
    assert {step: went_on[step] for step in rows} == rows
    for name in ("loss", "grad_norm"):
        ours, theirs = ([run[step][name] for step in one] for run in (went_on, one))
        np.testing.assert_allclose(ours[:4], theirs[:4], rtol=1e-5)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    alone = read_metrics(tmp_path / "run" / "metrics.jsonl")
    together = read_metrics(folder / "metrics.jsonl")
    for a, b in zip(alone, together, strict=True):
        if a["split"] == "val" and a["step"] < max(rows):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


EMBED = """
import sys, numpy as np
from jaxssl import data, embedding, models
from jaxssl.training import processes
port, process, out = sys.argv[1:]
processes.join(f"127.0.0.1:{port}", 2, int(process))
import jax
assert jax.process_count() == 2
encoder = models.ConvNet(channels=1, rngs=models.Rngs(0))
images = data.load_digits(size=16).subset(np.arange(300))  # a batch and a part of one
np.save(f"{out}-{process}.npy", embedding.embed(images, encoder))
processes.leave()
"""


def test_two_processes_embed_images_in_their_order(tmp_path):
    """Each reads and sends its own part of every batch; both have all rows, in the set's order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=2"),
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-c", EMBED, str(port), str(i), str(tmp_path / "h")],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    ends = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    encoder = models.ConvNet(channels=1, rngs=models.Rngs(0))
    images = data.load_digits(size=16).subset(np.arange(300))
    alone = embedding.embed(images, encoder)
    for i in (0, 1):
        np.testing.assert_allclose(np.load(tmp_path / f"h-{i}.npy"), alone, atol=1e-5)
