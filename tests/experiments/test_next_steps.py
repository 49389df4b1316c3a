"""The next commands of a finished run: by what is there, and such that they can be pasted."""

from __future__ import annotations

import dataclasses
import json
import shlex

import pytest

from experiments import cli, export, label, label_next, next_steps, predict, simclr, supcon
from jaxssl.analysis.results import Embedded, ImageCounts, Results
from jaxssl.files import write_record

PRESETS = {
    "predict": {"predict": predict.Predict()},
    "label_next": {"label-next": label_next.LabelNext()},
    "label": {"label": label.Label()},
    "export": {"export": export.Export()},
    "supcon": supcon.PRESETS,
    "simclr": simclr.PRESETS,
}
NONE, SOME, ALL = (
    {"train": ImageCounts(480, {})},
    {"train": ImageCounts(480, {"a": 30}), "test": ImageCounts(10, {"a": 10})},
    {"train": ImageCounts(40, {"a": 20, "b": 20}), "test": ImageCounts(10, {"a": 10})},
)


@pytest.fixture
def run(tmp_path):
    """Write a run folder of some settings; return the programs and settings it names next."""
    images = tmp_path / "my images"
    images.mkdir()
    (images / "labels.csv").write_text("")

    def named(sets, state="not collapsed", program="simclr", **settings):
        folder = tmp_path / "a run"
        folder.mkdir(exist_ok=True)
        own = dataclasses.replace(simclr.PRESETS["folder"], data_dir=str(images), **settings)
        record = {"format": 2, "study": "SimCLR", "dataset": own.dataset, "recipe": {}}
        told = json.loads(json.dumps(dataclasses.asdict(own)))
        write_record(folder / "config.json", record | {"program": program, "config": told})
        results = Results(Embedded("h", "angular", 8), sets)
        steps = next_steps.of(folder, results, state)
        found = []
        for gives, command in steps:
            assert f"  {command}   # {gives}" in next_steps.lines(steps).splitlines()
            front, name, *flags = shlex.split(command)
            assert front == "jaxssl"
            name = name.replace("-", "_")
            found.append((name, cli.parse(flags, PRESETS[name])))  # a flag that is not is refused
        for _, config in found:
            if hasattr(config, "to") or isinstance(config, label.Labelling):
                assert config.run_dir == str(folder)
        return found

    return named


def test_without_labels_the_next_thing_is_to_label(run, tmp_path):
    (first, _), (second, _), (third, config) = run(NONE, crop_bottom="auto", group_by="a|b")
    assert (first, second, third) == ("label_next", "label", "predict")
    assert config.data_dir == str(tmp_path / "my images")
    assert config.labels_from == str(tmp_path / "a run" / "labels.csv")
    assert (config.crop_bottom, config.group_by) == ("auto", "a|b")  # read as the run read them


def test_with_a_few_labels_they_are_used(run, tmp_path):
    table = str(tmp_path / "my images" / "labels.csv")
    found = dict(run(SOME, labels_from=table, seen=("a", "b c"), validated_only=False))
    assert list(found) == ["predict", "supcon", "label_next"]
    assert found["predict"].labels_from == found["supcon"].labels_from == table
    assert found["supcon"].seen == ("a", "b c")
    assert not found["supcon"].validated_only
    assert found["supcon"].epochs == supcon.PRESETS["folder"].epochs
    found = dict(run(SOME, preset="folder-lite0"))
    assert found["supcon"].preset == "folder-lite0"
    assert list(dict(run(SOME, program="softmax"))) == ["predict", "label_next"]


def test_with_labels_for_all_new_images_come_next(run):
    (first, predicting), (second, exporting) = run(ALL, crop_bottom="12", labels_from="folders")
    assert (first, second) == ("predict", "export")
    assert (predicting.data_dir, predicting.crop_bottom) == ("NEW", "12")
    assert predicting.labels_from == "auto"  # the run's table is not of the new images
    assert exporting.to == "atlas"


def test_what_collapsed_is_to_begin_with_published_weights(run):
    (name, config), *_ = run(NONE, state="collapsed")
    assert (name, config.preset) == ("simclr", "folder-lite0")
    (name, _), *_ = run(NONE, state="collapsed", pretrained="auto")
    assert name == "label_next"


def test_a_method_of_ones_own_is_named_for_what_runs_it(run, tmp_path):
    (_, config), _ = run(ALL, program=str(tmp_path / "byol.py"))
    assert config.method == str(tmp_path / "byol.py")


def test_a_folder_without_a_record_names_nothing(tmp_path):
    assert next_steps.of(tmp_path, Results(Embedded("h", "angular", 8), ALL), "unknown") == []
