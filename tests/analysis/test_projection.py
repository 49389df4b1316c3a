import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from jaxssl.analysis import projection
from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.projection import standardise, tsne_together, umap_together
from jaxssl.errors import InputError


def table_of(vectors, labels):
    n = len(vectors)
    return Embeddings(
        vectors=vectors,
        ids=tuple(map(str, range(n))),
        paths=("",) * n,
        class_names=tuple(f"c{label}" for label in labels),
        class_index=labels,
        split=("test",) * n,
    )


def clusters(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    return table_of(4 * np.eye(3, 6)[labels] + 0.3 * rng.normal(size=(n, 6)), labels)


@pytest.fixture(scope="module")
def tables():
    return {"train": clusters(90, 0), "test": clusters(40, 1)}


def check_neighbourhoods(together, tables):
    """Classes stay together across sets, and the same seed gives the same map."""
    maps = together(tables, limit=50, seed=3)
    assert list(maps) == ["train", "test"]
    labels, points, places = [], [], []
    for name, (rows, xy) in maps.items():
        assert len(rows) == len(xy) == min(50, len(tables[name]))
        assert (np.diff(rows) > 0).all()
        assert xy.shape[1] == 2
        assert xy.dtype == np.float32
        labels.append(tables[name].labels[rows])
        points.append(tables[name].vectors[rows])
        places.append(xy)
    shares = np.bincount(labels[0]) / 50 - np.bincount(tables["train"].labels) / 90
    assert np.abs(shares).max() <= 0.02  # by class, to one image
    scaled = StandardScaler().fit_transform(np.concatenate(points))
    assert trustworthiness(scaled, np.concatenate(places), n_neighbors=5) > 0.8
    # One plane for both: the places of one set tell the classes of the other.
    knn = KNeighborsClassifier(3).fit(places[0], labels[0])
    assert knn.score(places[1], labels[1]) == 1
    again = together(tables, limit=50, seed=3)
    for name, (rows, xy) in maps.items():
        np.testing.assert_array_equal(again[name][0], rows)
        np.testing.assert_array_equal(again[name][1], xy)
    assert (together(tables, limit=50, seed=4)["train"][0] != maps["train"][0]).any()


SMALL = {
    "five": np.random.default_rng(0).normal(size=(5, 4)),
    "sixteen": np.random.default_rng(0).normal(size=(16, 4)),
    "equal": np.ones((40, 4)),
    "five equal": np.ones((5, 4)),
    "two points": np.repeat(np.eye(2, 4), 20, axis=0),
    "one axis": np.random.default_rng(0).normal(size=(30, 1)),
}


def check_small(together):
    for name, vectors in SMALL.items():
        rows, xy = together({"set": table_of(vectors, np.arange(len(vectors)) % 2)})["set"]
        np.testing.assert_array_equal(rows, np.arange(len(vectors)))
        assert np.isfinite(xy).all(), name


def test_umap_keeps_neighbourhoods_and_maps_small_and_collapsed_sets(tables):
    # The one test that runs UMAP: a process compiles it for seconds.
    check_neighbourhoods(umap_together, tables)
    check_small(umap_together)


def test_beyond_4096_points_umap_is_given_the_neighbours_that_there_are(monkeypatch):
    """It would look for them by descent, which compiles for longer than all else takes."""
    import umap
    from sklearn.neighbors import NearestNeighbors

    seen = {}

    class Recorded(umap.UMAP):
        def __init__(self, **options):
            seen.update(options)

        def fit_transform(self, points):
            return points[:, :2]

    monkeypatch.setattr(umap, "UMAP", Recorded)
    points = np.random.default_rng(0).normal(size=(4100, 3))
    projection._umap(points[:4096], 0)
    assert "precomputed_knn" not in seen
    projection._umap(points, 0)
    near, far, _ = seen["precomputed_knn"]
    distances, rows = NearestNeighbors(n_neighbors=15).fit(points).kneighbors(points)
    np.testing.assert_array_equal(near, rows)
    np.testing.assert_allclose(far, distances, atol=1e-5)


def test_tsne_keeps_neighbourhoods_and_maps_small_and_collapsed_sets(tables):
    check_neighbourhoods(tsne_together, tables)
    check_small(tsne_together)


@pytest.mark.parametrize("together", [umap_together, tsne_together])
def test_four_images_are_refused(together):
    table = table_of(np.ones((2, 3)), np.arange(2))
    with pytest.raises(InputError, match=r"a map of 4 images \(test, unseen\) .* 5 or more"):
        together({"test": table, "unseen": table})


def test_the_sets_are_standardised_together(monkeypatch):
    """A set that lies apart stays apart: what is fitted is one scaler's of all rows."""
    monkeypatch.setattr(projection, "_umap", lambda points, seed: points[:, :2])
    near, far = clusters(30, 0), clusters(30, 1)
    far = table_of(far.vectors + 50, far.labels)
    maps = umap_together({"train": near, "test": far})
    scaled = StandardScaler().fit_transform(
        np.concatenate([near.vectors, far.vectors]).astype(float)
    )
    found = np.concatenate([xy for _, xy in maps.values()])
    np.testing.assert_allclose(found, scaled[:, :2], atol=1e-5)
    assert (maps["train"][1] < 0).all()
    assert (maps["test"][1] > 0).all()


def test_standardise_is_the_scaler_of_all_rows():
    rng = np.random.default_rng(1)
    a, b = rng.normal(3, 5, (20, 4)), rng.normal(-2, 0.1, (7, 4))
    a[:, 2] = b[:, 2] = 0.1  # constant: its mean over 27 rows is not exactly .1
    expected = StandardScaler().fit_transform(np.concatenate([a, b]))
    found = standardise(a, b)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-12)
    assert [len(part) for part in found] == [20, 7]
    np.testing.assert_array_equal(found[0][:, 2], 0)


@pytest.mark.parametrize("arrays", [(), (np.ones((2, 3)), np.ones((2, 4))), (np.ones(3),)])
def test_standardise_wants_one_width(arrays):
    with pytest.raises(ValueError, match="arrays have shapes"):
        standardise(*arrays)
