import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.linear_model import Ridge
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

from jaxssl.analysis.propagation import neighbour_graph, propagate, spread, spread_labels


@pytest.fixture(scope="module")
def moons():
    """Two interleaved half circles, labels of which few are known."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, 150)
    upper = np.arange(150) % 2
    x = np.stack([np.cos(angle) * (1 - 2 * upper) + upper, np.sin(angle) * (1 - 2 * upper)], 1)
    return x + np.array([[0, 0.5]]) * upper[:, None] + rng.normal(0, 0.08, x.shape), upper


def weights(x, k):
    """W by a plain loop."""
    d = np.linalg.norm(x[:, None] - x[None], axis=2)
    sigma = [np.sort(np.delete(row, i))[k - 1] for i, row in enumerate(d)]
    w = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        others = [j for j in np.argsort(d[i], kind="stable") if j != i]
        for j in others[:k]:
            w[i, j] = w[j, i] = np.exp(-(d[i, j] ** 2) / (sigma[i] * sigma[j]))
    return w


def test_the_graph_is_a_loops(moons):
    w = weights(moons[0], 5)
    degree = w.sum(axis=1)
    graph = neighbour_graph(moons[0], neighbours=5, metric="euclidean")
    assert sparse.issparse(graph)
    assert graph.nnz == (w > 0).sum()
    np.testing.assert_allclose(
        graph.toarray(), w / np.sqrt(degree[:, None] * degree[None]), atol=1e-12
    )


@pytest.mark.parametrize("alpha", [0.2, 0.9])
def test_spread_is_scikit_learns_label_spreading_and_the_closed_form(moons, alpha):
    x, labels = moons
    graph = neighbour_graph(x, neighbours=5, metric="euclidean")
    known = np.full(len(x), -1)
    known[:6] = labels[:6]
    start = np.eye(2)[known] * (known >= 0)[:, None]
    found = spread(graph, start, alpha=alpha)
    exact = (1 - alpha) * np.linalg.solve(np.eye(len(x)) - alpha * graph.toarray(), start)
    np.testing.assert_allclose(found, exact, atol=1e-3 * exact.max())

    # scikit-learn makes S of W itself: the same, for it is given the W of this graph.
    w = weights(x, 5)
    oracle = LabelSpreading(kernel=lambda x, _: w, alpha=alpha, max_iter=2000, tol=1e-8)
    oracle.fit(x, known)
    shares = found / found.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, oracle.label_distributions_, atol=1e-3)
    assert (found.argmax(axis=1) == oracle.transduction_).all()


def test_copies_of_an_image_and_images_without_a_label_near():
    x = np.concatenate([np.zeros((5, 2)), np.full((5, 2), 9.0)])
    graph = neighbour_graph(x, neighbours=2, metric="euclidean")
    found = spread(graph, np.eye(1)[:1].repeat(10, 0) * (np.arange(10) == 0)[:, None])
    assert np.isfinite(found).all()
    assert (found[:3] > 0).all()
    assert (found[5:] == 0).all()


def test_alpha_0_is_the_start_and_what_does_not_fit_is_refused(moons):
    graph = neighbour_graph(moons[0], neighbours=3)
    start = np.random.default_rng(0).random((150, 3))
    np.testing.assert_array_equal(spread(graph, start, alpha=0), start)
    for wrong, alpha in ((start, 1.0), (start[:-1], 0.5), (start[:, 0], 0.5)):
        with pytest.raises(ValueError, match="a row for each of the graph's 150"):
            spread(graph, wrong, alpha=alpha)


def test_balanced_labels_are_those_of_a_loop(moons):
    x, labels = moons
    graph = neighbour_graph(x, neighbours=5, metric="euclidean")
    rows = np.array([0, 2, 4, 1])  # three of class 0, one of class 1
    start = np.zeros((150, 2))
    for row in rows:
        start[row, labels[row]] = 1 / {0: 3, 1: 1}[labels[row]]
    exact = 0.1 * np.linalg.solve(np.eye(150) - 0.9 * graph.toarray(), start)
    found = spread_labels(graph, rows, labels[rows], classes=2, alpha=0.9)
    np.testing.assert_allclose(found, exact / exact.sum(axis=1, keepdims=True), atol=1e-3)


def test_propagated_scores_are_scikit_learns_ridge_regression(moons):
    x, labels = moons
    x = np.hstack([x, x**2, np.full((150, 1), 7.0)])  # and a dead unit
    graph = neighbour_graph(x, neighbours=5, metric="euclidean")
    rows = np.array([0, 2, 4, 1])
    found = propagate(x, graph, rows, labels[rows], classes=2, ridge=0.1)

    shares = spread_labels(graph, rows, labels[rows], classes=2)
    guess = shares.argmax(axis=1)
    certainty = 1 - stats.entropy(shares, axis=1) / np.log(2)
    guess[rows], certainty[rows] = labels[rows], 1
    weights = np.array(
        [c / certainty[guess == g].sum() for c, g in zip(certainty, guess, strict=True)]
    )
    scaled = np.hstack([StandardScaler().fit_transform(x), np.ones((150, 1))])
    strength = 0.1 * np.mean([(weights * column**2).sum() for column in scaled.T])
    oracle = Ridge(strength, fit_intercept=False, solver="cholesky")
    oracle.fit(scaled, np.eye(2)[guess], sample_weight=weights)
    np.testing.assert_allclose(found, oracle.predict(scaled), atol=1e-8)
    assert balanced_accuracy_score(labels, found.argmax(axis=1)) > 0.8
    with pytest.raises(ValueError, match="the graph is of 150 images"):
        propagate(x[1:], graph, rows, labels[rows], classes=2)
