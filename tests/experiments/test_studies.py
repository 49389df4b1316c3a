"""The studies with labels, a few steps each in this process: losses by hand, batches, flags.

That they stop and resume is proven once, by SimCLR's program: loop, state and stream are the same.
"""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp

from experiments import arcface, datasets, rnn, softmax, study, supcon, triplet, watching
from jaxssl import augment, embedding, losses, training
from jaxssl import data as images_room
from jaxssl.data import train_stream
from jaxssl.errors import InputError
from jaxssl.training.checkpoint import Checkpoints

from .conftest import numbers, small, train

pytestmark = pytest.mark.program

PROGRAMS = {
    "supcon": supcon,
    "triplet": triplet,
    "arcface": arcface,
    "cosface": arcface,
    "softmax": softmax,
    "rnn": rnn,
}
OWN = {
    # 403 images, two steps an epoch: negatives turn hard within the four steps of a run.
    "triplet": {"batch_size": 192, "images_per_class": 64, "hard_negatives_from": 1},
    "cosface": {"kind": "cosface", "margin": None},
    "rnn": {"hidden": 8, "l2": 6, "l3": 5, "plateau": 1, "dropout": 0.0},
}


def config_of(name: str, **changes):
    return small(PROGRAMS[name], **OWN.get(name, {}), **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """name -> its run of four steps, validated at the last."""

    @functools.cache
    def run(name: str):
        folder = tmp_path_factory.mktemp(name) / "run"
        config = config_of(name, steps=4, evaluate_epochs=4.0, run_dir=str(folder))
        return train(PROGRAMS[name], config)

    return run


# Losses in float64 NumPy.


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cross_entropy(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])


def margin_loss(cosines, labels, config):
    true = labels[:, None] == np.arange(cosines.shape[1])
    if config.kind == "cosface":
        widened = cosines - config.margin
    else:
        angle = np.arccos(np.clip(cosines, -1, 1))
        assert (angle[true] < np.pi - config.margin).all()
        widened = np.cos(angle + config.margin)
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


def first_loss(name: str, run) -> float:
    """Of step 1, from the model as made, the stream's first batch and the step's key."""
    config, data = run.config, run.data
    sampling = {"images_per_class": config.images_per_class} if name == "triplet" else {}
    stream = train_stream(data.train, batch_size=config.batch_size, seed=config.seed, **sampling)
    batch = next(iter(stream))
    labels = batch["label"]
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    model = nnx.view(run.method.model, use_running_average=False, raise_if_not_found=False)
    if name == "supcon":
        both = jax.jit(lambda key, x: augment.views(key, x, data.recipe))(key, batch["image"])
        labels = np.concatenate([labels, labels])
        images = np.concatenate(both)
    else:
        images = jax.jit(lambda key, x: augment.view(key, x, data.recipe))(key, batch["image"])
    h, z = nnx.jit(lambda model, x: model(x))(nnx.clone(model), images)
    match name:
        case "supcon":
            return supcon_loss(z, labels, config.temperature)
        case "triplet":
            return easy_semi_hard_loss(h, labels, config.margin)
        case "softmax" | "rnn":
            return cross_entropy(z, labels)
        case _:
            return margin_loss(unit(h) @ unit(model.class_weights()).T, labels, config)


# On eight devices the one whose classes they share; SimCLR is in test_simclr, and mining in losses.
@pytest.mark.parametrize(
    "name",
    [
        "arcface",
        pytest.param("softmax", marks=pytest.mark.one_device),
        pytest.param("rnn", marks=pytest.mark.one_device),
    ],
)
def test_the_first_loss_is_the_formula(name, whole):
    run = whole(name)
    assert numbers(run.rows, "train")[0]["loss"] == pytest.approx(first_loss(name, run), rel=1e-3)


@pytest.mark.one_device
@pytest.mark.parametrize("name", ["supcon", "cosface"])
def test_the_loss_of_the_first_batch_is_the_formula(name, tmp_path):
    """Of the method itself: the loop, which calls it, is the same as above."""
    config = config_of(name, steps=4, run_dir=str(tmp_path / "run"))
    with study.open(config) as run:
        data = study.load(run)
    method = PROGRAMS[name].make_method(config, data)
    batch = next(iter(train_stream(data.train, batch_size=config.batch_size, seed=config.seed)))
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    model = nnx.view(method.model, use_running_average=False, raise_if_not_found=False)
    loss, _ = nnx.jit(lambda model, batch: method.loss(model, batch, key, 0))(
        nnx.clone(model), batch
    )
    made = SimpleNamespace(config=config, data=data, method=method)
    assert loss == pytest.approx(first_loss(name, made), rel=1e-3)


@pytest.mark.parametrize("name", ["softmax", "arcface", "rnn"])
def test_validation_is_on_images_as_they_are_with_the_state_that_is_saved(name, whole):
    run = whole(name)
    images, placement = run.data.val, run.run.placement
    with Checkpoints(run.folder / "checkpoints") as checkpoints:
        state, _ = checkpoints.restore(run.last, step=4)
    order = np.random.default_rng(0).permutation(len(images))[:24]  # of 27: a multiple of eight
    classify = embedding.compile_output(run.method.model, run.method.logits, placement)
    logits = embedding.embed_set(classify, state, images, placement)[order]
    labels = images.labels[order]
    if name == "arcface":
        loss = margin_loss(logits / 64.0, labels, run.config)
    else:
        loss = cross_entropy(logits, labels)
    (row,) = numbers(run.rows, "val")
    assert row["loss"] == pytest.approx(loss, rel=1e-3)
    assert row["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels), abs=1e-6)


def test_an_embedding_that_is_not_finite_leaves_the_last_word_to_the_loop(whole):
    """It says which step, and which checkpoint is good; kNN of NaN ended the run before."""
    run = whole("softmax")
    plan = dataclasses.replace(
        watching.plan_of(run.config, run.data, run.method), steps_per_epoch=1
    )
    validate = watching.validation(run.run, run.data, run.method, plan)
    assert "knn_accuracy" in validate(run.last)
    params = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), run.last.params)
    row = validate(dataclasses.replace(run.last, params=params))
    assert np.isnan(row["loss"])
    assert "knn_accuracy" not in row


def test_class_weights_move_and_are_saved(whole):
    run = whole("arcface")
    first = training.create_state(run.method).params["class_weights"]["weights"]
    weights = run.last.params["class_weights"]["weights"]
    assert np.abs(weights - first).min(axis=1).min() > 0
    with Checkpoints(run.folder / "checkpoints") as checkpoints:
        blank = jax.tree.map(lambda leaf: leaf * 0, run.last)
        state, _ = checkpoints.restore(blank, step=4)
    np.testing.assert_array_equal(state.params["class_weights"]["weights"], weights)


@pytest.mark.one_device
def test_the_curriculum_switches_without_a_trace(tmp_path, monkeypatch):
    true_loss = losses.triplet_loss_and_stats
    traced, hard_negatives = [], []

    def counted(h, labels, *, positive, negative, margin):
        traced.append(negative)
        if not isinstance(negative, str):
            jax.debug.callback(lambda hard: hard_negatives.append(bool(hard)), negative)
        return true_loss(h, labels, positive=positive, negative=negative, margin=margin)

    monkeypatch.setattr(losses, "triplet_loss_and_stats", counted)
    folder = str(tmp_path / "run")
    run = train(triplet, config_of("triplet", steps=4, evaluate_epochs=2.0, run_dir=folder))
    jax.effects_barrier()
    assert hard_negatives == [False, False, True, True]
    formula = first_loss("triplet", run)
    assert numbers(run.rows, "train")[0]["loss"] == pytest.approx(formula, rel=1e-3)
    assert len(traced) == 2  # once in training, once in validation
    assert traced[1] == "hard"


class Reached(Exception):
    """What `train` hands on, before anything is compiled."""


@pytest.fixture
def reached(monkeypatch, tmp_path):
    """`reached(program, **changes)` gives what `fit` would be called with."""

    def fit(state, work, *, plan, **rest):
        raise Reached(work, plan)

    monkeypatch.setattr(training, "fit", fit)

    def call(program, **changes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(Reached) as found:
            train(program, small(program, run_dir=str(folder), **changes))
        return found.value.args

    return call


def test_softmax_validates_five_times_an_epoch_and_stops_early(reached):
    for patience, planned in ((12, 12), (0, None)):
        _, plan = reached(softmax, patience=patience)
        assert (plan.steps_per_epoch, plan.evaluate_every) == (12, 2)
        assert plan.total_steps == 60 * 12  # the preset's epochs
        assert plan.patience == planned


def test_checkpoints_come_as_often_as_they_are_to_be_kept(reached):
    every = reached(supcon)[1].evaluate_every  # every 5 epochs
    assert every == 60
    assert reached(supcon, keep_every=2.0)[1].evaluate_every == 24
    assert reached(supcon, keep_every=10.0)[1].evaluate_every == 60


def labels_of(stream, steps=30):
    return np.concatenate([batch["label"] for _, batch in zip(range(steps), stream, strict=False)])


@pytest.mark.parametrize("program", [softmax, supcon, arcface])
def test_balanced_draws_every_class_equally_often(program, reached, monkeypatch):
    """Of classes of 134, 20 and 10 images."""
    read = datasets.read

    def uneven(settings, seed):
        data = read(settings, seed)
        labels = data.train.labels
        kept = [np.flatnonzero(labels == k)[:n] for k, n in enumerate((134, 20, 10))]
        return dataclasses.replace(data, train=data.train.subset(np.concatenate(kept)))

    monkeypatch.setattr(datasets, "read", uneven)
    plain, balanced = (
        np.bincount(labels_of(reached(program, balanced=flag)[0].stream(0)), minlength=3)
        for flag in (False, True)
    )
    assert plain[0] > 4 * plain[1]
    assert balanced.max() <= 1.15 * balanced.min()


def test_a_part_of_the_labels_is_all_that_is_streamed(reached):
    """softmax --label-fraction: ids of the images behind the batches of ten epochs."""
    seen = []
    stream = images_room.train_stream

    def kept(images, **options):
        seen.append(images)
        return stream(images, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images_room, "train_stream", kept)
        work, plan = reached(softmax, label_fraction=0.25)
        labels = labels_of(work.stream(0), 10 * plan.steps_per_epoch)
    assert {len(images) for images in seen} == {100}
    assert np.bincount(labels).sum() == 10 * plan.steps_per_epoch * 32
    assert plan.steps_per_epoch == 3


@pytest.mark.parametrize(
    ("images_per_class", "numbers"), [(48, ("64", "48")), (16, ("64", "16", "4 classes", "3"))]
)
def test_images_per_class_that_do_not_fit(tmp_path, images_per_class, numbers):
    config = small(
        triplet,
        run_dir=str(tmp_path / "run"),
        batch_size=64,
        images_per_class=images_per_class,
    )
    with pytest.raises(InputError) as error:
        train(triplet, config)
    assert "\n" not in str(error.value)
    for number in numbers:
        assert number in str(error.value)
    assert not (tmp_path / "run").exists()  # nothing was written for a mistake


def test_the_row_classifiers_optimizer_is_torchs_with_its_plateau():
    """Adam with coupled weight decay; ReduceLROnPlateau of the epochs' means, one epoch earlier."""
    torch = pytest.importorskip("torch", reason="parity with torch's Adam and ReduceLROnPlateau")
    random = np.random.default_rng(0)
    grads = random.normal(size=(10, 4)).astype(np.float32)
    values = np.float32([3, 1, 2, 1, 2, 2, 2, 2, 2, 1])  # epochs of two steps
    start = random.normal(size=4).astype(np.float32)
    config = rnn.RNN(plateau=2, weight_decay=0.3, learning_rate=0.1)
    outline = {"classes": ("a",), "shape": (8, 8, 1), "steps_per_epoch": 2, "total_steps": 10}

    weights = torch.nn.Parameter(torch.tensor(start))
    adam = torch.optim.Adam([weights], lr=0.1, weight_decay=0.3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.1, patience=1)
    optimizer = rnn.make_optimizer(config, datasets.of_outline(outline, config))
    params = jnp.array(start)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for i, (grad, loss) in enumerate(zip(grads, values, strict=True)):
        if i % 2:  # optax looks before an epoch's last step, torch after it
            scheduler.step(values[i - 1 : i + 1].mean())
        weights.grad = torch.tensor(grad)
        adam.step()
        updates, state = update(grad, state, params, value=loss)
        params = params + updates
        np.testing.assert_allclose(params, weights.detach(), rtol=1e-5, atol=1e-6)
    assert adam.param_groups[0]["lr"] == pytest.approx(0.01)


def test_a_study_of_one_process_refuses_to_be_tuned_by_several(whole, monkeypatch):
    monkeypatch.setattr("jaxssl.training.processes.count", lambda: 2)
    run = whole("softmax")
    with pytest.raises(InputError, match="tuning runs as one process"):
        study.train(run.run, run.data, run.method, lambda row: None)
