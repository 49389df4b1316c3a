"""The program as a person runs it: finished, stopped, killed, resumed, on one device and on eight.

All others stop and resume by the same loop and the same verbs, so this one stands for them. Its
processes are compiled with XLA's optimisations, as a user's are; their map is a stub's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp

from experiments import embed, report, simclr, study
from jaxssl import analysis, augment, embedding
from jaxssl.analysis.embeddings import load
from jaxssl.data import load_digits, train_stream
from jaxssl.errors import InputError
from jaxssl.files import read_json, read_lines, read_record

from .conftest import ROOT, STUBS, execute_colab, numbers, run_notebook, small, train

pytestmark = pytest.mark.program

# Nine steps, six an epoch; every third is evaluated and saved.
CONFIG = small(simclr, batch_size=64, steps=9, evaluate_epochs=0.5)
FLAGS = ["--steps", "9", "--evaluate-epochs", "0.5", "--log-every", "1", "--draws", "2"]
FLAGS += [
    "--batch-size",
    "64",
    "--labels",
    "10",
    "30",
    "--seen",
    "0",
    "1",
    "2",
    "--unseen",
    "6",
    "7",
]
SETS = {"train": 403, "val": 27, "test": 107, "unseen": 360}


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "experiments.simclr", *flags]


def environment() -> dict[str, str]:
    flags = "--xla_force_host_platform_device_count=1"
    if version("jaxlib").startswith("0.10."):  # as in tests/conftest.py: the same code, sooner
        flags += " --xla_cpu_parallel_codegen_split_count=1"
    optimised = {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    return os.environ | optimised | {"PYTHONPATH": str(STUBS)}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """An uninterrupted run on one device."""
    folder = tmp_path_factory.mktemp("one") / "run"
    done = subprocess.run(
        command(*FLAGS, "--run-dir", str(folder)),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def rows_of(folder: Path) -> list[dict]:
    return numbers(read_lines(folder / "metrics.jsonl"))


def test_the_first_line_says_what_and_the_last_where(one):
    folder, done = one
    assert done.stdout.splitlines()[0] == (
        "SimCLR on digits: convnet, 9 steps in batches of 64 at 16 px grey, on 1 x cpu"
    )
    assert done.stdout.splitlines()[-1] == f"report: {folder / 'report' / 'index.html'}"
    assert "balanced accuracy on unseen classes" in done.stdout


def test_the_run_folder_is_whole(one):
    folder, _ = one
    results = json.loads((folder / "results.json").read_text())
    rows = results["label_efficiency"]
    assert {row["embedding"] for row in rows} >= {"h", "untrained", "raw_pixels"}
    assert {row["classifier"] for row in rows} == {"svc", "linear", "knn"}
    assert {"set", "labels", "mean", "low", "high", "draws"} <= rows[0].keys()
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows)
    assert results["training"]["steps"] == 9
    assert {"training", "embedding", "analysis"} <= results["wall_seconds"].keys()
    record = json.loads((folder / "config.json").read_text())
    assert record["config"]["temperature"] == CONFIG.temperature
    assert record["command"].startswith("python -m experiments.simclr --steps 9")
    assert {name: record[name] for name in ("format", "study", "program", "dataset")} == {
        "format": 2,
        "study": "SimCLR",
        "program": "simclr",
        "dataset": "digits",
    }
    sizes = {name: len(load(folder / "embeddings" / f"{name}.parquet")) for name in SETS}
    assert sizes == SETS
    table = load(folder / "embeddings" / "unseen.parquet")
    assert table.class_list == ("6", "7")
    assert table.metadata["layer"] == "h"
    assert table.metadata["config_hash"] == record["hash"]
    assert (folder / "report" / "views.png").stat().st_size
    assert (folder / "report" / "index.html").stat().st_size


def test_health_is_logged_against_chance(one):
    rows = rows_of(one[0])
    train = [row for row in rows if row["split"] == "train"]
    val = [row for row in rows if row["split"] == "val"]
    assert [row["step"] for row in train] == list(range(1, 10))
    assert [row["step"] for row in val] == [3, 6, 9]
    assert train[0]["chance"] == pytest.approx(np.log(2 * 64 - 1), abs=1e-5)
    assert val[0]["chance"] == pytest.approx(np.log(2 * 24 - 1), abs=1e-5)
    names = {"loss", "alignment", "uniformity", "z_std", "effective_rank"}
    assert all(names <= row.keys() for row in val)
    assert ["knn_accuracy" in row for row in val] == [False, True, True]  # at the end of an epoch
    assert train[-1]["loss"] < train[0]["loss"] < train[0]["chance"] + 1


def start_and_send(number: signal.Signals, when: Path, *flags: str) -> tuple[int, str]:
    """Exit code and last line of a program that is sent a signal as soon as a file is there."""
    with subprocess.Popen(
        command(*flags),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (when.exists() and when.stat().st_size):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        _, error = process.communicate()
    return process.returncode, (error.strip().splitlines() or [""])[-1]


def test_stopped_killed_and_resumed_in_the_notebook_ends_bit_for_bit(one, tmp_path):
    """Colab's notebook, from top to bottom, is the last to go on with it."""
    folder = tmp_path / "run"
    flags = [*FLAGS, "--run-dir", str(folder)]
    code, line = start_and_send(signal.SIGTERM, folder / "metrics.jsonl", *flags)
    assert code == 75
    assert line.startswith("simclr: stopped by SIGTERM after step ")
    assert str(folder) in line  # says how to go on
    stopped = max(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    assert f"after step {stopped} of 9" in line
    assert stopped < 9
    saved = folder / "checkpoints" / str(stopped // 3 * 3 + 3) / "MANIFEST.json"
    code_of_kill = -signal.SIGKILL
    assert start_and_send(signal.SIGKILL, saved, *flags)[0] == code_of_kill
    settings = {"RUNS": str(tmp_path), "RUN": "run", "FLAGS": shlex.join(FLAGS)}
    done = execute_colab(settings, tmp_path, environment())
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    assert "\ncpu; " in done.stdout  # the device was asked for its name
    page = folder / "report" / "index.html"
    assert page.is_file()
    assert f"also as a file: {page}" in done.stdout
    assert rows_of(folder) == rows_of(one[0])
    for name in SETS:
        mine = load(folder / "embeddings" / f"{name}.parquet")
        theirs = load(one[0] / "embeddings" / f"{name}.parquet")
        assert mine.vectors.tobytes() == theirs.vectors.tobytes()
        assert mine.ids == theirs.ids


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The same in this process, which has eight devices, to the first validation."""
    folder = tmp_path_factory.mktemp("eight") / "run"
    return train(simclr, dataclasses.replace(CONFIG, run_dir=str(folder), steps=3))


def test_eight_devices_give_the_losses_of_one(eight, one):
    mine, theirs = (
        [row["loss"] for row in numbers(rows, "train")][:3]
        for rows in (eight.rows, read_lines(one[0] / "metrics.jsonl"))
    )
    assert len(mine) == 3
    assert mine == pytest.approx(theirs, rel=2e-4)
    # Of the 27 validation images both take the same 24.
    mine, theirs = (
        next(row["loss"] for row in numbers(rows, "val"))
        for rows in (eight.rows, read_lines(one[0] / "metrics.jsonl"))
    )
    assert mine == pytest.approx(theirs, rel=1e-2)


def test_the_first_loss_is_the_formula_with_the_views_of_an_image_as_positives(eight):
    """In float64 NumPy, row by row: view k of image i stands in row i of the k-th views."""
    config, data = eight.config, eight.data
    batch = next(iter(train_stream(data.train, batch_size=64, seed=0)))
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    views = jax.jit(lambda key, x: augment.views(key, x, data.recipe))(key, batch["image"])
    model = nnx.view(eight.method.model, use_running_average=False, raise_if_not_found=False)
    images = np.concatenate(np.asarray(views))  # all first views, then all second ones
    order = np.random.default_rng(0).permutation(128)  # BatchNorm is of all rows, in any order
    z = np.empty((128, config.features))
    z[order] = nnx.jit(lambda model, x: model(x)[1])(nnx.clone(model), images[order])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similarity = z @ z.T / config.temperature
    terms = []
    for i, row in enumerate(similarity):
        others = np.arange(128) != i
        terms.append(logsumexp(row[others]) - row[(i + 64) % 128])
    assert numbers(eight.rows, "train")[0]["loss"] == pytest.approx(np.mean(terms), rel=1e-4)


def test_equal_recipes_have_one_hash_wherever_they_run(eight, one):
    mine, theirs = (read_record(folder) for folder in (eight.folder, one[0]))
    assert mine["recipe"] == {**theirs["recipe"], "steps": 3}  # how far it goes is of the recipe
    assert mine["config"]["run_dir"] != theirs["config"]["run_dir"]


def test_another_configuration_names_the_fields(one):
    config = dataclasses.replace(CONFIG, run_dir=str(one[0]), seed=1, temperature=0.5)
    with pytest.raises(InputError, match=r"seed was 0, is 1; temperature was 0\.1, is 0\.5") as e:
        train(simclr, config)
    assert "\n" not in str(e.value)


def test_a_folder_of_an_older_version_is_refused_in_one_line(one, tmp_path):
    record = read_json(one[0] / "config.json")  # those had no checksum either
    del record["format"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    line = f"{tmp_path} is of an older version of jaxssl: its numbers stay readable"
    for open_it in (
        lambda: train(simclr, dataclasses.replace(CONFIG, run_dir=str(tmp_path))),
        lambda: embed.main(embed.Embed(run_dir=str(tmp_path), data_dir="images")),
        lambda: report.main(report.Report(str(tmp_path))),
        lambda: analysis.write_comparison([str(tmp_path)], tmp_path / "out"),
    ):
        with pytest.raises(InputError) as error:
            open_it()
        assert line in str(error.value)
        assert "\n" not in str(error.value)


def test_embed_gives_other_images_the_embedding_of_the_run(one, tmp_path):
    """The test images written to files, read back through the folder reader and the checkpoint."""
    from PIL import Image

    table = load(one[0] / "embeddings" / "test.parquet")
    digits = load_digits(size=CONFIG.image_size)
    position = {name: i for i, name in enumerate(digits.ids)}
    (tmp_path / "images" / "all").mkdir(parents=True)
    for row, name in enumerate(table.ids):
        image = Image.fromarray(digits[position[name]]["image"].squeeze())
        image.save(tmp_path / "images" / "all" / f"{row:04d}.png")
    out = tmp_path / "other.parquet"
    folder = str(tmp_path / "images")
    embed.main(embed.Embed(run_dir=str(one[0]), data_dir=folder, out=str(out)))
    found = load(out)
    assert found.ids[0] == "all/0000.png"
    np.testing.assert_allclose(found.vectors, table.vectors, atol=1e-5)
    # The same images lie where the run's lie on its map, and are their own nearest.
    np.testing.assert_allclose(found.extra["x_umap"], table.extra["x_umap"], rtol=1e-6)
    assert found.extra["nearest"].tolist() == list(table.ids)
    assert (tmp_path / "other" / "index.html").is_file()
    # The same in one call, from a notebook.
    vectors = embedding.embed(tmp_path / "images", one[0])
    np.testing.assert_array_equal(vectors, found.vectors)
    with pytest.raises(InputError, match="no run folder"):
        embed.main(embed.Embed(run_dir=str(tmp_path), data_dir=folder))


def test_report_draws_a_finished_run_again(one, capsys, tmp_path):
    page = one[0] / "report" / "index.html"
    before = page.read_text()
    page.unlink()
    report.main(report.Report(str(one[0]), redraw=True))
    assert page.read_text() == before
    assert capsys.readouterr().out == f"report: {page}\n"
    # Its numbers too: what training knew is in results.json already.
    again = tmp_path / "again"
    shutil.copytree(one[0], again, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "with_map", lambda tables: tables)
        patch.setattr(analysis, "write_report", lambda folder, tables, results, steps: folder)
        report.main(report.Report(str(again), draws=2))
    first, second = (json.loads((f / "results.json").read_text()) for f in (one[0], again))
    for name in ("training", "protocol", "knn_accuracy", "sets"):
        assert second[name] == first[name], name
    rows = [sorted(map(str, found["label_efficiency"])) for found in (first, second)]
    assert rows[0] == rows[1]
    assert study.report(None, draws=2) is None
    with pytest.raises(InputError, match="no such run folder"):
        report.main(report.Report(str(one[0] / "nowhere")))


def test_the_notebook_of_the_digits(eight, tmp_path, monkeypatch, capsys):
    shutil.copytree(eight.folder, tmp_path / "run")
    monkeypatch.setitem(simclr.PRESETS, "digits", eight.config)
    names = run_notebook("digits", EPOCHS=eight.config.epochs, DRAWS=2, RUN=str(tmp_path / "run"))
    assert int(names["trained"].states["last"].step) == 3
    assert len(names["embedded"].tables["h"]["unseen"]) == SETS["unseen"]
    assert "untrained    30 labels 0." in capsys.readouterr().out
