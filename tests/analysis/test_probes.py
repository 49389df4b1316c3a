import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from jaxssl.analysis.probes import (
    default_sizes,
    knn_accuracy,
    knn_votes,
    label_efficiency,
)
from jaxssl.analysis.propagation import propagate, spread_labels, whitened_graph
from jaxssl.analysis.sampling import stratified_sample
from jaxssl.errors import InputError


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x, y


@pytest.fixture(scope="module")
def cloud():
    rng = np.random.default_rng(0)
    labels = np.repeat([2, 5, 9], [60, 30, 10])
    vectors = rng.normal(size=(10, 6))[labels] * [1, 1, 5, 1, 0, 1] + rng.normal(size=(100, 6))
    vectors[:, 4] = 3  # a dead unit
    return vectors, labels


def reference(vectors, labels, size, draws, seed):
    """The protocol with scikit-learn's own pipelines on the same rows."""
    models = {
        "svc": lambda: SVC(gamma="auto"),
        "linear": lambda: LogisticRegression(max_iter=1000),
        "knn": lambda: KNeighborsClassifier(min(10, size)),
    }
    scores = {name: [] for name in models}
    for draw in range(draws):
        count = int(np.ceil(0.3 * len(labels)))
        test = stratified_sample(labels, count, np.random.default_rng([seed, draw]))
        pool = np.array([row for row in range(len(labels)) if row not in set(test.tolist())])
        rng = np.random.default_rng([seed, draw, size])
        train = pool[stratified_sample(labels[pool], size, rng)]
        for name, model in models.items():
            fitted = make_pipeline(StandardScaler(), model()).fit(vectors[train], labels[train])
            predicted = fitted.predict(vectors[test])
            scores[name].append(balanced_accuracy_score(labels[test], predicted))
    return scores


@pytest.mark.parametrize("size", [6, 25, 70])
def test_scores_are_those_of_scikit_learns_pipelines(cloud, size):
    rows = label_efficiency(*cloud, sizes=[size], draws=3, seed=7)
    expected = reference(*cloud, size, 3, 7)
    for row in (row for row in rows if row["labels"] == size):
        assert row["scores"] == pytest.approx(expected[row["classifier"]], abs=1e-12)


def test_a_row_says_the_mean_and_its_t_interval(cloud):
    rows = label_efficiency(*cloud, sizes=[69, 3], draws=4, classifiers=["knn", "svc"])
    assert [(row["classifier"], row["labels"]) for row in rows] == [
        *[("knn", 3), ("knn", 69), ("knn", 70)],
        *[("svc", 3), ("svc", 69), ("svc", 70)],
    ]
    for row in rows:
        assert row["draws"] == len(row["scores"]) == 4
        assert row["mean"] == pytest.approx(np.mean(row["scores"]))
        half = stats.t.ppf(0.975, 3) * stats.sem(row["scores"])
        assert row["low"] == pytest.approx(max(row["mean"] - half, 0))
        assert row["high"] == pytest.approx(min(row["mean"] + half, 1))
        assert row.get("all", False) == (row["labels"] == 70)


def test_the_interval_stays_within_what_an_accuracy_can_be():
    rng = np.random.default_rng(6)
    labels = np.arange(40) % 4
    noise = rng.normal(size=(40, 1))
    rows = [
        *label_efficiency(noise, labels, sizes=[8], draws=2),
        *label_efficiency(labels[:, None] + 0.2 * noise, labels, sizes=[8], draws=2),
    ]
    spread = [row for row in rows if row["scores"][0] != row["scores"][1]]
    assert all(0 <= row["low"] < row["mean"] < row["high"] <= 1 for row in spread)
    assert min(row["low"] for row in spread) == 0
    assert max(row["high"] for row in spread) == 1


def test_default_sizes_are_the_studys():
    assert default_sizes(30) == []
    assert default_sizes(101) == [30, 40, 50, 60, 70, 80, 90, 100]
    assert default_sizes(4300)[7:] == [*range(100, 1000, 100), 1000, 2000]
    assert default_sizes(6000)[-2:] == [2000, 4000]


def test_sizes_under_the_classes_or_over_the_pool_are_left_out(cloud):
    rows = label_efficiency(*cloud, sizes=[2, 3, 70, 71, 500], draws=2, classifiers=["knn"])
    assert [row["labels"] for row in rows] == [3, 70]
    rows = label_efficiency(*cloud, draws=2, classifiers=["knn"])
    assert [row["labels"] for row in rows] == [30, 40, 50, 60, 70]


def test_a_size_has_the_same_draws_whatever_else_is_asked(cloud):
    alone = label_efficiency(*cloud, sizes=[20], draws=2, classifiers=["svc"], seed=1)[0]
    among = label_efficiency(*cloud, sizes=[10, 20, 40], draws=3, seed=1)[1]
    other = label_efficiency(*cloud, sizes=[20], draws=2, classifiers=["svc"], seed=2)[0]
    assert among["labels"] == 20
    assert among["scores"][:2] == alone["scores"]
    assert other["scores"] != alone["scores"]


@pytest.mark.parametrize("value", [0.0, 3.3])
def test_a_collapsed_embedding_scores_chance_however_unbalanced(value):
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    for row in label_efficiency(np.full((100, 4), value), labels, sizes=[30], draws=2):
        assert row["mean"] == pytest.approx(1 / 3), row


def test_features_that_tell_the_classes_apart_score_one_and_noise_scores_chance():
    rng = np.random.default_rng(3)
    labels = np.arange(200) % 2
    apart = label_efficiency(labels[:, None] + 0.01 * rng.normal(size=(200, 4)), labels, draws=2)
    noise = label_efficiency(rng.normal(size=(200, 4)), labels, sizes=[100], draws=20)
    assert {row["mean"] for row in apart} == {1}
    # 60 held-out images, 20 draws that share them: a standard deviation of about .05.
    assert all(abs(row["mean"] - 0.5) < 0.15 for row in noise)


def test_the_smallest_classes_can_be_learnt_and_asked():
    labels = np.repeat([0, 1, 2], 2)
    rows = label_efficiency(10.0 * np.eye(3)[labels], labels, draws=2, classifiers=["svc"])
    assert [(row["labels"], row["mean"]) for row in rows] == [(3, 1)]


def test_what_a_user_can_mend_is_said(cloud):
    vectors, labels = cloud
    with pytest.raises(InputError, match="two classes or more, there are 1"):
        label_efficiency(vectors, np.zeros(100, int))
    with pytest.raises(InputError, match="class 7 has one"):
        label_efficiency(vectors, np.array([7] + [0] * 50 + [1] * 49))
    with pytest.raises(ValueError, match=r"\(100, 6\) and labels \(99,\)"):
        label_efficiency(vectors, labels[:-1])
    with pytest.raises(ValueError, match="'svm'"):
        label_efficiency(vectors, labels, classifiers=["svm"])
    with pytest.raises(ValueError, match="draws 1"):
        label_efficiency(vectors, labels, draws=1)


def knn_loop(bank, bank_labels, queries, query_labels, k, temperature):
    right = 0
    for query, label in zip(queries, query_labels, strict=True):
        cosines = [x @ query / np.linalg.norm(x) / np.linalg.norm(query) for x in bank]
        votes = {}
        for i in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            weight = np.exp(cosines[i] / temperature)
            votes[bank_labels[i]] = votes.get(bank_labels[i], 0) + weight
        right += max(votes, key=votes.get) == label
    return right / len(queries)


@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (5, 0.1), (20, 0.02), (500, 1.0)])
def test_weighted_knn_against_a_plain_loop(cloud, k, temperature, block):
    vectors, labels = cloud
    rng = np.random.default_rng(5)
    queries, asked = rng.normal(size=(40, 6)), rng.choice([2, 5, 9], 40)
    found = knn_accuracy(vectors, labels, queries, asked, k=k, temperature=temperature, block=block)
    assert found == knn_loop(vectors, labels, queries, asked, k, temperature)


def test_a_near_neighbour_outvotes_two_farther_ones_only_when_it_is_cold():
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    setting = (bank, np.array([0, 1, 1]), np.array([[2.0, 1.0]]), np.array([0]))
    # cos .894 against twice .447: exp(.447 / T) > 2 for T under .645.
    assert knn_accuracy(*setting, temperature=0.6) == 1
    assert knn_accuracy(*setting, temperature=0.7) == 0
    assert knn_accuracy(*setting, temperature=1e-4) == 1  # exp(8944) is not finite


def test_knn_of_a_class_that_the_bank_lacks_is_wrong():
    one = np.ones((1, 2))
    assert knn_accuracy(one, np.array([0]), one, np.array([3])) == 0


def test_knn_reads_digits(digits):
    x, y = digits
    assert knn_accuracy(x[:1200], y[:1200], x[1200:], y[1200:], k=5) > 0.94


def test_votes_are_the_weights_relative_to_the_nearest(cloud):
    vectors, labels = cloud
    queries = np.random.default_rng(5).normal(size=(9, 6))
    votes = knn_votes(vectors, labels, queries, k=7, temperature=0.2, block=4)
    assert votes.shape == (9, 10)
    for query, found in zip(queries, votes, strict=True):
        cosines = [x @ query / np.linalg.norm(x) / np.linalg.norm(query) for x in vectors]
        expected = np.zeros(10)
        for i in np.argsort(cosines)[-7:]:
            expected[labels[i]] += np.exp((cosines[i] - max(cosines)) / 0.2)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_pairs_that_do_not_fit_raise():
    x, y = np.ones((4, 3)), np.array([0, 1, 0, 1])
    for wrong in ((x, y, x[:, :2], y), (x, y[:2], x, y), (x, y, x, y[:2]), (x, y, x[:0], y[:0])):
        with pytest.raises(ValueError, match="shapes are"):
            knn_accuracy(*wrong)
    for wrong in ({"k": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=r"k is .* and temperature"):
            knn_accuracy(x, y, x, y, **wrong)


def test_transductive_classifiers_see_the_same_draws_and_how_all_images_lie(cloud):
    vectors, labels = cloud
    kinds = ["propagated", "knn", "spread"]
    rows = label_efficiency(vectors, labels, sizes=[6], draws=2, classifiers=kinds, seed=7)
    few = {row["classifier"]: row for row in rows if row["labels"] == 6}
    alone = label_efficiency(vectors, labels, sizes=[6], draws=2, classifiers=["knn"], seed=7)
    assert few["knn"] == alone[0]

    graph = whitened_graph(vectors)
    _, index = np.unique(labels, return_inverse=True)
    for draw in range(2):
        test = stratified_sample(labels, 30, np.random.default_rng([7, draw]))
        pool = np.setdiff1d(np.arange(100), test)
        train = pool[stratified_sample(labels[pool], 6, np.random.default_rng([7, draw, 6]))]
        shares = spread_labels(graph, train, index[train], classes=3)
        scores = propagate(vectors, graph, train, index[train], classes=3)
        for name, found in (("spread", shares), ("propagated", scores)):
            expected = balanced_accuracy_score(index[test], found[test].argmax(1))
            assert few[name]["scores"][draw] == pytest.approx(expected)

    # Edges between images of one class alone: whoever sees the graph is never wrong.
    same = np.equal.outer(index, index) / np.bincount(index)[index][None]
    told = label_efficiency(
        vectors, labels, sizes=[6], draws=2, classifiers=["spread"], graph=sparse.csr_array(same)
    )
    assert [row["mean"] for row in told] == [1, 1]
