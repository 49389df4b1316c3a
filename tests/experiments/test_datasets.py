"""Which images the flags name, how they are split, and what is refused in one line."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments import batches, cli, datasets, presets, simclr, softmax, study, triplet
from jaxssl.errors import InputError

from .conftest import small, train

DIGITS = simclr.PRESETS["digits"]
FOLDER = {"dataset": "folder", "image_size": 16, "background": "255"}


def refused(**changes) -> str:
    """The one line that images are refused with."""
    with (
        pytest.raises(InputError) as error,
        study.open(dataclasses.replace(DIGITS, **changes)) as r,
    ):
        study.load(r)
    assert "\n" not in str(error.value)
    return str(error.value)


def make_folder(top, counts, colour=200):
    """Grey images that differ, `counts` of each class."""
    for k, (name, count) in enumerate(counts.items()):
        (top / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((20, 20), colour, np.uint8)
            pixels[2:10, 2:18], pixels[10:18, 2:18] = 40 * k, i
            Image.fromarray(pixels).save(top / name / f"{i}.png")
    return str(top)


def test_bad_settings_are_one_clear_line(tmp_path):
    plankton = {**FOLDER, "seen": ("a", "b"), "unseen": ("c",)}
    folder = tmp_path / "images"
    assert "--data-dir" in refused(**plankton)
    assert str(folder) in refused(**plankton, data_dir=str(folder))
    folder.mkdir()
    (folder / "notes.txt").write_text("")
    assert "holds no image" in refused(**plankton, data_dir=str(folder))
    assert "6" in refused(seen=("0", "6"), unseen=("6", "7"))
    assert "'0'" in refused(seen=("0", "0"), unseen=("6",))
    assert "'ten'" in refused(seen=("0", "ten"), unseen=("6",))
    line = "--batch-size 4096 is larger than the 813 training images"
    assert line in refused(batch_size=4096)
    assert "image size 4 is under" in refused_method(image_size=4)
    assert "--tpu and --gpu exclude each other" in refused(tpu=True, gpu=True)
    assert "no TPU found" in refused(tpu=True)
    assert "--background is 'grey': it must be auto or 0 to 255" in refused(background="grey")
    assert "the batch size 12 cannot be split over 8 devices" in refused(batch_size=12)


def refused_method(**changes) -> str:
    config = dataclasses.replace(DIGITS, **changes)
    outline = {"classes": ("a",), "shape": (4, 4, 1), "steps_per_epoch": 1, "total_steps": 9}
    with pytest.raises(InputError) as error:
        simclr.make_method(config, datasets.of_outline(outline, config))
    return str(error.value)


def test_a_class_too_small_for_the_split(tmp_path):
    folder = make_folder(tmp_path / "images", {"a": 40, "b": 2, "c": 40})
    error = refused(**FOLDER, data_dir=folder, batch_size=16, seen=("a", "b"), unseen=("c",))
    assert "'b'" in error
    assert "2 images" in error


def test_a_folder_alone_is_all_of_its_classes_and_the_rest_are_seen(tmp_path):
    folder = make_folder(tmp_path / "images", {"a": 20, "b": 20, "c": 20}, colour=180)
    config = dataclasses.replace(simclr.PRESETS["folder"], data_dir=folder, image_size=16)
    data = datasets.read(config, 0)
    assert data.classes == ("a", "b", "c")
    assert data.unseen == {}
    assert data.recipe.keywords["fill"] == pytest.approx(180 / 255, abs=0.02)  # as their borders
    data = datasets.read(dataclasses.replace(config, unseen=("b",)), 0)
    assert data.classes == ("a", "c")
    assert data.unseen["unseen"].class_names == ("b",)
    assert len(data.unseen["unseen"]) == 20


def test_a_batch_that_nobody_asked_for_fits_the_folder(tmp_path, capsys):
    folder = make_folder(tmp_path / "images", {"a": 30, "b": 30})
    config = dataclasses.replace(simclr.PRESETS["folder"], data_dir=folder, image_size=16)
    with study.open(config) as run:
        data = study.load(run)
    assert (run.config.batch_size, data.steps_per_epoch) == (16, len(data.train) // 16)
    assert "batches of 16: the default of 256 is more than" in capsys.readouterr().out
    asked = dataclasses.replace(config, batch_size=64)
    refusal = pytest.raises(InputError, match="--batch-size 64 is larger than the 44 training")
    with refusal, study.open(asked) as run:
        study.load(run)


@pytest.mark.parametrize(
    ("preset", "images", "flags", "batch"),
    [
        ("folder", 480, [], 32),  # of 256 it would be one step an epoch, and SimCLR collapsed
        ("folder", 1100, [], 128),
        ("folder", 2048, [], 256),
        ("folder", 480, ["--batch-size", "256"], 256),
        ("folder-lite0", 480, ["--preset", "folder-lite0"], 32),
        ("folder-lite0", 100, ["--preset", "folder-lite0"], 32),  # it was refused
        ("plankton", 480, [], 256),  # a recipe for one data set stays
        ("digits", 480, [], 256),
    ],
)
def test_a_batch_that_nobody_asked_for_gives_an_epoch_several_steps(
    monkeypatch, capsys, preset, images, flags, batch
):
    config = dataclasses.replace(simclr.PRESETS[preset], preset=preset)
    if flags and flags[0] == "--batch-size":
        config = dataclasses.replace(config, batch_size=int(flags[1]))
    monkeypatch.setattr(cli, "_GIVEN", [flags])
    run = SimpleNamespace(config=config, images=config, placement=SimpleNamespace(device_count=1))
    assert batches.fitted(run, images).batch_size == batch
    said = capsys.readouterr().out
    assert ("batches of" in said) == (batch != config.batch_size)


def test_the_batch_of_triplets_keeps_classes_to_tell_apart(monkeypatch):
    config = triplet.PRESETS["folder"]
    run = SimpleNamespace(config=config, images=config, placement=SimpleNamespace(device_count=1))
    assert batches.fitted(run, 300).batch_size == config.batch_size


@pytest.mark.parametrize("preset", ["folder", "folder-lite0"])
def test_too_few_images_are_said_to_be_too_few(tmp_path, preset):
    """ "Lower the batch size, or name more classes" helps nobody with three images of no class."""
    config = dataclasses.replace(simclr.PRESETS[preset], preset=preset, data_dir="my images")
    run = SimpleNamespace(config=config, images=config, placement=SimpleNamespace(device_count=1))
    with pytest.raises(InputError) as error:
        batches.fitted(run, 3)
    assert str(error.value).startswith("too few images: 3 to train on")
    assert "jaxssl" not in str(error.value)  # no map is drawn of so few
    with pytest.raises(InputError) as error:
        batches.fitted(run, 6)
    assert "jaxssl embed --encoder efficientnet_lite0 --data-dir 'my images'" in str(error.value)
    assert "--seen" not in str(error.value)
    asked = dataclasses.replace(config, batch_size=16)
    run.config = run.images = asked
    with pytest.raises(InputError, match=r"^--batch-size 16 is larger than the 3 .*: lower it$"):
        batches.fitted(run, 3)


def test_lookalikes_are_the_presets_own_unless_classes_are_named():
    plankton = softmax.PRESETS["plankton"]
    changed = dataclasses.replace
    assert datasets.harder_unseen(plankton) == (
        *("copepod_cyclopoid_oithona", "trichodesmium_bowtie", "chaetognath_sagitta"),
    )
    assert datasets.harder_unseen(changed(plankton, seen=("a", "b"))) == ()
    assert datasets.harder_unseen(changed(plankton, lookalikes=())) == ()
    named = changed(plankton, seen=("a", "b"), lookalikes=("c",))
    assert datasets.harder_unseen(named) == ("c",)
    assert datasets.harder_unseen(softmax.PRESETS["plankton-wide"]) == ()


def test_the_wide_protocol_is_the_data_readmes():
    wide = presets.PLANKTON_WIDE
    assert (len(set(wide["seen"])), len(set(wide["unseen"]))) == (21, 10)
    assert not set(wide["seen"]) & set(wide["unseen"])


def test_a_label_fraction_keeps_its_share_of_every_class():
    """As `softmax --label-fraction .1` loads them."""
    whole = datasets.read(small(softmax), 0)
    with study.open(small(softmax, label_fraction=0.1)) as run:
        part = study.load(run)
    counts, shares = np.bincount(whole.train.labels), np.bincount(part.train.labels)
    np.testing.assert_array_equal(shares, np.rint(counts * 0.1))
    assert set(part.train.ids) < set(whole.train.ids)
    assert part.test.ids == whole.test.ids
    assert part.steps_per_epoch == len(part.train) // 32


def test_a_run_is_opened_again_without_its_images():
    config = small(simclr)
    with study.open(config) as run:
        data = study.load(run)
    again = datasets.of_outline(data.outline(), config)
    for name in ("classes", "shape", "steps_per_epoch", "total_steps"):
        assert getattr(again, name) == getattr(data, name)
    assert again.recipe.keywords == data.recipe.keywords


def test_flags_of_your_own_images_are_refused_where_a_data_set_brings_its_own(tmp_path):
    folder = make_folder(tmp_path / "mine", {"a": 4, "b": 4})
    line = refused(data_dir=folder)
    assert f"digits brings its own images, and those of --data-dir {folder}" in line
    assert "--preset folder" in line
    for flags in ({"labels_from": "labels.csv"}, {"group_by": "cast"}, {"crop_bottom": "auto"}):
        (name,) = flags
        line = refused(**flags)
        assert f"--{name.replace('_', '-')} would change nothing" in line
        assert "--preset folder" in line
    cifar = dataclasses.asdict(simclr.PRESETS["cifar10-cpu"])
    line = refused(**cifar | {"data_dir": folder})
    assert "holds images and no prepared cifar10" in line
    assert "--preset folder" in line
    assert "leave --data-dir out" in line
    assert "--min-images would change nothing" in refused(**cifar | {"min_images": 9})
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["a", "b"]


def test_a_number_of_unseen_classes_needs_labels(tmp_path):
    make_folder(tmp_path, {"all": 12})
    line = refused(**FOLDER, data_dir=str(tmp_path / "all"), seen=(), unseen=("3",))
    assert "3 unseen classes: no image has a label" in line


def test_a_run_folder_is_not_that_of_the_images(tmp_path):
    folder = make_folder(tmp_path / "mine", {"a": 4, "b": 4})
    own = {**FOLDER, "seen": (), "unseen": ()}
    line = refused(**own, data_dir=folder, run_dir=folder)
    assert f"--run-dir {folder} is the folder of the images" in line
    line = refused(**own, data_dir=folder, run_dir=str(tmp_path))
    assert f"--run-dir {tmp_path} has in it the folder of the images" in line
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.program
@pytest.mark.one_device
def test_a_run_below_its_images_goes_on(tmp_path, monkeypatch, capsys):
    folder = make_folder(tmp_path / "mine", {"a": 20, "b": 20})
    monkeypatch.chdir(folder)
    flags = {**FOLDER, "seen": (), "unseen": (), "data_dir": ".", "run_dir": "runs/a"}
    config = small(simclr, **flags, encoder="convnet", batch_size=8, epochs=1)
    first = train(simclr, dataclasses.replace(config, steps=1))
    assert (first.folder / "report" / "views.png").is_file()
    (first.folder / "labels.csv").write_text("path,label\na/0.png,x\n")
    capsys.readouterr()
    again = train(simclr, dataclasses.replace(config, steps=2))
    assert int(again.last.step) == 2
    assert again.data.fingerprint == first.data.fingerprint
    told = capsys.readouterr().out
    assert "40 images of" in told
    assert "1 left out, folders of runs or exports: runs/a" in told
