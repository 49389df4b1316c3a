"""Classes for a folder from few labels."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold

from jaxssl.analysis import propagate, propagate_few_labels, whitened_graph
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


def test_the_accuracy_to_expect_is_a_loops_over_folds(folder):
    vectors, _, rows, names = folder
    found = propagate_few_labels(vectors, rows, names, seed=3)
    labels = np.searchsorted(["a", "b", "c"], names)
    graph = whitened_graph(vectors)
    predicted = np.zeros(len(rows), int)
    # The smallest class has three labels.
    for train, test in StratifiedKFold(3, shuffle=True, random_state=3).split(rows, labels):
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
