import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxssl.analysis.distances import (
    as_points,
    class_distances,
    distance_sums,
    distance_tile,
    nearest_columns,
    nearest_points,
    separation,
)


def reference(vectors, labels, classes, metric):
    """From scipy's distances of every pair, one pair of classes at a time."""
    x = np.asarray(vectors, np.float64)
    if metric == "euclidean":
        distances = cdist(x, x)
    else:
        distances = np.degrees(np.arccos(np.clip(1 - cdist(x, x, "cosine"), -1, 1)))
    result = np.full((classes, classes), np.nan)
    for i in range(classes):
        for j in range(classes):
            pairs = [
                distances[a, b]
                for a in np.flatnonzero(labels == i)
                for b in np.flatnonzero(labels == j)
                if a != b
            ]
            if pairs:
                result[i, j] = np.mean(pairs)
    return result


@pytest.fixture(scope="module")
def cloud():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 3, 4], [30, 1, 17, 2]))  # 2 is empty, 1 is alone
    return rng.normal(size=(5, 8))[labels] + rng.normal(size=(50, 8)), labels


@pytest.mark.parametrize("metric", ["euclidean", "angular"])
@pytest.mark.parametrize("block", [1, 3, 16, 2048])
def test_against_scipy_with_every_size_of_block(cloud, metric, block):
    vectors, labels = cloud
    found = class_distances(vectors, labels, 5, metric=metric, block=block)
    np.testing.assert_allclose(found, reference(vectors, labels, 5, metric), rtol=1e-11)


def test_the_order_of_images_and_the_type_do_not_matter(cloud):
    vectors, labels = cloud
    vectors = vectors.astype(np.float32)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_allclose(
        class_distances(vectors[order], labels[order], 5),
        class_distances(vectors.astype(np.float64), labels, 5),
        rtol=1e-12,
    )


def test_a_class_with_itself_is_over_distinct_pairs():
    x = np.array([[0.0], [1.0], [3.0], [3.0]])
    # 1, 3 and 2 in class 0; one pair of equal images in class 1.
    found = class_distances(x[[0, 1, 2, 3, 3]], np.array([0, 0, 0, 1, 1]), 2)
    np.testing.assert_allclose(found, [[2, 5 / 3], [5 / 3, 0]], atol=1e-15)


@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9])
def test_tight_classes_far_from_the_origin_keep_their_digits(spread):
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 20)
    x = 100 + rng.normal(size=(2, 6))[labels] * 10 * spread + spread * rng.normal(size=(40, 6))
    np.testing.assert_allclose(
        class_distances(x, labels, 2), reference(x, labels, 2, "euclidean"), rtol=1e-6
    )


def test_small_angles_are_not_rounded_away():
    angles = np.radians([0, 1e-5, 3e-5])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [5], [0.2]]
    found = class_distances(x, np.zeros(3, int), 1, metric="angular")
    np.testing.assert_allclose(found, [[2e-5]], rtol=1e-9)


def test_zero_vectors_are_square_to_the_others_and_equal_to_each_other():
    x = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [-2.0, 0.0]])
    tile = distance_tile(as_points(x, "angular"), as_points(x, "angular"), "angular")
    expected = [[0, 0, 90, 90], [0, 0, 90, 90], [90, 90, 0, 180], [90, 90, 180, 0]]
    np.testing.assert_allclose(tile, expected, atol=1e-5)


def test_angles_do_not_depend_on_length_however_extreme():
    x = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    scaled = x * [[1e-200], [1e200], [1e-310]]
    np.testing.assert_allclose(as_points(scaled, "angular"), as_points(x, "angular"), rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7])
@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_a_collapsed_embedding_has_no_distances(value, metric):
    found = class_distances(np.full((9, 4), value), np.arange(9) % 2, 2, metric=metric, block=2)
    np.testing.assert_allclose(found, 0, atol=1e-9 * max(abs(value), 1))


def test_memory_grows_with_the_images_and_not_with_their_pairs():
    """20,000 x 128 within a fifth of the 1 GB that 100,000 x 128 may take."""
    from threadpoolctl import threadpool_limits

    x = np.random.default_rng(3).normal(size=(20_000, 128)).astype(np.float32)
    with threadpool_limits(1):
        tracemalloc.start()
        class_distances(x, np.arange(20_000) % 2, 2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak + x.nbytes < 200e6


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (np.ones((3, 2)), np.zeros(2, int), r"\(3, 2\) and class_index \(2,\)"),
        (np.ones(3), np.zeros(3, int), r"\(3,\) and class_index \(3,\)"),
        (np.ones((2, 2)), np.array([0, 2]), "from 0 to 2, outside 0 to 1 of 2 classes"),
        (np.ones((2, 2)), np.array([-1, 0]), "from -1 to 0, outside 0 to 1 of 2 classes"),
    ],
)
def test_shapes_and_classes_that_do_not_fit_raise(vectors, labels, message):
    with pytest.raises(ValueError, match=message):
        class_distances(vectors, labels, 2)


def test_an_unknown_metric_raises():
    with pytest.raises(ValueError, match="metric is 'cosine', not one of euclidean, angular"):
        class_distances(np.ones((2, 2)), np.zeros(2, int), 1, metric="cosine")


def test_separation_is_between_over_within_without_the_cells_that_have_no_pairs():
    nan = np.nan
    matrix = np.array([[1.0, 6.0, nan], [6.0, nan, 2.0], [nan, 2.0, 3.0]])
    assert separation(matrix) == 2.0  # mean(6, 2) / mean(1, 3)
    assert separation(np.array([[0.0, 1.0], [1.0, 0.0]])) == np.inf
    for undefined in ([[1.0]], [[nan, 1.0], [1.0, nan]], [[0.0, 0.0], [0.0, 0.0]]):
        assert np.isnan(separation(np.array(undefined)))
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        separation(np.ones((2, 3)))


def test_nearest_columns_are_the_first_of_the_sorted_row():
    tile = np.random.default_rng(4).normal(size=(20, 30))
    for count in (1, 7, 30):
        np.testing.assert_array_equal(nearest_columns(tile, count), np.argsort(tile)[:, :count])


@pytest.mark.parametrize("metric", ["euclidean", "angular"])
@pytest.mark.parametrize("block", [7, 1024])
def test_sums_by_class_against_scipy(cloud, metric, block):
    vectors, labels = cloud
    sums = distance_sums(vectors, labels, 5, metric=metric, block=block)
    assert sums.shape == (50, 5)
    distances = cdist(vectors, vectors, "euclidean" if metric == "euclidean" else "cosine")
    if metric == "angular":
        distances = np.degrees(np.arccos(np.clip(1 - distances, -1, 1)))
        np.fill_diagonal(distances, 0)
    np.testing.assert_allclose(sums, distances @ np.eye(5)[labels], rtol=1e-11)


def nearest_by_sorting(queries, bank, count, exclude_self):
    """The straightforward float64 form: all differences, a stable sort."""
    squares = ((queries[:, None] - bank[None]) ** 2).sum(axis=2)
    if exclude_self:
        np.fill_diagonal(squares, np.inf)
    order = np.argsort(squares, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(squares, order, axis=1)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("count", [1, 7, 199])
@pytest.mark.parametrize("data", ["ties", "close", "huge", "outlier"])
def test_nearest_points_are_those_of_a_float64_sort(data, count, exclude_self):
    """Ties where `count` cuts, differences that float32 cannot see, values whose squares it
    cannot hold, and one point so far out that float32 sees nothing of the rest."""
    rng = np.random.default_rng(6)
    bank = rng.integers(-1, 2, (200, 4)).astype(float)
    if data == "close":
        bank = 1 + 1e-9 * rng.normal(size=(200, 4))
        bank[::50] += 5
    elif data == "huge":
        bank = 1e30 * rng.normal(size=(200, 4))
    elif data == "outlier":
        bank = rng.normal(size=(200, 4))
        bank[17] = 1e12
    queries = bank if exclude_self else bank[:30] + (0 if data == "ties" else 1e-3)
    rows, squares = nearest_points(queries, bank, count, exclude_self=exclude_self, block=64)
    expected = nearest_by_sorting(queries, bank, count, exclude_self)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_allclose(squares, expected[1], rtol=1e-12)


def test_of_equal_values_the_lower_column_also_where_the_count_cuts():
    tile = np.random.default_rng(7).integers(0, 4, (50, 40))
    for count in (1, 11, 40):
        expected = np.argsort(tile, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(nearest_columns(tile, count), expected)
