"""Classes for a folder from few labels."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold

from jaxssl.analysis import few_labels, propagate, propagate_few_labels, whitened_graph
from jaxssl.errors import InputError


@pytest.fixture(scope="module")
def folder():
    """Three classes of images, a few labelled, one of them wrongly."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [60, 40, 20])
    vectors = rng.normal(size=(3, 8))[truth] * 3 + rng.normal(size=(120, 8))
    rows = np.array([0, 9, 30, 44, 61, 70, 85, 101, 110, 119])
    names = np.array(["a", "b", "c"])[truth[rows]]
    names[0] = "c"
    return vectors, truth, rows, names


@pytest.mark.filterwarnings("ignore:The least populated class:UserWarning")
def test_the_accuracy_to_expect_is_a_loops_over_folds(folder):
    vectors, _, rows, names = folder
    found = propagate_few_labels(vectors, rows, names, seed=3)
    labels = np.searchsorted(["a", "b", "c"], names)
    graph = whitened_graph(vectors)
    predicted = np.zeros(len(rows), int)
    # The largest class has four labels.
    for train, test in StratifiedKFold(4, shuffle=True, random_state=3).split(rows, labels):
        scores = propagate(vectors, graph, rows[train], labels[train], classes=3)
        predicted[test] = scores[rows[test]].argmax(1)
    assert found.accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found.low <= found.accuracy <= found.high
    assert (found.classes, found.labels) == (("a", "b", "c"), 10)


def test_all_images_get_probabilities_that_agree_with_the_scores(folder):
    vectors, truth, rows, names = folder
    found = propagate_few_labels(vectors, rows, names)
    labels = np.searchsorted(["a", "b", "c"], names)
    scores = propagate(vectors, whitened_graph(vectors), rows, labels, classes=3)
    np.testing.assert_array_equal(found.probabilities.argmax(1), scores.argmax(1))
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert (found.probabilities.argmax(1) == truth).mean() > 0.9


@pytest.mark.parametrize(
    ("names", "rule"), [("aa", "two classes or more"), ("aab", "labelled 'b'")]
)
def test_too_few_labels_are_told(names, rule):
    with pytest.raises(InputError, match=rule):
        propagate_few_labels(np.eye(5), np.arange(len(names)), np.array([*names]))


def test_a_rare_class_does_not_halve_what_the_accuracy_is_learnt_from():
    labels = np.repeat([0, 1, 2], [20, 2, 3])
    parts = few_labels._parted(labels, few_labels._folds(labels), 0)
    assert len(parts) == 5
    assert sorted(np.concatenate([test for _, test in parts])) == [*range(25)]
    for train, _ in parts:
        assert len(train) >= 19
        assert set(labels[train]) == {0, 1, 2}


@pytest.mark.parametrize("sizes", [(6,) * 8, (2, 2, 3, 4, 6, 8, 10, 13)])
def test_nineteen_of_twenty_intervals_have_the_accuracy_in_them(sizes):
    """Classes of few images that are nearly all right: each had been taken for three in four."""
    random = np.random.default_rng(0)
    labels, found = np.repeat(range(8), sizes), []
    for seed in range(200):
        accuracies = random.beta(18, 2, 8)  # .9 on average
        right = random.uniform(size=len(labels)) < accuracies[labels]
        low, high = few_labels._interval(labels, np.where(right, labels, labels + 1), seed)
        found.append((low, high, accuracies.mean()))
    low, high, true = np.array(found).T
    assert np.mean((low <= true) & (true <= high)) >= 0.95
    assert abs(np.mean((low + high) / 2 - true)) < 0.03
    assert np.mean(high - low) < 0.3
