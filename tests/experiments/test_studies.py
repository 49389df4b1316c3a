"""The supervised studies, a few steps each in this process: losses by hand, resume, flags."""

from __future__ import annotations

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp
from sklearn.metrics import confusion_matrix

from experiments import arcface, judging, protocol, softmax, study, supcon, triplet
from experiments.images import load_data
from jaxssl import losses
from jaxssl.analysis import results
from jaxssl.augment.views import two_views
from jaxssl.data.streams import train_stream
from jaxssl.errors import InputError
from jaxssl.files import read_lines as read_metrics
from jaxssl.training.checkpoint import Checkpoints

pytestmark = pytest.mark.program

PROGRAMS = {
    "supcon": supcon,
    "triplet": triplet,
    "arcface": arcface,
    "cosface": arcface,
    "softmax": softmax,
}
SMALL = {"seen": ("0", "1", "2"), "unseen": ("6", "7"), "batch_size": 64, "log_every": 1}
OWN = {
    # 403 images, two steps an epoch: negatives turn hard within the four steps of a run.
    "triplet": {"batch_size": 192, "images_per_class": 64, "hard_negatives_from": 1},
    "cosface": {"kind": "cosface"},
}


def config_of(name: str, **changes):
    settings = SMALL | OWN.get(name, {}) | {"draws": 2} | changes
    return dataclasses.replace(PROGRAMS[name].PRESETS["digits"], **settings)


def train(name: str, folder, **changes) -> SimpleNamespace:
    """A run without the analysis that follows it, which costs many times the training."""
    config = config_of(name, run_dir=str(folder), **changes)
    found = {}

    def judge(config, run, data, encode, placement, checkpoints, **rest):
        found.update(rest, data=data, placement=placement)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "judge", judge)
        PROGRAMS[name].main(config)
    rows = read_metrics(folder / "metrics.jsonl")
    return SimpleNamespace(config=config, folder=folder, rows=rows, **found)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """name -> its uninterrupted run of four steps."""

    @functools.cache
    def run(name: str) -> SimpleNamespace:
        return train(name, tmp_path_factory.mktemp(name) / "run", steps=4)

    return run


def training_rows(rows: list[dict]) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in ("time", "input_wait")}
        for row in rows
        if row["split"] == "train"
    ]


# Losses in float64 NumPy.


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])


def margin_loss(cosines, labels, config):
    true = labels[:, None] == np.arange(cosines.shape[1])
    margin = arcface.margin_of(config)
    if config.kind == "cosface":
        widened = cosines - margin
    else:
        angle = np.arccos(np.clip(cosines, -1, 1))
        assert (angle[true] < np.pi - margin).all()
        widened = np.cos(angle + margin)
    return cross_entropy(config.scale * np.where(true, widened, cosines), labels)


def supcon_loss(z, labels, temperature):
    similarity = unit(z) @ unit(z).T / temperature
    terms = []
    for i, row in enumerate(similarity):
        others = np.arange(len(z)) != i
        positives = others & (labels == labels[i])
        terms.append(logsumexp(row[others]) - row[positives].mean())
    return np.mean(terms)


def easy_semi_hard_loss(h, labels, margin):
    terms = []
    for i, row in enumerate(unit(h)):
        d = ((unit(h) - row) ** 2).sum(1)
        d_ap = d[(labels == labels[i]) & (np.arange(len(h)) != i)].min()
        d_an = d[labels != labels[i]]
        between = d_an[(d_an > d_ap) & (d_an < d_ap + margin)]
        terms.append(max(d_ap - min(between, default=d_an.min()) + margin, 0))
    return np.mean(terms)


def first_loss(name: str, config) -> float:
    """Of step 1, from the model as made, the stream's first batch and the step's key."""
    data = load_data(config)
    sampling = {"images_per_class": config.images_per_class} if name == "triplet" else {}
    stream = train_stream(data.train, batch_size=config.batch_size, seed=config.seed, **sampling)
    batch = next(iter(stream))
    labels = batch["label"]
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    model = nnx.view(
        PROGRAMS[name].make_model(config), use_running_average=False, raise_if_not_found=False
    )
    view = protocol.view_of(config)
    if name == "supcon":
        both = jax.jit(lambda key, x: two_views(key, x, view))(key, batch["image"])
        labels = np.concatenate([labels, labels])
        images = np.concatenate(both)
    else:
        images = jax.jit(lambda key, x: study.augmented(key, x, view))(key, batch["image"])
    h, z = nnx.jit(lambda model, x: model(x))(model, images)
    match name:
        case "supcon":
            return supcon_loss(z, labels, config.temperature)
        case "triplet":
            return easy_semi_hard_loss(h, labels, config.margin)
        case "softmax":
            return cross_entropy(z, labels)
        case _:
            return margin_loss(unit(h) @ unit(model.class_weights()).T, labels, config)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_first_loss_is_the_formula(name, whole):
    run = whole(name)
    assert run.rows[0]["loss"] == pytest.approx(first_loss(name, run.config), rel=1e-3)


@pytest.mark.parametrize("name", ["triplet", "arcface"])  # a curriculum; class weights
def test_continued_is_uninterrupted(name, whole, tmp_path):
    train(name, tmp_path / "run", steps=2)
    continued = train(name, tmp_path / "run", steps=4)
    assert training_rows(continued.rows) == training_rows(whole(name).rows)
    jax.tree.map(np.testing.assert_array_equal, continued.last, whole(name).last)


@pytest.mark.parametrize("name", ["softmax", "arcface"])
def test_validation_is_on_images_as_they_are(name, whole):
    run = whole(name)
    images = run.data.val
    order = np.random.default_rng(0).permutation(len(images))[:24]  # what eight devices divide
    logits = judging.embed(run.classify, run.last, images, run.placement)[order]
    labels = images.labels[order]
    if name == "arcface":
        loss = margin_loss(logits / 64.0, labels, run.config)
    else:
        loss = cross_entropy(logits, labels)
    row = [row for row in run.rows if row["split"] == "val"][-1]  # of the last state
    assert row["loss"] == pytest.approx(loss, rel=1e-3)
    assert row["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels), abs=1e-6)


def test_class_weights_move_and_are_saved(whole):
    run = whole("arcface")
    first = arcface.make_model(run.config).class_weights()
    weights = run.last.params["class_weights"]["weights"]
    assert np.abs(weights - first).min(axis=1).min() > 0
    with Checkpoints(run.folder / "checkpoints") as checkpoints:
        blank = jax.tree.map(lambda leaf: leaf * 0, run.last)
        state, _ = checkpoints.restore(blank, step=4)
    np.testing.assert_array_equal(state.params["class_weights"]["weights"], weights)


def test_the_curriculum_switches_without_a_trace(tmp_path, monkeypatch):
    true_loss = losses.triplet_loss_and_stats
    traced, hard_negatives = [], []

    def counted(h, labels, *, positive, negative, margin):
        traced.append(negative)
        if not isinstance(negative, str):
            jax.debug.callback(lambda hard: hard_negatives.append(bool(hard)), negative)
        return true_loss(h, labels, positive=positive, negative=negative, margin=margin)

    monkeypatch.setattr(losses, "triplet_loss_and_stats", counted)
    train("triplet", tmp_path / "run", steps=4)
    jax.effects_barrier()
    assert hard_negatives == [False, False, True, True]
    assert len(traced) == 2  # once in training, once in validation
    assert traced[1] == "hard"


def test_a_classifier_is_judged_as_one(whole, capsys, monkeypatch):
    monkeypatch.setattr(results, "umap_together", lambda tables, *, limit, seed: {})  # elsewhere
    run = whole("softmax")
    softmax.main(run.config)
    found = json.loads((run.folder / "results.json").read_text())["classification"]
    logits = judging.embed(run.classify, run.last, run.data.test, run.placement)
    truth, predicted = run.data.test.labels, logits.argmax(1)
    assert found["classes"] == ["0", "1", "2"]
    assert found["confusion"] == confusion_matrix(truth, predicted, labels=range(3)).tolist()
    assert found["accuracy"] == pytest.approx(np.mean(truth == predicted))
    for label, name in enumerate(found["classes"]):
        right = np.mean(predicted[truth == label] == label)
        assert found["per_class"][name] == pytest.approx(right)
    line = f"classifier: {found['accuracy']:.1%} of {len(truth)} test images right"
    assert line in capsys.readouterr().out


def test_softmax_validates_five_times_an_epoch_and_stops_early(tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    def fit(*args, plan, **options):
        raise Reached(plan)

    monkeypatch.setattr(study, "fit", fit)
    for patience, planned in ((12, 12), (0, None)):
        config = dataclasses.replace(
            softmax.PRESETS["digits"], run_dir=str(tmp_path / str(patience)), patience=patience
        )
        with pytest.raises(Reached) as reached:
            softmax.main(config)
        (plan,) = reached.value.args
        assert (plan.steps_per_epoch, plan.evaluate_every) == (12, 2)
        assert plan.total_steps == 50 * 12
        assert plan.patience == planned


@pytest.mark.parametrize(
    ("images_per_class", "numbers"), [(48, ("64", "48")), (16, ("64", "16", "4 classes", "3"))]
)
def test_images_per_class_that_do_not_fit(tmp_path, images_per_class, numbers):
    config = config_of(
        "triplet",
        run_dir=str(tmp_path / "run"),
        batch_size=64,
        images_per_class=images_per_class,
    )
    with pytest.raises(InputError) as error:
        triplet.main(config)
    assert "\n" not in str(error.value)
    for number in numbers:
        assert number in str(error.value)
    assert not (tmp_path / "run").exists()  # nothing was written for a mistake


@pytest.mark.parametrize("name", ["supcon", "arcface", "softmax"])
def test_describe_prints_the_model(name, capsys):
    PROGRAMS[name].main(config_of(name, describe=True))
    out = capsys.readouterr().out
    assert {"supcon": "head/linears/2", "arcface": "class_weights", "softmax": "Classifier"}[
        name
    ] in out
