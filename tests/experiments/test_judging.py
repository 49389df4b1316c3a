"""What is judged: the state that was asked for, beside the other one, the untrained and pixels."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from experiments import softmax, study
from jaxssl import data as images_room
from jaxssl import embedding, files, training

from .conftest import numbers, small, train

pytestmark = [pytest.mark.program, pytest.mark.one_device]

# Of validations after steps 2, 4 and 6 the second is the best: it is not the last.
ACCURACY = {2: 0.5, 4: 0.9, 6: 0.7}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six steps of the classifier, whose best by its (given) accuracy is step 4."""
    folder = tmp_path_factory.mktemp("judging") / "run"
    fit = training.fit

    def given(state, work, **options):
        def evaluate(state):
            return {**work.evaluate(state), "accuracy": ACCURACY[int(state.step)]}

        return fit(state, dataclasses.replace(work, evaluate=evaluate), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", given)
        config = small(softmax, steps=6, run_dir=str(folder), patience=0)
        return train(softmax, config)


def embedded(run, state, images):
    encode = embedding.compile_output(run.method.model, run.method.encode, run.run.placement)
    return embedding.embed_set(encode, state, images, run.run.placement)


def by_hand(run, state, images):
    """h of the encoder as an object, in evaluation mode: no step, no batches of 256."""
    from flax import nnx

    nnx.update(model := nnx.clone(run.method.model), state.params, state.rest)
    model = nnx.view(model, use_running_average=True, raise_if_not_found=False)
    return nnx.jit(lambda m, x: m.encoder(x))(model, np.float32(images.images()) / 255)


def test_best_and_last_are_the_states_of_their_steps(run):
    facts = run.trained.facts
    assert (facts["best_step"], facts["last_step"]) == (4, 6)
    states = run.trained.states
    assert {name: int(state.step) for name, state in states.items()} == {"best": 4, "last": 6}


@pytest.mark.parametrize("judge", ["best", "last"])
def test_the_judged_state_is_the_one_asked_for(run, judge):
    other = {"best": "last", "last": "best"}[judge]
    asked = dataclasses.replace(run.run, config=dataclasses.replace(run.config, judge=judge))
    tables = study.embed(asked, run.data, run.trained).tables
    assert tables.keys() == {"h", other, "untrained", "raw_pixels"}
    unseen, states = run.data.unseen["unseen"], run.trained.states
    initial = run.run.placement.replicate(training.create_state(run.method))
    for name, state in {"h": states[judge], other: states[other], "untrained": initial}.items():
        found = tables[name]["unseen"]
        np.testing.assert_allclose(found.vectors, by_hand(run, state, unseen), atol=2e-5)
        assert found.ids == unseen.ids
    step = {"best": 4, "last": 6}[judge]
    assert tables["h"]["test"].metadata["checkpoint"] == step
    pixels = images_room.raw_pixels(unseen)
    np.testing.assert_array_equal(tables["raw_pixels"]["unseen"].vectors, pixels)
    names = set(tables["h"])
    assert names == {"train", "val", "test", "unseen"}
    assert tables["h"]["train"].ids == run.data.train.ids


@pytest.mark.parametrize("views", [1, 4])
def test_a_classifier_is_judged_as_one(run, views):
    """Over as many views as h, which is what `predict` does with the run."""
    asked = dataclasses.replace(run.config, average_views=views)
    embedded = study.embed(dataclasses.replace(run.run, config=asked), run.data, run.trained)
    found = files.plain(embedded.facts.classification)
    classify = embedding.compile_output(run.method.model, run.method.logits, run.run.placement)
    best, test = run.trained.states["best"], run.data.test
    turned = [np.rot90(test.images(), k, axes=(1, 2)) for k in range(views)]
    each = [embedding.embed_set(classify, best, x, run.run.placement) for x in turned]
    logits = np.mean(each, axis=0)
    truth, predicted = test.labels, logits.argmax(1)
    assert list(found["classes"]) == ["0", "1", "2"]
    expected = confusion_matrix(truth, predicted, labels=range(3))
    assert np.array_equal(found["confusion"], expected)
    # Each test image's guess goes with its vector: cells of the matrix open their images.
    assert embedded.tables["h"]["test"].extra["predicted"].tolist() == [str(c) for c in predicted]
    assert found["accuracy"] == pytest.approx(np.mean(truth == predicted))
    for label, name in enumerate(found["classes"]):
        right = np.mean(predicted[truth == label] == label)
        assert found["per_class"][name] == pytest.approx(right)


def test_the_knn_accuracy_of_a_validation_is_of_a_bank_without_its_queries(run):
    """scikit-learn's, with weights exp(cos / .1), on the embedding of the last state."""
    h_bank, h_val = (
        np.asarray(embedded(run, run.last, part), np.float64)
        for part in (run.data.train, run.data.val)
    )
    assert not {*run.data.train.ids} & {*run.data.val.ids}
    knn = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1))
    predicted = knn.fit(h_bank, run.data.train.labels).predict(h_val)
    row = numbers(run.rows, "val")[-1]
    assert row["knn_accuracy"] == pytest.approx(np.mean(predicted == run.data.val.labels), abs=0.04)
    # With the queries in it, of one neighbour each, every one would be right.
    shuffled = jax.random.permutation(jax.random.key(0), np.asarray(run.data.val.labels))
    assert np.mean(predicted == shuffled) < 1


@pytest.mark.parametrize("unseen", [(), ("6",)], ids=["none", "one"])
def test_without_two_unseen_classes_a_study_ends_with_a_report(unseen, tmp_path, no_umap, capsys):
    """Judged on its initial weights: what is trained makes no difference to what is written."""
    folder = tmp_path / "run"
    config = small(softmax, unseen=unseen, lookalikes=(), steps=1, run_dir=str(folder))
    softmax.main(config)
    results = json.loads((folder / "results.json").read_text())
    assert results["sets"].keys() == {"train", "val", "test"} | ({"unseen"} if unseen else set())
    page = (folder / "report" / "index.html").read_text()
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"report: {folder / 'report' / 'index.html'}"
    if unseen:  # why there is no table stands where it would be
        assert "one" in page
    assert "softmax" in page.lower()
