"""README's path without training: a frozen network's run, a few labels, classes in a file."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments import embed, finished, frozen, newcomers, predict, study
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


@pytest.fixture
def run(folders, no_umap, monkeypatch):
    """The run of an untrained network on one of the folders."""
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
    return run


def test_an_untrained_networks_run_predicts_by_the_labels_that_label_wrote(folders, run, capsys):
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


def test_a_table_of_the_runs_own_images_is_refused_for_what_it_says(folders, run):
    """The images are the run's own, as in the tutorial: each fault is named, and no other."""
    mine, table = folders / "mine", folders / "labels.csv"
    config = predict.Predict(
        run_dir=str(run), data_dir=str(mine), labels_from=str(table), map=False
    )
    head = "path,label\nmine-00.png,dark\nmine-01.png,bright\n"
    faults = {
        "mine-02.png,DARK\n": "one class in two spellings",
        "mine-02.png,dark\nmine-02.png,bright\n": "two labels",
    }
    for rows, why in faults.items():
        table.write_text(head + rows)
        with pytest.raises(InputError, match=why):
            predict.main(config)
    table.write_text(head)
    with pytest.raises(InputError, match=r"cannot open the image folder .*nowhere"):
        predict.main(dataclasses.replace(config, data_dir=str(folders / "nowhere")))
    (mine / "bad.png").write_text("no image")
    with pytest.raises(InputError, match=r"1 files of .* cannot be read"):
        predict.main(config)


def test_predictions_of_other_labels_or_that_a_person_changed_are_kept(folders, run, capsys):
    def table(name, dark, bright):
        rows = [f"new-{i:02}.png,{(dark, bright)[i % 2]}\n" for i in range(6)]
        (folders / name).write_text("path,label\n" + "".join(rows))
        return str(folders / name)

    place = run / "predictions"
    new = predict.Predict(run_dir=str(run), data_dir=str(folders / "new"), map=False)
    one = dataclasses.replace(new, labels_from=table("one.csv", "dark", "bright"))
    two = dataclasses.replace(new, labels_from=table("two.csv", "night", "day"))
    predict.main(one)
    (first,) = place.glob("*.csv")
    told = first.read_bytes()
    predict.main(two)
    second = first.with_name(f"{first.stem}-2.csv")
    assert first.read_bytes() == told
    assert b"night" in second.read_bytes()
    assert f"{first} is kept" in capsys.readouterr().out
    # The same again takes the place of its own.
    predict.main(one)
    predict.main(two)
    assert len([*place.iterdir()]) == 7  # three files each, and the notes
    first.write_bytes(mine := told.replace(b"dark", b"reviewed"))
    predict.main(one)
    assert first.read_bytes() == mine
    assert first.with_name(f"{first.stem}-3.csv").read_bytes() == told
    # By name: nothing is computed.
    config = dataclasses.replace(one, out=str(first))
    with pytest.raises(InputError, match="is there already, and changed since"):
        predict.main(config)
    with pytest.raises(InputError, match="is there already, and changed since"):
        embed.main(embed.Embed(run_dir=str(run), data_dir=one.data_dir, out=str(first)))
    assert first.read_bytes() == mine
