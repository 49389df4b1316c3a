"""The program as a person runs it: finished, killed, resumed, on one device and on eight."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import simclr
from jaxssl.analysis.embeddings import load
from jaxssl.errors import InputError
from jaxssl.files import read_lines as read_metrics

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.program

# Nine steps of three epochs, each evaluated and saved.
FLAGS = ["--steps", "9", "--evaluate-epochs", "1", "--log-every", "1", "--draws", "2"]
CONFIG = dataclasses.replace(
    simclr.PRESETS["digits"], steps=9, evaluate_epochs=1, log_every=1, draws=2
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "experiments.simclr", *flags]


def environment(cache: Path, devices: int = 1) -> dict[str, str]:
    return os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def run(cache: Path, *flags: str, devices: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*flags),
        cwd=ROOT,
        env=environment(cache, devices),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def one(cache, tmp_path_factory):
    """An uninterrupted run on one device."""
    folder = tmp_path_factory.mktemp("one") / "run"
    done = run(cache, *FLAGS, "--run-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done


def numbers(folder: Path) -> list[dict]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [
        {name: value for name, value in row.items() if name not in ("time", "input_wait")}
        for row in rows
    ]


def test_the_first_line_says_what_and_the_last_where(one):
    folder, done = one
    assert done.stdout.splitlines()[0].startswith("SimCLR on digits: convnet, ")
    assert done.stdout.splitlines()[-1] == f"report: {folder / 'report' / 'index.html'}"
    assert "balanced accuracy on unseen classes" in done.stdout


def test_the_run_folder_is_whole(one):
    folder, _ = one
    results = json.loads((folder / "results.json").read_text())
    rows = results["label_efficiency"]
    assert {row["embedding"] for row in rows} == {"h", "untrained", "raw_pixels"}
    assert {row["classifier"] for row in rows} == {"svc", "linear", "knn"}
    assert {"set", "labels", "mean", "low", "high", "draws"} <= rows[0].keys()
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows)
    assert results["training"]["steps"] == 9
    assert results["wall_seconds"].keys() == {"training", "embedding", "analysis"}
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["temperature"] == simclr.PRESETS["digits"].temperature
    assert config["command"].startswith("python -m experiments.simclr --steps 9")
    sizes = {name: len(load(folder / "embeddings" / f"{name}.parquet")) for name in SETS}
    assert sizes == SETS
    table = load(folder / "embeddings" / "unseen.parquet")
    assert table.class_list == ("6", "7", "8", "9")
    assert table.metadata["layer"] == "h"
    page = (folder / "report" / "index.html").read_text()
    assert "views.png" in page or "data:image/png" in page


SETS = {"train": 813, "val": 54, "test": 216, "unseen": 714}


def test_health_is_logged_against_chance(one):
    rows = numbers(one[0])
    train = [row for row in rows if row["split"] == "train"]
    val = [row for row in rows if row["split"] == "val"]
    assert [row["step"] for row in train] == list(range(1, 10))
    assert [row["step"] for row in val] == [3, 6, 9]
    assert train[0]["chance"] == pytest.approx(np.log(2 * 256 - 1), abs=1e-5)
    assert val[0]["chance"] == pytest.approx(np.log(2 * 54 - 1), abs=1e-5)
    names = {"loss", "alignment", "uniformity", "z_std", "effective_rank", "knn_accuracy"}
    assert names <= val[0].keys()
    assert train[-1]["loss"] < train[0]["loss"] < train[0]["chance"] + 1


def start_and_send(number: signal.Signals, when: Path, cache: Path, *flags: str) -> tuple[int, str]:
    """Exit code and last line of a program that is sent a signal as soon as a file is there."""
    with subprocess.Popen(
        command(*flags),
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 300
        while not (when.exists() and when.stat().st_size):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    return process.returncode, (error.strip().splitlines() or [""])[-1]


def test_stopped_killed_and_resumed_ends_bit_for_bit(one, cache, tmp_path):
    folder = tmp_path / "run"
    flags = [*FLAGS, "--run-dir", str(folder)]
    code, line = start_and_send(signal.SIGTERM, folder / "metrics.jsonl", cache, *flags)
    assert code == 75
    assert line.startswith("simclr: stopped by SIGTERM after step ")
    assert str(folder) in line  # says how to go on
    stopped = max(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    assert f"after step {stopped} of 9" in line
    saved = folder / "checkpoints" / str(stopped // 3 * 3 + 3) / "MANIFEST.json"
    code_of_kill = -signal.SIGKILL
    assert start_and_send(signal.SIGKILL, saved, cache, *flags)[0] == code_of_kill
    # Once the embeddings are there, the analysis of them would take most of the time.
    assert start_and_send(signal.SIGKILL, folder / "results.json", cache, *flags)[0] == code_of_kill
    assert numbers(folder) == numbers(one[0])
    for name in SETS:
        mine = load(folder / "embeddings" / f"{name}.parquet")
        theirs = load(one[0] / "embeddings" / f"{name}.parquet")
        assert mine.vectors.tobytes() == theirs.vectors.tobytes()
        assert mine.ids == theirs.ids


def test_eight_devices_give_the_losses_of_one(one, tmp_path):
    """In this process, which has eight; the default run's batch and views, up to a validation."""

    class Validated(Exception):
        pass

    def end(row):
        raise Validated

    config = dataclasses.replace(CONFIG, run_dir=str(tmp_path / "run"), batch_size=256)
    with pytest.raises(Validated):
        simclr.main(config, on_validation=end)
    mine, theirs = (
        [row["loss"] for row in numbers(folder) if row["split"] == "train"]
        for folder in (tmp_path / "run", one[0])
    )
    assert len(mine) == 3
    assert mine == pytest.approx(theirs[:3], rel=2e-4)


def test_describe_prints_the_model_and_ends(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simclr.main(dataclasses.replace(CONFIG, describe=True))
    out = capsys.readouterr().out
    assert "trainable" in out
    assert "head" in out
    assert not list(tmp_path.iterdir())


def flags_of_error(tmp_path: Path, **changes) -> str:
    """The one line of an InputError that the program ends with."""
    with pytest.raises(InputError) as error:
        simclr.main(dataclasses.replace(CONFIG, **{"run_dir": str(tmp_path / "run")} | changes))
    assert "\n" not in str(error.value)
    return str(error.value)


PLANKTON = {"dataset": "plankton", "image_size": 32, "seen": ("a", "b"), "unseen": ("c",)}


def test_bad_settings_are_one_clear_line(tmp_path):
    folder = tmp_path / "images"
    error = flags_of_error(tmp_path, **PLANKTON)
    assert "--data-dir" in error
    error = flags_of_error(tmp_path, **PLANKTON, data_dir=str(folder))
    assert str(folder) in error
    folder.mkdir()
    (folder / "notes.txt").write_text("")
    error = flags_of_error(tmp_path, **PLANKTON, data_dir=str(folder))
    assert "class" in error
    assert "6" in flags_of_error(tmp_path, seen=("0", "6"), unseen=("6", "7"))
    assert "'0'" in flags_of_error(tmp_path, seen=("0", "0"), unseen=("6",))
    assert "'ten'" in flags_of_error(tmp_path, seen=("0", "ten"), unseen=("6",))
    error = flags_of_error(tmp_path, batch_size=4096)
    assert "--batch-size 4096 is larger than the 813 training images" in error
    error = flags_of_error(tmp_path, image_size=4)
    assert "image size 4 is under" in error
    assert "exclude each other" in flags_of_error(tmp_path, tpu=True, gpu=True)
    assert "--tpu: no TPU found" in flags_of_error(tmp_path, tpu=True)
    assert not (tmp_path / "run").exists()  # nothing was written for a mistake


def test_a_class_too_small_for_the_split(tmp_path):
    from PIL import Image

    for name, count in {"a": 40, "b": 2, "c": 40}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (20, 20), i).save(tmp_path / "images" / name / f"{i}.png")
    error = flags_of_error(tmp_path, **PLANKTON, data_dir=str(tmp_path / "images"), batch_size=16)
    assert "'b'" in error
    assert "2 images" in error


def test_another_configuration_names_the_fields(one, tmp_path):
    error = flags_of_error(tmp_path, run_dir=str(one[0]), seed=1, temperature=0.5)
    assert "--seed was 0, is 1; --temperature was" in error


def test_a_flag_that_does_not_exist(cache):
    done = run(cache, "--dataset", "planktn")
    assert done.returncode == 2
    assert "'planktn' is no dataset or preset here: choose digits, plankton" in done.stderr
    assert "Traceback" not in done.stderr
    assert run(cache, "--temprature", "1").returncode == 2


def test_embed_gives_other_images_the_embedding_of_the_run(one, tmp_path):
    """The test images written to files, read back through the folder reader and the checkpoint."""
    from PIL import Image

    from experiments import embed
    from jaxssl.data.digits import load_digits

    table = load(one[0] / "embeddings" / "test.parquet")
    digits = load_digits(size=CONFIG.image_size)
    position = {name: i for i, name in enumerate(digits.ids)}
    (tmp_path / "images" / "all").mkdir(parents=True)
    for row, name in enumerate(table.ids):
        image = Image.fromarray(digits[position[name]]["image"].squeeze())
        image.save(tmp_path / "images" / "all" / f"{row:04d}.png")
    out = tmp_path / "other.parquet"
    embed.main(embed.Config(str(one[0]), str(tmp_path / "images"), str(out)))
    found = load(out)
    assert found.ids[0] == "all/0000.png"
    np.testing.assert_allclose(found.vectors, table.vectors, atol=1e-5)
    with pytest.raises(InputError, match="no run folder"):
        embed.main(embed.Config(str(tmp_path), str(tmp_path / "images")))


def test_report_draws_a_finished_run_again(one, capsys):
    from experiments import report

    page = one[0] / "report" / "index.html"
    before = page.read_text()
    page.unlink()
    report.main(report.Config(str(one[0]), redraw=True))
    assert page.read_text() == before
    assert capsys.readouterr().out == f"report: {page}\n"
    with pytest.raises(InputError, match="no such run folder"):
        report.main(report.Config(str(one[0] / "nowhere")))
