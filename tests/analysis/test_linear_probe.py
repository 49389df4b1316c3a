"""Linear evaluation against scikit-learn's own pipeline, and against what must hold."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxssl.analysis import linear_probe as module
from jaxssl.analysis.linear_probe import linear_probe


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:200], y[:200], x[500:600], y[500:600], x[700:900]


def reference(x, y, c):
    model = LogisticRegression(C=c, max_iter=2000, tol=1e-8)
    return make_pipeline(StandardScaler(), model).fit(x, y)


def test_the_penalty_is_the_best_on_validation_and_the_fit_is_converged(digits):
    x, y, x_val, y_val, x_test = digits
    grid = (1e-4, 1e-3, 1e-2, 1e-1)
    probe = linear_probe(x, y, x_val, y_val, grid=grid)
    found = [reference(x, y, c).score(x_val, y_val) for c in grid]
    assert probe.c == grid[int(np.argmax(found))]
    assert probe.val_accuracy == pytest.approx(max(found))
    assert probe.converged
    expected = reference(x, y, probe.c).predict_proba(x_test)
    np.testing.assert_allclose(probe.scores(x_test), expected, atol=2e-3)


def test_the_path_ends_where_validation_falls():
    # One feature tells the class, sixty are noise, and a quarter of the training labels are wrong.
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    x = np.concatenate([3 * y[:, None] + rng.normal(size=(200, 1)), rng.normal(size=(200, 60))], 1)
    said = np.where(rng.random(100) < 0.25, 1 - y[:100], y[:100])
    x_val, y_val = x[100:], y[100:]
    scores = [reference(x[:100], said, c).score(x_val, y_val) for c in module.GRID]
    falls = [i for i in range(1, len(scores)) if scores[i] < max(scores[:i])]
    assert falls, scores  # else this shows nothing
    probe = linear_probe(x[:100], said, x_val, y_val)
    before = scores[: falls[0]]
    assert probe.c == module.GRID[int(np.argmax(before))]
    assert probe.val_accuracy == max(before)


def test_of_equal_penalties_the_strongest_is_taken():
    x, y = np.array([[-1.0], [1.0]] * 5), np.array([0, 1] * 5)
    probe = linear_probe(x, y, x, y)
    assert (probe.c, probe.val_accuracy) == (module.GRID[0], 1.0)


def test_too_few_iterations_are_said(digits, monkeypatch):
    monkeypatch.setattr(module, "MAX_ITERATIONS", 3)
    probe = linear_probe(*digits[:4], grid=(1.0,))
    assert (probe.iterations, probe.converged) == (3, False)


def test_labels_have_their_own_columns():
    x, y = np.array([[-1.0], [1.0]] * 5), np.array([1, 3] * 5)
    scores = linear_probe(x, y, x, y).scores(x[:2])
    assert scores.shape == (2, 4)
    assert scores.argmax(axis=1).tolist() == [1, 3]
    assert (scores[:, [0, 2]] == 0).all()


def test_pairs_that_do_not_fit_raise():
    x, y = np.ones((4, 3)), np.array([0, 1, 0, 1])
    for wrong in ((x, y, x[:, :2], y), (x, y[:2], x, y), (x, y, x, y[:2]), (x, y, x[:0], y[:0])):
        with pytest.raises(ValueError, match="shapes are"):
            linear_probe(*wrong)
