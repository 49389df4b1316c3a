"""Fine-tuning and linear evaluation of a SimCLR run's checkpoints, against scikit-learn."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from sklearn.metrics import top_k_accuracy_score
from sklearn.neighbors import NearestNeighbors

from experiments import finetune, finished, folders, linear_eval, simclr, study
from jaxssl import data as images_room
from jaxssl import embedding, models, training
from jaxssl.analysis import evaluation
from jaxssl.data import label_fraction
from jaxssl.errors import InputError
from jaxssl.files import read_json, read_lines

from .conftest import small

pytestmark = [pytest.mark.program, pytest.mark.one_device]

CONFIG = small(simclr, seen=tuple("01234"), unseen=("6", "7"), steps=4, freeze="trunk")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose trunk is frozen."""
    return made_run(CONFIG, tmp_path_factory.mktemp("simclr") / "run")


def made_run(config, folder):
    """Make a run folder with checkpoints at steps 2 and 4: weights that no seed gives.

    Without training: that would compile SimCLR's step, which is tested elsewhere.
    """
    config = dataclasses.replace(config, run_dir=str(folder))
    random = np.random.default_rng(0)

    def moved(array):
        return array + np.asarray(0.05 * random.random(array.shape), array.dtype)

    states = {}

    def fit(state, work, *, checkpoints, run, placement, **rest):
        for step in (2, 4):
            params, rest = (jax.tree.map(moved, part) for part in (state.params, state.rest))
            at = jnp.asarray(step, jnp.int32)
            state = dataclasses.replace(state, step=at, params=params, rest=rest)
            state = states[step] = placement.replicate(state)
            checkpoints.save(step, state, {"score": 1 / step})
        checkpoints.finish()
        return state, {"steps": 4, "seconds": 0.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", fit)
        with study.open(config) as opened:
            data = study.load(opened)
            study.train(opened, data, simclr.make_method(config, data))
    return SimpleNamespace(
        folder=folder,
        data=data,
        states=states,
        placement=opened.placement,
        finished=finished.open(str(folder)),
    )


def encoder_of(state) -> dict[str, np.ndarray]:
    """All arrays of the encoder by name: parameters, frozen ones, batch statistics."""
    parts = (dict(state.params), dict(state.rest))
    found = [part["encoder"] for part in parts if "encoder" in part]
    leaves = [leaf for part in found for leaf in jax.tree_util.tree_leaves_with_path(part)]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same(found, expected, same=True):
    assert found.keys() == expected.keys()
    equal = {name: np.array_equal(found[name], expected[name]) for name in found}
    assert all(equal.values()) == same, equal


def test_beside_its_start_the_half_that_learnt_is_what_goes_on(tmp_path):
    run = made_run(dataclasses.replace(CONFIG, beside_start=True, freeze="1"), tmp_path / "run")
    pixels = np.stack([run.data.val.load(i) for i in range(3)])
    h = embedding.embed(pixels, str(run.folder), checkpoint="4")
    encoder, _ = run.finished.encoder("4", seed=0)
    assert h.shape == (3, 2 * encoder.features)
    alone = embedding.embed(pixels, encoder)
    rows = alone / np.linalg.norm(alone, axis=1, keepdims=True)
    np.testing.assert_allclose(h[:, : encoder.features], rows, atol=1e-5)
    assert np.abs(h[:, encoder.features :] - rows).max() > 1e-3
    assert not jax.tree.leaves(nnx.state(encoder, models.Frozen))


# Linear evaluation.


@pytest.fixture(scope="module")
def evaluated(run):
    """`linear_eval` of the best, step 4, and over all checkpoints, without its maps."""

    def maps(vectors, labels, *, seed):
        return {"t-SNE": (np.arange(6), vectors[:6, :2]), "UMAP": (np.arange(6), vectors[:6, 2:4])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "maps", maps)
        flags = {"checkpoint": "all", "label_fraction": 0.5, "seed": 3}
        linear_eval.main(linear_eval.LinearEval(run_dir=str(run.folder), **flags))
    folder = run.folder / "linear_eval"
    return SimpleNamespace(
        folder=folder,
        results=json.loads((folder / "results.json").read_text()),
        page=(folder / "index.html").read_text(),
    )


def test_what_is_evaluated_is_the_frozen_encoder(run, evaluated):
    train = label_fraction(run.data.train, 0.5, seed=3)
    method = run.finished.method
    encode = embedding.compile_output(method.model, method.encode, run.placement)
    bank, asked = (
        embedding.embed_set(encode, run.states[4], part, run.placement).astype(np.float64)
        for part in (train, run.data.test)
    )
    rows = {row["embedding"]: row for row in evaluated.results["rows"]}
    assert list(rows) == ["h", "untrained", "raw_pixels"]
    assert [row["dimensions"] for row in rows.values()] == [256, 256, 256]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, asked)]
    weights = np.exp(unit[1] @ unit[0].T / 0.1)
    weights[weights < np.sort(weights, axis=1)[:, -200, None]] = 0
    votes = weights @ np.eye(5)[train.labels]
    for t, share in rows["h"]["knn"]["top"].items():
        expected = top_k_accuracy_score(run.data.test.labels, votes, k=int(t))
        assert share == pytest.approx(expected, abs=0.006)  # one image
    assert rows["h"]["knn"]["top"] != rows["untrained"]["knn"]["top"]
    assert list(rows["h"]["linear"]["top"]) == ["1", "3"]  # five guesses of five are no test
    found = evaluated.results["classification"]
    assert found["accuracy"] == found["top"]["1"] == rows["h"]["linear"]["top"]["1"]

    nearest = NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank)
    for row in evaluated.results["neighbours"]:
        query = asked[[run.data.test.ids.index(row["id"])]]
        distances, places = nearest.kneighbors(query)
        assert [near["id"] for near in row["nearest"]] == [train.ids[i] for i in places[0]]
        degrees = np.degrees(np.arccos(1 - distances[0]))
        np.testing.assert_allclose([near["degrees"] for near in row["nearest"]], degrees, atol=0.05)


def test_the_page_and_its_files(run, evaluated):
    results = evaluated.results
    assert [row["step"] for row in results["epochs"]] == [0, 2, 4]
    assert [row["epoch"] for row in results["epochs"]] == [
        pytest.approx(step / (len(run.data.train) // 32)) for step in (0, 2, 4)
    ]
    facts = results["protocol"]
    assert (facts["layer"], facts["seed"], facts["label_fraction"]) == ("h", 3, 0.5)
    assert facts["checkpoint"].startswith("best: step 4")
    assert facts["images"]["test"] == len(run.data.test)
    assert {"command", "versions", "commit", "trained_by"} <= results.keys()
    for name in ("confusion", "epochs", "map", "neighbours"):
        assert (evaluated.folder / f"{name}.png").stat().st_size > 0
        json.loads((evaluated.folder / f"{name}.json").read_text())
    assert "Linear evaluation of SimCLR on digits" in evaluated.page
    assert "untrained network" in evaluated.page
    assert evaluated.page.count("data:image/webp") == 10 * 6


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another data set: sixteen squares and sixteen bars."""
    folder = tmp_path_factory.mktemp("other") / "shapes"
    for name, height in (("square", 10), ("bar", 3)):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            pixels = np.zeros((20, 20), np.uint8)
            pixels[2 : 2 + height, 2:12] = 100 + 5 * i
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_other_images_are_evaluated_in_a_folder_of_their_own(run, evaluated, other, monkeypatch):
    before = (evaluated.folder / "results.json").read_bytes()
    monkeypatch.setattr(evaluation, "maps", lambda vectors, labels, *, seed: {})
    linear_eval.main(linear_eval.LinearEval(run_dir=str(run.folder), data_dir=str(other)))
    assert (evaluated.folder / "results.json").read_bytes() == before
    (folder,) = (evaluated.folder / "other").iterdir()
    assert folder.name.startswith("shapes-")
    results = json.loads((folder / "results.json").read_text())
    assert results["protocol"]["pretrained_on"] == "digits (run)"
    assert results["protocol"]["judged_on"] == str(other)
    assert results["protocol"]["images"] == {"train": 24, "val": 2, "test": 6}
    rows = {row["embedding"]: row for row in results["rows"]}
    assert rows["h"]["linear"]["top"]["1"] == 1  # a square is no bar, to any network
    assert f"judged on {other}" in (folder / "index.html").read_text()


def test_what_cannot_be_evaluated_is_one_line(run, tmp_path):
    def refused(message, folder=run.folder, **flags):
        with pytest.raises(InputError, match=message) as error:
            linear_eval.main(linear_eval.LinearEval(run_dir=str(folder), **flags))
        assert "\n" not in str(error.value)

    refused("is no run folder", tmp_path)
    refused("--checkpoint 3 is not in .*: choose best, last or one of 2, 4", checkpoint="3")
    refused("encoder/nine", layer="encoder/nine")
    refused("--label-fraction is 0", label_fraction=0)
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy, ignore=shutil.ignore_patterns("linear_eval"))
    record = read_json(copy / "config.json")  # without its checksum
    for change, message in (
        ({"config": record["config"] | {"features": 7}}, "is of another model: .*head"),
        ({"data": "of others"}, "are not the images"),
        ({"program": "vae"}, "trained by vae, which is not part of jaxssl: .* --method vae"),
    ):
        (copy / "config.json").write_text(json.dumps(record | change))
        refused(message, copy)
    assert not (copy / "linear_eval").exists()
    shutil.rmtree(copy / "checkpoints")
    (copy / "config.json").write_text(json.dumps(record))
    refused("has no checkpoint", copy)


# Fine-tuning.


def tune(run, folder, *, embed=False, **changes) -> SimpleNamespace:
    """A fine-tuning of a few steps, up to its embedding: its states, rows, what was streamed."""
    settings = {"checkpoint": "4", "label_fraction": 0.3, "batch_size": 32, "log_every": 1}
    settings |= {"evaluate_epochs": 0.25, "augment": False, "run_dir": str(folder)} | changes
    config = finetune.FineTune(start=str(run.folder), **settings)
    streamed, stream = [], images_room.train_stream

    def kept(images, **options):
        streamed.append(images)
        return stream(images, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images_room, "train_stream", kept)
        with study.open(config, finished.open(config.start)) as opened:
            data = study.load(opened)
            method = finetune.make_method(config, data)
            trained = study.train(opened, data, method)
            embedded = study.embed(opened, data, trained) if embed else None
    return SimpleNamespace(
        method=method,
        data=data,
        states=trained.states,
        facts=trained.facts,
        embedded=embedded,
        streamed=streamed,
        rows=read_lines(folder / "metrics.jsonl"),
    )


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """End to end, four steps without a stop."""
    return tune(run, tmp_path_factory.mktemp("whole") / "run", embed=True, steps=4)


def test_it_starts_from_the_checkpoint_and_all_of_it_learns_though_the_run_froze_it(run, whole):
    assert not dict(run.states[4].params).get("encoder")  # nothing of it learnt in the run
    start = training.create_state(whole.method)
    assert_same(encoder_of(start), encoder_of(run.states[4]))
    moved = {
        name: not np.array_equal(x, encoder_of(run.states[4])[name])
        for name, x in encoder_of(whole.states["last"]).items()
    }
    assert all(moved.values()), moved  # batch statistics too


def test_only_the_labelled_images_are_streamed(run, whole):
    labelled = label_fraction(run.data.train, 0.3, seed=0)
    assert [images.ids for images in whole.streamed] == [labelled.ids] * len(whole.streamed)
    assert whole.streamed
    assert whole.embedded.facts.protocol["training_images"] == len(labelled)
    assert whole.data.test.ids == run.data.test.ids  # the split is the run's


def test_frozen_is_bit_identical_but_for_the_classifier(run, tmp_path):
    frozen = tune(run, tmp_path / "run", steps=2, freeze=True, augment=True)
    assert_same(encoder_of(frozen.states["last"]), encoder_of(run.states[4]))
    assert list(frozen.states["last"].params) == ["head"]
    first = training.create_state(frozen.method).params["head"]
    kernel = frozen.states["last"].params["head"]["kernel"]
    assert np.abs(kernel - first["kernel"]).max() > 1e-4
    assert frozen.method.name == f"Linear layer from SimCLR on digits, step 4 of {run.folder.name}"


def test_random_weights_are_those_of_the_seed(run, whole):
    config = finetune.FineTune(start=str(run.folder), random=True, seed=5)
    method = finetune.make_method(config, whole.data)
    fresh = simclr.make_model(dataclasses.replace(CONFIG, seed=5, freeze="none"))[0]
    found = encoder_of(training.create_state(method))
    expected = encoder_of(training.state.model_state(fresh))
    assert method.start == "random weights"
    assert_same(found, expected)
    kernels = [name for name in found if "kernel" in name]
    other = encoder_of(run.states[4])
    assert not any(np.array_equal(found[name], other[name]) for name in kernels)


def test_continued_is_uninterrupted(run, whole, tmp_path):
    tune(run, tmp_path / "run", steps=2)
    continued = tune(run, tmp_path / "run", steps=4)
    jax.tree.map(np.testing.assert_array_equal, continued.states["last"], whole.states["last"])
    losses = [[row["loss"] for row in found.rows] for found in (continued, whole)]
    assert losses[0] == losses[1]
    with pytest.raises(InputError, match="freeze was False, is True"):
        tune(run, tmp_path / "run", steps=4, freeze=True)


def test_it_learns_other_images_and_resumes_on_them_alone(run, other, tmp_path):
    def begun(data_dir):
        """As far as the run folder: a step would be compiled for as long as all else takes."""
        config = finetune.FineTune(
            start=str(run.folder),
            run_dir=str(tmp_path / "run"),
            data_dir=str(data_dir),
            batch_size=8,
            label_fraction=1.0,
        )
        with study.open(config, finished.open(config.start)) as opened:
            data = study.load(opened, labels=True)
            method = finetune.make_method(config, data)
            with folders.run_folder(opened, data, method):
                return data, method

    data, method = begun(other)
    assert data.classes == ("bar", "square")
    assert method.model.head.kernel.shape[-1] == 2
    assert method.start.startswith("SimCLR on digits, step 4 of")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (record["judged_on"], record["pretrained_on"]) == (str(other), "digits (run)")
    assert (record["dataset"], record["data"]) == ("folder", data.fingerprint)
    assert record["config"]["image_size"] == CONFIG.image_size
    begun(shutil.copytree(other, tmp_path / "moved"))
    grown = shutil.copytree(other, tmp_path / "grown")
    shutil.copy(grown / "bar" / "0.png", grown / "bar" / "new.png")
    with pytest.raises(InputError, match="the images or their order are others"):
        begun(grown)


def test_the_best_on_validation_is_what_is_tested(run, whole):
    accuracy = {row["step"]: row["accuracy"] for row in whole.rows if row["split"] == "val"}
    assert accuracy[whole.facts["best_step"]] == max(accuracy.values())
    classify = embedding.compile_output(whole.method.model, whole.method.logits, run.placement)
    best = whole.states["best"]
    logits = embedding.embed_set(classify, best, run.data.test, run.placement)
    truth, found = run.data.test.labels, whole.embedded.facts.classification
    assert found.top.keys() == {"1", "3"}
    for t, share in found.top.items():
        assert share == pytest.approx(top_k_accuracy_score(truth, logits, k=int(t)))


def test_what_cannot_be_fine_tuned_is_one_line(run, tmp_path):
    for flags, message in (
        ({"label_fraction": 2.0}, "--label-fraction is 2.0"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"batch_size": 512}, "--batch-size 512 is larger"),
        ({"checkpoint": "3"}, "--checkpoint 3 is not in"),
    ):
        with pytest.raises(InputError, match=message) as error:
            tune(run, tmp_path / "run", **flags)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
