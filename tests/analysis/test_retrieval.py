import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from jaxssl.analysis.retrieval import clustering_nmi, retrieval, silhouette


def scores_of_ranking(relevant, r):
    """P@1, R-precision and MAP@R of one query, from the definitions."""
    hits, precisions = 0, []
    for i in range(1, r + 1):
        hits += relevant[i - 1]
        precisions.append(hits / i if relevant[i - 1] else 0)
    return relevant[0], hits / r, sum(precisions) / r


def reference(vectors, labels, metric):
    scores = []
    for a in range(len(labels)):
        others = [b for b in range(len(labels)) if b != a]
        r = sum(labels[b] == labels[a] for b in others)
        if metric == "euclidean":
            others.sort(key=lambda b: np.linalg.norm(vectors[a] - vectors[b]))
        else:
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            others.sort(key=lambda b: -unit[a] @ unit[b])
        if r:
            scores.append(scores_of_ranking([labels[b] == labels[a] for b in others], r))
    return np.mean(scores, axis=0)


def test_the_reference_gives_the_papers_table():
    """Musgrave et al. 2020, table 1: ten relevant images, and which of ten ranks they hold."""
    table = {(1,): (1, 0.1, 0.1), (1, 10): (1, 0.2, 0.12), (1, 2): (1, 0.2, 0.2)}
    for ranks, expected in table.items():
        relevant = [rank in ranks for rank in range(1, 11)]
        assert scores_of_ranking(relevant, 10) == pytest.approx(expected)
    assert scores_of_ranking([True] * 10, 10) == (1, 1, 1)


@pytest.fixture(scope="module")
def cloud():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 3, 4, 8, 9], [25, 10, 2, 1, 1]))
    return rng.normal(size=(10, 5))[labels] + rng.normal(size=(39, 5)), labels


@pytest.mark.parametrize("block", [1, 5, 256])
@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_against_the_reference_with_every_size_of_block(cloud, metric, block):
    found = retrieval(*cloud, metric=metric, block=block)
    assert found.pop("queries") == 37  # the two that are alone do not ask
    assert list(found) == ["precision_at_1", "r_precision", "map_at_r"]
    assert list(found.values()) == pytest.approx(reference(*cloud, metric), abs=1e-12)


def test_the_metrics_differ_on_this_cloud(cloud):
    assert retrieval(*cloud, metric="euclidean") != retrieval(*cloud, metric="angular")


def test_the_order_of_images_does_not_matter(cloud):
    vectors, labels = cloud
    order = np.random.default_rng(1).permutation(len(labels))
    again = retrieval(vectors[order], labels[order], block=7)
    assert again == pytest.approx(retrieval(vectors, labels))


def test_the_ends_of_the_scale():
    apart = retrieval(np.array([[0.0], [1.0], [8.0], [9.0]]), np.array([0, 0, 1, 1]))
    mixed = retrieval(np.array([[0.0], [1.0], [0.1], [1.1]]), np.array([0, 0, 1, 1]))
    one = retrieval(np.ones((3, 2)), np.zeros(3))
    names = ("precision_at_1", "r_precision", "map_at_r")
    assert [apart[name] for name in names] == [one[name] for name in names] == [1, 1, 1]
    assert [mixed[name] for name in names] == [0, 0, 0]
    lone = retrieval(np.eye(3), np.arange(3))
    assert lone.pop("queries") == 0
    assert np.isnan(list(lone.values())).all()


def test_a_copy_is_found_and_the_image_itself_is_not():
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert retrieval(x, np.array([0, 0, 1, 1]))["precision_at_1"] == 1
    assert retrieval(x, np.array([0, 1, 0, 1]))["precision_at_1"] == 0


def test_nmi_of_clusters_that_are_the_classes_and_that_are_not():
    rng = np.random.default_rng(2)
    labels = np.arange(90) % 3
    places = 10 * np.eye(3)[labels] + 0.1 * rng.normal(size=(90, 3))
    assert clustering_nmi(places, labels * 7 + 1) == pytest.approx(1)
    # Two clusters for two classes on three equal blobs: one blob against the other two.
    crossed = np.arange(90) // 3 % 2
    assert clustering_nmi(places, crossed) < 1e-6
    assert clustering_nmi(rng.normal(size=(300, 3)), np.arange(300) % 3) < 0.05


def test_nmi_of_a_collapsed_embedding_is_zero_without_a_word():
    assert clustering_nmi(np.ones((20, 3)), np.arange(20) % 2) == 0


def test_angular_nmi_does_not_see_lengths():
    rng = np.random.default_rng(3)
    labels = np.arange(60) % 2
    x = np.eye(2)[labels] * rng.uniform(0.1, 100, (60, 1))
    assert clustering_nmi(x, labels, metric="angular") == pytest.approx(1)
    assert clustering_nmi(x, labels, metric="euclidean") < 0.9


def test_silhouette_against_scikit_learn(cloud):
    vectors, labels = cloud
    assert silhouette(*cloud) == pytest.approx(silhouette_score(vectors, labels))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(unit @ unit.T, -1, 1)))
    np.fill_diagonal(angles, 0)
    expected = silhouette_score(angles, labels, metric="precomputed")
    assert silhouette(*cloud, metric="angular") == pytest.approx(expected)


def test_silhouette_of_a_sample_is_near_that_of_all():
    rng = np.random.default_rng(4)
    labels = np.arange(600) % 3
    x = 3 * np.eye(3)[labels] + rng.normal(size=(600, 3))
    whole, part = silhouette(x, labels), silhouette(x, labels, limit=200, seed=1)
    assert part != whole
    assert part == pytest.approx(whole, abs=0.05)
    assert silhouette(x, labels, limit=200, seed=1) == part


@pytest.mark.parametrize("labels", [np.zeros(4, int), np.arange(4)])
def test_silhouette_without_two_classes_or_without_pairs_is_not_a_number(labels):
    assert np.isnan(silhouette(np.eye(4), labels))


def test_silhouette_of_a_collapsed_embedding_is_zero():
    assert silhouette(np.ones((8, 3)), np.arange(8) % 2) == 0


@pytest.mark.parametrize("measure", [retrieval, clustering_nmi, silhouette])
def test_shapes_that_do_not_fit_raise(measure):
    for vectors, labels in ((np.ones((3, 2)), np.zeros(2)), (np.ones(3), np.zeros(3))):
        with pytest.raises(ValueError, match=r"vectors have shape .* and labels"):
            measure(vectors, labels)
    with pytest.raises(ValueError, match="n of 1 or more"):
        measure(np.ones((0, 2)), np.zeros(0))


def test_ties_are_ranked_by_row_as_a_stable_sort_does():
    """Whole numbers: many equal distances, also where R cuts, and products without rounding."""
    rng = np.random.default_rng(5)
    half = rng.integers(-1, 2, (60, 3)).astype(float)
    x, labels = np.concatenate([half, -half]), rng.integers(0, 4, 120)  # a mean of exactly 0
    squares = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    order = np.argsort(squares, axis=1, kind="stable")
    r = np.bincount(labels)[labels] - 1
    expected = [
        scores_of_ranking(labels[order[i]] == labels[i], int(r[i])) for i in range(len(labels))
    ]
    found = retrieval(x, labels, block=50)
    assert found.pop("queries") == 120
    assert list(found.values()) == pytest.approx(np.mean(expected, axis=0), abs=1e-12)


def test_silhouette_of_more_images_than_a_tile_against_scikit_learn():
    rng = np.random.default_rng(6)
    labels = np.concatenate([np.arange(1400) % 5, [7, 9, 9]])  # 7 is alone
    x = rng.normal(size=(10, 4))[labels] + rng.normal(size=(1403, 4))
    assert silhouette(x, labels) == pytest.approx(silhouette_score(x, labels), abs=1e-12)
