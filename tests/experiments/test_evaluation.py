"""Linear evaluation and fine-tuning of a SimCLR run's checkpoints, against scikit-learn."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from sklearn.neighbors import NearestNeighbors

from experiments import finetune, judging, linear_eval, protocol, simclr, trained
from experiments.images import load_data
from jaxssl.analysis import evaluation
from jaxssl.data import splits
from jaxssl.errors import InputError
from jaxssl.files import read_lines as read_metrics
from jaxssl.models import ConvNet, Embedder, ProjectionHead
from jaxssl.training import devices
from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.state import create_state

pytestmark = pytest.mark.program

SMALL = dataclasses.replace(
    simclr.PRESETS["digits"],
    seen=tuple("01234"),
    unseen=("6", "7"),
    lookalikes=(),
    batch_size=64,
    steps=4,
    evaluate_epochs=0.2,
    log_every=1,
)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with checkpoints at steps 2 and 4: weights that no seed gives, and no training.

    To train would compile SimCLR's step, which is tested elsewhere.
    """
    folder = tmp_path_factory.mktemp("simclr") / "run"
    config = dataclasses.replace(SMALL, run_dir=str(folder))
    placement = devices.data_placement(jax.device_count())
    model = simclr.make_model(config)
    random = np.random.default_rng(0)

    def moved(array):
        return array + np.asarray(0.05 * random.random(array.shape), array.dtype)

    state = create_state(model, simclr.make_optimizer(config, 10))
    data = load_data(config)
    with (
        protocol.open_run(config, "simclr", data, "random weights"),
        Checkpoints(folder / "checkpoints") as checkpoints,
    ):
        for step in (2, 4):
            params, rest = (jax.tree.map(moved, part) for part in (state.params, state.rest))
            at = jnp.asarray(step, jnp.int32)
            state = placement.replicate(
                dataclasses.replace(state, step=at, params=params, rest=rest)
            )
            checkpoints.save(step, state, {"score": 1 / step})
    opened = trained.open_run(str(folder))
    return SimpleNamespace(
        folder=folder, opened=opened, placement=placement, model=model, state=state, data=data
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


# Linear evaluation.


@pytest.fixture(scope="module")
def evaluated(run):
    """`linear_eval` of the best, step 4, and over all checkpoints, without its maps."""

    def maps(vectors, labels, *, seed):
        return {"t-SNE": (np.arange(6), vectors[:6, :2]), "UMAP": (np.arange(6), vectors[:6, 2:4])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "maps", maps)
        linear_eval.main(
            linear_eval.Config(str(run.folder), checkpoint="all", label_fraction=0.5, seed=3)
        )
    folder = run.folder / "linear_eval"
    return SimpleNamespace(
        folder=folder,
        results=json.loads((folder / "results.json").read_text()),
        page=(folder / "index.html").read_text(),
    )


def test_what_is_evaluated_is_the_frozen_encoder(run, evaluated):
    train = splits.label_fraction(run.data.train, 0.5, seed=3)
    encode = judging.compile_encode(run.model, run.placement)
    bank, asked = (
        judging.embed(encode, run.state, part, run.placement).astype(np.float64)
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
        pytest.approx(step * 64 / len(run.data.train)) for step in (0, 2, 4)
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


def test_layers_by_name():
    model = Embedder(
        ConvNet(widths=(4, 8), channels=1, rngs=nnx.Rngs(0)),
        ProjectionHead(8, kind="mlp2", out_features=3, rngs=nnx.Rngs(0)),
    )
    model = nnx.view(model, use_running_average=True, raise_if_not_found=False)
    images = jnp.asarray(np.random.default_rng(0).random((2, 8, 8, 1)), jnp.float32)
    h, z = model(images)

    def of(layer):
        copy = nnx.clone(model)  # as in a step: the model itself keeps its classes
        return np.asarray(trained.layer_output(model, layer)(copy, images))

    np.testing.assert_array_equal(of("h"), h)
    np.testing.assert_array_equal(of("z"), z)
    np.testing.assert_array_equal(of("head"), z)
    maps = model.encoder.convs[0](images)
    np.testing.assert_allclose(of("encoder/convs/0"), maps.mean((1, 2)), rtol=1e-6)
    for layer in ("encoder/conv", "", "encoder/convs"):
        with pytest.raises(InputError, match="choose h, z, encoder/convs/0") as error:
            of(layer)
        assert "\n" not in str(error.value)


def test_what_cannot_be_evaluated_is_one_line(run, tmp_path):
    def refused(message, folder=run.folder, **flags):
        with pytest.raises(InputError, match=message) as error:
            linear_eval.main(linear_eval.Config(str(folder), **flags))
        assert "\n" not in str(error.value)

    refused("is no run folder", tmp_path)
    refused("--checkpoint 3 is not in .*: choose best, last or one of 2, 4", checkpoint="3")
    refused("--layer encoder/nine is not in this network", layer="encoder/nine")
    refused("--label-fraction is 0", label_fraction=0)
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy, ignore=shutil.ignore_patterns("linear_eval"))
    record = json.loads((copy / "config.json").read_text())
    for change, message in (
        ({"config": record["config"] | {"features": 7}}, "is of another model: .*head"),
        ({"data": "of others"}, "are not the images"),
        ({"program": "vae"}, "no run of a study"),
    ):
        (copy / "config.json").write_text(json.dumps(record | change))
        refused(message, copy)
    assert not (copy / "linear_eval").exists()
    shutil.rmtree(copy / "checkpoints")
    (copy / "config.json").write_text(json.dumps(record))
    refused("has no checkpoint", copy)


# Fine-tuning.


def tune(run, folder, **changes) -> SimpleNamespace:
    """A fine-tuning of a few steps: its settings, its last state, the step that was best."""
    settings = {"checkpoint": "4", "label_fraction": 0.3, "batch_size": 32, "log_every": 1}
    settings |= {"evaluate_epochs": 0.2, "views": False, "run_dir": str(folder)} | changes
    config = finetune.Config(str(run.folder), **settings)
    finetune.main(config)
    model, _ = finetune.make_model(config, run.opened, run.placement)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        blank = run.placement.replicate(create_state(model, optax.adam(1e-3)))
        last, _ = checkpoints.restore(blank)
        best = checkpoints.best_step()
    results = json.loads((folder / "results.json").read_text())
    rows = read_metrics(folder / "metrics.jsonl")
    return SimpleNamespace(
        folder=folder, model=model, last=last, best=best, results=results, rows=rows
    )


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """End to end, four steps without a stop."""
    return tune(run, tmp_path_factory.mktemp("whole") / "run", steps=4)


def test_it_starts_from_the_checkpoint_and_all_of_it_learns(run, whole):
    start = create_state(whole.model, optax.adam(1e-3))
    assert_same(encoder_of(start), encoder_of(run.state))
    moved = {
        name: not np.array_equal(x, encoder_of(run.state)[name])
        for name, x in encoder_of(whole.last).items()
    }
    assert all(moved.values()), moved  # batch statistics too


def test_frozen_is_bit_identical_but_for_the_classifier(run, tmp_path):
    frozen = tune(run, tmp_path / "run", steps=2, freeze=True, views=True)
    assert_same(encoder_of(frozen.last), encoder_of(run.state))
    assert list(frozen.last.params) == ["head"]
    first = create_state(frozen.model, optax.adam(1e-3)).params["head"]
    kernel = frozen.last.params["head"]["kernel"]
    assert np.abs(kernel - first["kernel"]).max() > 1e-4
    assert frozen.results["protocol"]["trained"] == "linear layer"


def test_random_weights_are_those_of_the_seed(run):
    config = finetune.Config(str(run.folder), random=True, seed=5)
    model, start = finetune.make_model(config, run.opened, run.placement)
    fresh = simclr.make_model(dataclasses.replace(SMALL, seed=5))
    found = encoder_of(create_state(model, optax.adam(1e-3)))
    expected = encoder_of(create_state(fresh, optax.adam(1e-3)))
    assert start == "random weights"
    assert_same(found, expected)
    kernels = [name for name in found if "kernel" in name]
    assert not any(np.array_equal(found[name], encoder_of(run.state)[name]) for name in kernels)


def test_continued_is_uninterrupted(run, whole, tmp_path):
    tune(run, tmp_path / "run", steps=2)
    continued = tune(run, tmp_path / "run", steps=4)
    jax.tree.map(np.testing.assert_array_equal, continued.last, whole.last)
    losses = [[row["loss"] for row in found.rows] for found in (continued, whole)]
    assert losses[0] == losses[1]
    with pytest.raises(InputError, match="--freeze was False, is True"):
        tune(run, tmp_path / "run", steps=4, freeze=True)


def test_the_best_on_validation_is_what_is_tested(run, whole):
    accuracy = {row["step"]: row["accuracy"] for row in whole.rows if row["split"] == "val"}
    assert accuracy[whole.best] == max(accuracy.values())
    with Checkpoints(whole.folder / "checkpoints") as checkpoints:
        state, _ = checkpoints.restore(whole.last, step=whole.best)
    classify = judging.compile_encode(whole.model, run.placement, lambda m, images: m(images)[1])
    logits = judging.embed(classify, state, run.data.test, run.placement)
    truth = run.data.test.labels
    found = whole.results["classification"]
    assert found["top"].keys() == {"1", "3"}
    for t, share in found["top"].items():
        assert share == pytest.approx(top_k_accuracy_score(truth, logits, k=int(t)))
    expected = confusion_matrix(truth, logits.argmax(1), labels=range(5))
    assert found["confusion"] == expected.tolist()
    labels = whole.results["protocol"]["labels"]
    assert labels == len(splits.label_fraction(run.data.train, 0.3, seed=0))
    assert "What does the classifier get right?" in (whole.folder / "report/index.html").read_text()


def test_the_best_is_the_most_accurate_whatever_its_loss(run, tmp_path):
    accuracies = []
    with finetune.checkpoints_by(accuracies, tmp_path / "checkpoints") as checkpoints:
        for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7)):
            accuracies.append(accuracy)
            checkpoints.save(step, run.state, {"score": 1.0 + step})
        checkpoints.save(4, run.state, {"score": None})  # between validations
        checkpoints.finish()
        assert checkpoints.best_step() == 2


def test_a_series_of_checkpoints_stays(run, tmp_path):
    with Checkpoints(tmp_path / "checkpoints", keep_every=3) as checkpoints:
        for step in (2, 4, 5, 7, 10, 11):
            checkpoints.save(step, run.state, {"score": step})
        checkpoints.finish()
        # The best, the first from 3, 6 and 9 on, the newest two.
        assert checkpoints.steps() == [2, 4, 7, 10, 11]


def test_describe_and_what_cannot_be_tuned(run, tmp_path, capsys):
    config = finetune.Config(str(run.folder), freeze=True, describe=True)
    finetune.main(config)
    out = capsys.readouterr().out
    assert "Classifier  [5]" in out
    assert "1,285  trainable" in out
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
