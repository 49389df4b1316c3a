"""README's path without training: a frozen network's run, a few labels, classes in a file."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments import finished, frozen, newcomers, predict, study
from jaxssl import analysis
from jaxssl.analysis.label_table import LabelTable
from jaxssl.errors import InputError

pytestmark = pytest.mark.program


@pytest.fixture
def folders(tmp_path):
    """Two folders of unlabelled images, dark ones in even places and bright ones in odd."""
    random = np.random.default_rng(0)
    for name, many in (("mine", 32), ("new", 8)):
        (tmp_path / name).mkdir()
        for i in range(many):
            pixels = random.integers(0, 60, (16, 16), np.uint8) + 180 * (i % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{name}-{i:02}.png")
    return tmp_path


def test_an_untrained_networks_run_predicts_by_the_labels_that_label_wrote(
    folders, no_umap, monkeypatch, capsys
):
    # Its numbers and its page are tested elsewhere.
    monkeypatch.setattr(
        study,
        "report",
        lambda embedded, **_: analysis.save_tables(embedded.folder, embedded.tables),
    )
    run = folders / "run"
    settings = dataclasses.replace(
        frozen.PRESETS["folder"],
        encoder="convnet",
        pretrained="",
        image_size=16,
        color="grey",
        data_dir=str(folders / "mine"),
        run_dir=str(run),
        imagenet=False,
    )
    frozen.main(settings)
    config = predict.Predict(run_dir=str(run), data_dir=str(folders / "new"), map=False)
    with pytest.raises(InputError, match=f"label some of the run's own: jaxssl label {run}"):
        predict.main(config)
    ids = [f"mine-{i:02}.png" for i in range(32)]
    table = LabelTable(run / "labels.csv", ids)
    table.assign(range(0, 20, 2), "dark")
    table.assign(range(1, 20, 2), "bright")
    told = dataclasses.replace(config, labels_from=str(run / "labels.csv"))
    with pytest.raises(InputError, match=r"names the run's own images and none of .*/new: leave"):
        predict.main(told)
    predict.main(config)
    assert "labels: of the run's own 20 images" in capsys.readouterr().out
    (file,) = (run / "predictions").glob("*.csv")
    with open(file, encoding="utf-8") as lines:
        found = {row["id"]: row["predicted"] for row in csv.DictReader(lines)}
    assert found == {f"new-{i:02}.png": ("dark", "bright")[i % 2] for i in range(8)}
    # Checkpoint 0 is one: what is missing is the map alone.
    why = newcomers._map_of(finished.open(str(run)), {"checkpoint": 0, "views": 1})
    assert "checkpoint" not in why
