"""`analyse` on a small run: each number again from scikit-learn or NumPy."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_score

from jaxssl.analysis import embeddings, results
from jaxssl.errors import InputError

from .conftest import SEEN, UNSEEN, table, write_run


@pytest.fixture(scope="module")
def written(run):
    return json.loads((run / "results.json").read_text(), parse_constant=pytest.fail)


def test_what_was_there_stays(written):
    assert written["wall_seconds"] == {"training": 12.0}


def test_sets_and_embedding(written):
    assert written["embedding"] == {"layer": "h", "distance": "angular", "dimensions": 6}
    assert {name: found["images"] for name, found in written["sets"].items()} == {
        "train": 32,
        "val": 8,
        "test": 16,
        "unseen": 36,
    }
    assert written["sets"]["unseen"]["classes"] == dict.fromkeys(UNSEEN, 12)
    assert list(written["distances"]) == ["test", "unseen"]  # train and val are not judged


def test_distances_are_means_over_distinct_pairs(run, written):
    here = embeddings.load(run / "embeddings/unseen.parquet")
    between = cdist(here.vectors.astype(float), here.vectors.astype(float))
    cosine = 1 - cdist(here.vectors.astype(float), here.vectors.astype(float), "cosine")
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    for metric, pairs in (("euclidean", between), ("angular", angles)):
        for i in range(3):
            for j in range(3):
                block = pairs[np.ix_(here.labels == i, here.labels == j)]
                block = block[~np.eye(12, dtype=bool)] if i == j else block
                found = written["distances"]["unseen"][metric][i][j]
                assert found == pytest.approx(block.mean(), rel=1e-4)


def test_every_embedding_has_its_values(run, written):
    for key in ("separation", "retrieval", "nmi", "silhouette"):
        assert set(written[key]) == {"test", "unseen"}
        assert list(written[key]["unseen"]) == ["h", "untrained", "raw_pixels"]
    other = embeddings.load(run / "embeddings/untrained/test.parquet")
    unit = other.vectors / np.linalg.norm(other.vectors, axis=1, keepdims=True)
    angles = np.arccos(np.clip(unit.astype(float) @ unit.T, -1, 1))
    np.fill_diagonal(angles, 0)
    expected = silhouette_score(angles, other.labels, metric="precomputed")
    assert written["silhouette"]["test"]["untrained"] == pytest.approx(expected, abs=1e-4)


def test_label_efficiency_is_of_unseen_classes_alone(written):
    rows = written["label_efficiency"]
    keys = {(row["set"], row["embedding"], row["classifier"]) for row in rows}
    assert keys == {
        ("unseen", embedding, classifier)
        for embedding in ("h", "untrained", "raw_pixels")
        for classifier in ("svc", "linear", "knn")
    }
    names = {"set", "embedding", "classifier", "labels", "mean", "low", "high", "draws"}
    assert all(set(row) - {"all"} == names for row in rows)
    assert all(0 <= row["low"] <= row["mean"] <= row["high"] <= 1 for row in rows)
    assert {row["draws"] for row in rows} == {2}


def test_exemplars_name_images_of_the_right_classes(run, written):
    here = embeddings.load(run / "embeddings/test.parquet")
    class_of = dict(zip(here.ids, here.class_names, strict=True))
    for name in SEEN:
        kinds = written["exemplars"]["test"][name]
        assert [len(kinds[kind]) for kind in kinds] == [5, 5, 5]
        for kind, images in kinds.items():
            for image in images:
                assert class_of[image["id"]] == image["class"]
                assert (image["class"] == name) == (kind != "closest_of_others")
        near = [image["distance"] for image in kinds["closest"]]
        assert near == sorted(near)
        far = [image["distance"] for image in kinds["farthest"]]
        assert far == sorted(far, reverse=True)
        assert near[-1] <= far[0]


def test_umap_is_in_the_tables_and_changes_nothing_else(run, tmp_path):
    fresh = write_run(tmp_path)
    for name in ("train", "val", "test", "unseen"):
        before = embeddings.load(fresh / "embeddings" / f"{name}.parquet")
        after = embeddings.load(run / "embeddings" / f"{name}.parquet")
        np.testing.assert_array_equal(before.vectors, after.vectors)
        assert (before.ids, before.thumbnails) == (after.ids, after.thumbnails)
        assert before.metadata == after.metadata
        drawn = () if name == "val" else ("x_umap", "y_umap")
        assert tuple(after.extra) == drawn
        assert all(np.isfinite(after.extra[column]).all() for column in drawn)


def test_a_limit_leaves_points_without_coordinates(tmp_path):
    folder = write_run(tmp_path, unseen=None, baselines=(), record=False)
    said = []
    found = results.analyse(folder, draws=2, limit=10, progress=said.append)
    train = embeddings.load(folder / "embeddings/train.parquet")
    assert np.isfinite(train.extra["x_umap"]).sum() == 10
    np.testing.assert_array_equal(np.isnan(train.extra["x_umap"]), np.isnan(train.extra["y_umap"]))
    assert found["label_efficiency"] == []
    assert "UMAP of 20 images" in said


def test_classes_too_small_for_a_measure_are_left_out(tmp_path):
    folder = write_run(tmp_path, unseen=("alone",), baselines=("untrained",), record=False)
    rng = np.random.default_rng(0)
    lone = table(rng, ("a", "b"), "unseen-tiny", 4).select(np.array([0, 1, 2, 3, 4]))
    embeddings.save(folder / "embeddings/unseen-tiny.parquet", lone)
    found = results.analyse(folder, draws=2)
    assert found["label_efficiency"] == []  # one class; one image of a class
    assert list(found["retrieval"]) == ["test", "unseen-tiny"]
    assert found["distances"]["unseen"]["classes"] == ["alone"]
    assert found["distances"]["unseen-tiny"]["euclidean"][1][1] is None  # no distinct pair
    json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def test_an_unknown_distance_is_refused(tmp_path):
    folder = write_run(tmp_path, unseen=None, baselines=(), record=False)
    path = folder / "embeddings/train.parquet"
    embeddings.save(path, embeddings.load(path), {"distance": "cosine"})
    with pytest.raises(InputError, match="cosine"):
        results.analyse(folder)
    assert not (folder / "results.json").exists()


def test_spread_tells_a_point_a_line_and_a_sphere_apart():
    rng = np.random.default_rng(0)
    sphere = results.spread(rng.normal(size=(5000, 8)))
    assert sphere["std"] == pytest.approx(1, abs=0.02)
    assert sphere["effective_rank"] == pytest.approx(8, abs=0.1)
    line = np.outer(rng.choice([-1.0, 1.0], 500), rng.normal(size=8))
    assert results.spread(line)["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert results.spread(np.ones((5, 8))) == {"std": 0.0, "effective_rank": 1.0}
    # By the definition: the entropy of the normalised squared singular values.
    x = rng.normal(size=(40, 5)) * [1, 2, 3, 4, 5]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    s = np.linalg.svd(unit - unit.mean(0), compute_uv=False) ** 2
    p = s / s.sum()
    assert results.spread(x)["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_a_run_analysed_again_keeps_its_numbers_of_labels(run, monkeypatch):
    class Reached(Exception):
        pass

    def curves(tables, draws, sizes, *rest):
        raise Reached(sizes)

    stored = results.read_run(run)
    again = stored._replace(settings=stored.settings | {"labels": [100, 300]})
    monkeypatch.setattr(results, "read_run", lambda folder: again)
    monkeypatch.setattr(results, "_label_efficiency", curves)
    for asked, expected in ((None, [100, 300]), ([30], [30])):
        with pytest.raises(Reached) as reached:
            results.analyse(run, sizes=asked)
        assert reached.value.args == (expected,)
