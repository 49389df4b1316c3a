import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.exemplars import exemplars, nearest_neighbours


def table_of(vectors, labels):
    n = len(vectors)
    return Embeddings(
        vectors=vectors,
        ids=tuple(map(str, range(n))),
        paths=("",) * n,
        class_names=tuple(f"class {label}" for label in labels),
        class_index=labels,
        split=("test",) * n,
    )


def angle(x, y):
    return np.degrees(np.arccos(np.clip(x @ y / np.linalg.norm(x) / np.linalg.norm(y), -1, 1)))


@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_against_a_plain_loop(metric):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([4, 1, 7], [20, 3, 12]))
    table = table_of(rng.normal(size=(35, 5)).astype(np.float32), labels)
    vectors = table.vectors.astype(np.float64)
    found = exemplars(table, count=5, metric=metric)
    assert list(found) == ["class 1", "class 4", "class 7"]
    for label in (1, 4, 7):
        members = [vectors[i] for i in range(35) if labels[i] == label]
        if metric == "euclidean":
            centre = sum(members) / len(members)
            distance = [float(np.linalg.norm(x - centre)) for x in vectors]
        else:
            centre = sum(x / np.linalg.norm(x) for x in members)
            distance = [float(angle(x, centre)) for x in vectors]
        inside = sorted((distance[i], i) for i in range(35) if labels[i] == label)
        outside = sorted((distance[i], i) for i in range(35) if labels[i] != label)
        got = found[f"class {label}"]
        for name, pairs in (
            ("closest", inside[:5]),
            ("farthest", inside[::-1][:5]),
            ("closest_of_others", outside[:5]),
        ):
            assert getattr(got, name).tolist() == [i for _, i in pairs], (label, name)
            distances = getattr(got, f"{name}_distances")
            np.testing.assert_allclose(distances, [d for d, _ in pairs], rtol=1e-9)


def test_one_class_of_one_image_stands_for_itself():
    got = exemplars(table_of(np.ones((1, 3)), np.zeros(1, int)))["class 0"]
    assert got.closest.tolist() == got.farthest.tolist() == [0]
    assert got.closest_distances.tolist() == [0]
    assert len(got.closest_of_others) == len(got.closest_of_others_distances) == 0


@pytest.mark.parametrize("metric", ["euclidean", "angular"])
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_equal_images_are_all_at_the_centre(metric, value):
    table = table_of(np.full((6, 3), value), np.arange(6) % 2)
    got = exemplars(table, count=2, metric=metric)["class 0"]
    assert got.closest.tolist() == got.farthest.tolist() == [0, 2]
    np.testing.assert_allclose(got.farthest_distances, 0, atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 256])
@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_neighbours_against_scikit_learn(metric, block):
    rng = np.random.default_rng(1)
    queries, bank = rng.normal(size=(20, 6)), rng.normal(size=(50, 6))
    rows, distances = nearest_neighbours(queries, bank, count=4, metric=metric, block=block)
    name = "euclidean" if metric == "euclidean" else "cosine"
    expected, at = NearestNeighbors(n_neighbors=4, metric=name).fit(bank).kneighbors(queries)[::-1]
    np.testing.assert_array_equal(rows, expected)
    at = at if metric == "euclidean" else np.degrees(np.arccos(1 - at))
    np.testing.assert_allclose(distances, at, rtol=1e-9)


def test_an_image_leaves_out_itself_but_not_its_copies():
    bank = np.array([[1.0, 2.0], [5.0, 0.0], [1.0, 2.0], [9.0, 9.0]])
    rows, distances = nearest_neighbours(bank, bank, count=1, exclude_self=True, block=3)
    assert rows[:, 0].tolist() == [2, 0, 0, 1]
    np.testing.assert_allclose(distances[[0, 2]], 0, atol=1e-12)


@pytest.mark.parametrize(("exclude_self", "most"), [(False, 3), (True, 2)])
def test_there_are_no_more_neighbours_than_images(exclude_self, most):
    bank = np.arange(3.0)[:, None]
    rows, distances = nearest_neighbours(bank, bank, count=9, exclude_self=exclude_self)
    assert rows.shape == distances.shape == (3, most)
    assert np.isfinite(distances).all()


def test_what_does_not_fit_raises():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) and bank \(2, 4\)"):
        nearest_neighbours(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="with m = n, to leave out self"):
        nearest_neighbours(np.ones((2, 3)), np.ones((5, 3)), exclude_self=True)
    with pytest.raises(ValueError, match="count is 0"):
        nearest_neighbours(np.ones((2, 3)), np.ones((5, 3)), count=0)
    with pytest.raises(ValueError, match="count is 0"):
        exemplars(table_of(np.ones((1, 3)), np.zeros(1, int)), count=0)
