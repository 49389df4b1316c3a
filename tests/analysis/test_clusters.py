"""Clusters and outliers against scikit-learn and NumPy; what stands in the files."""

import csv
import dataclasses
import io

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score, silhouette_score

from jaxssl.analysis.clusters import find_clusters, k_means
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.outliers import find_outliers
from jaxssl.analysis.spreadsheets import csv_text
from jaxssl.analysis.tables import together

from .conftest import make_tables, table, unlabelled


def blobs(k, count=30, seed=0):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(k), count + 5 * np.arange(k))
    return rng.normal(size=(len(owner), 6)) + 12 * np.eye(6)[owner], owner


@pytest.mark.parametrize("k", [2, 4])
def test_the_number_of_clusters_is_that_of_the_highest_silhouette(k):
    x, owner = blobs(k)
    found, centres, scores = k_means(x)
    assert max(scores, key=scores.get) == k == len(centres)
    assert adjusted_rand_score(owner, found) == 1
    assert scores[k] == pytest.approx(silhouette_score(x, found))
    assert (np.diff(np.bincount(found)) <= 0).all()  # the largest first
    for label in range(k):
        np.testing.assert_allclose(centres[label], x[found == label].mean(axis=0), atol=1e-6)


def test_a_point_and_a_few_images_are_one_cluster_or_none():
    found, centres, scores = k_means(np.ones((5, 3)))
    assert (found == 0).all()
    assert len(centres) == 2
    assert np.isnan(scores[2])
    few = table(np.random.default_rng(0), ("a",), "train", 2)
    assert find_clusters(together({"train": few})) is None


def test_a_cluster_says_its_size_centre_and_classes():
    sets = make_tables(baselines=())["h"]
    sets = {"train": unlabelled(sets["train"], slice(0, 10)), "test": sets["test"]}
    images = together(sets)
    found = find_clusters(images)
    every = np.concatenate([found.members["train"], found.members["test"]])
    assert [len(found.members[name]) for name in sets] == [32, 16]
    unit = images.vectors / np.linalg.norm(images.vectors, axis=1, keepdims=True)
    for i, cluster in enumerate(found.clusters):
        rows = np.flatnonzero(every == i)
        assert cluster.images == len(rows)
        assert sum(cluster.classes.values()) == sum(bool(images.class_names[r]) for r in rows)
        far = np.linalg.norm(unit[rows] - unit[rows].mean(axis=0), axis=1)
        expected = [images.ids[row] for row in rows[np.argsort(far)[:8]]]
        assert list(cluster.central) == expected


def test_outliers_are_farthest_from_their_neighbours():
    sets = make_tables(baselines=())["h"]
    images = together(sets)
    near = nearest_neighbours(
        images.vectors, images.vectors, count=4, metric="angular", exclude_self=True
    )
    found = find_outliers(images, *near, count=9)
    x = images.vectors.astype(float)
    angles = np.degrees(np.arccos(np.clip(1 - cdist(x, x, "cosine"), -1, 1)))
    np.fill_diagonal(angles, np.inf)
    mean = np.sort(angles, axis=1)[:, :4].mean(axis=1)
    order = np.argsort(-mean)[:9]
    assert [one.id for one in found] == [images.ids[row] for row in order]
    assert [one.distance for one in found] == pytest.approx(mean[order])
    around = mean[np.argsort(angles, axis=1)[:, :4]].mean(axis=1)
    assert [one.isolation for one in found] == pytest.approx(mean[order] / around[order])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(start):
    text = csv_text(["id", "x"], [[f'{start}cmd|" /C calc"!A0, b', -1.5]])
    (_, (cell, number)) = csv.reader(io.StringIO(text, newline=""))
    assert cell == f'\'{start}cmd|" /C calc"!A0, b'
    assert float(number) == -1.5


def test_an_image_that_is_learnt_from_and_validates_counts_once():
    train = unlabelled(make_tables(baselines=())["h"]["train"])
    columns = ("ids", "paths", "class_names", "split", "vectors", "class_index", "thumbnails")
    val = dataclasses.replace(train, **{name: getattr(train, name)[3:9] for name in columns})
    every = together({"train": train, "val": val, "test": make_tables()["h"]["test"]})
    assert every.ids[: len(train)] == train.ids
    assert len(set(every.ids)) == len(every.ids) == len(every.vectors) == len(every.pictures)
    assert set(every.sets) == {"train", "test"}
