"""`Results`: each number again from scikit-learn or NumPy; written, read back, and refused."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_score

from jaxssl.analysis.health import Spread, spread
from jaxssl.analysis.measures import analyse
from jaxssl.analysis.probes import label_efficiency
from jaxssl.analysis.propagation import whitened_graph
from jaxssl.analysis.results import Facts, Results
from jaxssl.errors import InputError
from jaxssl.files import read_json

from .conftest import CLASSIFICATION, DEEP, SEEN, UNSEEN, make_tables, table, unlabelled


@pytest.fixture(scope="module")
def results(run):
    return Results.read(run / "results.json")


def test_what_training_knows_stands_beside_the_numbers(results):
    assert results.wall_seconds == {"training": 12.0}
    assert results.classification == CLASSIFICATION


def test_sets_and_embedding(results):
    assert dataclasses.astuple(results.embedding) == ("h", "angular", 6)
    assert {name: found.images for name, found in results.sets.items()} == {
        "train": 32,
        "val": 8,
        "test": 16,
        "unseen": 36,
        DEEP: 8,
    }
    assert results.sets["unseen"].classes == dict.fromkeys(UNSEEN, 12)
    assert list(results.distances) == ["test", "unseen", DEEP]  # train and val are not judged


def test_distances_are_means_over_distinct_pairs(tables, results):
    here = tables["h"]["unseen"]
    between = cdist(here.vectors.astype(float), here.vectors.astype(float))
    cosine = 1 - cdist(here.vectors.astype(float), here.vectors.astype(float), "cosine")
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    found = results.distances["unseen"]
    for matrix, pairs in ((found.euclidean, between), (found.angular, angles)):
        for i in range(3):
            for j in range(3):
                block = pairs[np.ix_(here.labels == i, here.labels == j)]
                block = block[~np.eye(12, dtype=bool)] if i == j else block
                assert matrix[i][j] == pytest.approx(block.mean(), rel=1e-4)


def test_every_embedding_has_its_values(tables, results):
    for by_set in (results.separation, results.retrieval, results.nmi, results.silhouette):
        assert set(by_set) == {"test", "unseen", DEEP}
        assert list(by_set["unseen"]) == ["h", "untrained", "raw_pixels"]
        assert list(by_set[DEEP]) == ["h"]
    other = tables["untrained"]["test"]
    unit = other.vectors / np.linalg.norm(other.vectors, axis=1, keepdims=True)
    angles = np.arccos(np.clip(unit.astype(float) @ unit.T, -1, 1))
    np.fill_diagonal(angles, 0)
    expected = silhouette_score(angles, other.labels, metric="precomputed")
    assert results.silhouette["test"]["untrained"] == pytest.approx(expected, abs=1e-4)


def test_label_efficiency_is_of_unseen_classes_alone(results):
    keys = {(row.set, row.embedding, row.classifier) for row in results.label_efficiency}
    assert keys == {
        (name, embedding, classifier)
        for name, embedding in (
            *(("unseen", e) for e in ("h", "untrained", "raw_pixels")),
            (DEEP, "h"),
        )
        for classifier in ("svc", "linear", "knn")
        if (embedding, classifier) != ("raw_pixels", "linear")
    }
    for row in results.label_efficiency:
        assert 0 <= row.low <= row.mean <= row.high <= 1
        assert row.draws == 2


def test_exemplars_name_images_of_the_right_classes(tables, results):
    here = tables["h"]["test"]
    class_of = dict(zip(here.ids, here.class_names, strict=True))
    for name in SEEN:
        found = results.exemplars["test"][name]
        for images in (found.closest, found.farthest, found.closest_of_others):
            assert len(images) == 5
            for image in images:
                assert class_of[image.id] == image.class_name
                assert (image.class_name == name) == (images is not found.closest_of_others)
        near = [image.distance for image in found.closest]
        far = [image.distance for image in found.farthest]
        assert near == sorted(near)
        assert far == sorted(far, reverse=True)
        assert near[-1] <= far[0]


def test_what_is_written_is_read_back_equal(tmp_path):
    tables = make_tables(baselines=())
    facts = Facts(
        protocol={"seed": 3, "judged": "best"},
        training={"best_step": 2, "last_step": 4},
        wall_seconds={"training": 1.5, "embedding": None},
        classification=CLASSIFICATION,
    )
    found = analyse(tables, facts, draws=2, sizes=[10, 5])
    assert found.label_sizes == (5, 10)
    assert found.facts == facts
    found.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == found
    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    row = next(row for row in written["label_efficiency"] if row["labels"] == 10)
    names = {"set", "embedding", "classifier", "labels", "mean", "low", "high", "draws", "all"}
    assert set(row) == names


def test_classes_too_small_for_a_measure_are_left_out(tmp_path):
    tables = make_tables(unseen=("alone",), baselines=("untrained",))
    rng = np.random.default_rng(0)
    lone = table(rng, ("a", "b"), "unseen-tiny", 4).select(np.array([0, 1, 2, 3, 4]))
    tables["h"]["unseen-tiny"] = lone
    said = []
    found = analyse(tables, draws=2, progress=said.append)
    assert found.label_efficiency == ()  # one class; one image of a class
    assert list(found.retrieval) == ["test", "unseen-tiny"]
    assert found.distances["unseen"].classes == ("alone",)
    assert found.distances["unseen-tiny"].euclidean[1][1] is None  # no distinct pair
    assert said == [
        "exemplars",
        "clusters and outliers",
        "suspects",
        "distances, retrieval and clustering",
    ]
    found.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == found


def test_numbers_of_classes_are_of_the_labelled_rows_alone(tmp_path):
    """Rows without a label change nothing of them, wherever they stand."""
    plain = make_tables(baselines=("untrained",))
    mixed = {}
    for embedding, sets in plain.items():
        mixed[embedding] = {}
        for name, one in sets.items():
            known, n = np.arange(0, 3 * len(one), 3), 3 * len(one)
            rows = np.repeat(np.arange(len(one)), 3)
            twice = dataclasses.replace(
                one.select(rows), ids=tuple(f"{one.ids[row]}/{i}" for i, row in enumerate(rows))
            )
            mixed[embedding][name] = unlabelled(twice, np.setdiff1d(np.arange(n), known))
    few, found = analyse(plain, draws=2), analyse(mixed, draws=2)
    for name in ("distances", "separation", "retrieval", "nmi", "silhouette", "label_efficiency"):
        assert getattr(found, name) == getattr(few, name), name
    assert found.knn_accuracy == few.knn_accuracy
    assert found.sets["unseen"].classes == few.sets["unseen"].classes
    assert (found.sets["unseen"].images, found.sets["unseen"].unlabelled) == (108, 72)
    found.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == found


def test_without_unseen_sets_curves_are_of_the_test_images():
    """Classes of one image, which no draw can split, are left out."""
    rng = np.random.default_rng(0)
    test = table(rng, ("a", "b", "c"), "test", 8).select(np.arange(17))
    train = table(rng, ("a", "b", "c"), "train", 8)
    found = analyse({"h": {"train": train, "test": test}}, draws=2)
    without = analyse({"h": {"train": train, "test": test.select(np.arange(16))}}, draws=2)
    assert {row.set for row in found.label_efficiency} == {"test"}
    assert found.label_efficiency == without.label_efficiency
    assert found.knn_accuracy is not None  # the test images have fewer classes, and no others


def test_an_unknown_distance_is_refused():
    tables = make_tables(unseen=None, baselines=())
    metadata = {"distance": "cosine"}
    tables["h"]["train"] = dataclasses.replace(tables["h"]["train"], metadata=metadata)
    with pytest.raises(InputError, match="cosine"):
        analyse(tables)
    with pytest.raises(ValueError, match="without one of h"):
        analyse({"untrained": {}})


def test_remembered_curves_are_of_their_vectors_and_labels(tmp_path):
    """Same vectors, other labels, one cache."""
    one = make_tables(unseen=("a", "b"), baselines=())
    first = analyse(one, draws=2, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    assert analyse(one, draws=2, cache=tmp_path) == first
    assert file.stat().st_mtime_ns == before
    mixed = np.random.default_rng(0).permutation(one["h"]["unseen"].class_index)
    names = tuple("ab"[label] for label in mixed)
    other = dataclasses.replace(one["h"]["unseen"], class_index=mixed, class_names=names)
    changed = {"h": {**one["h"], "unseen": other}}
    found = analyse(changed, draws=2, cache=tmp_path).label_efficiency
    assert found == analyse(changed, draws=2).label_efficiency
    assert found != first.label_efficiency


def test_propagated_labels_are_whitened_by_the_training_images():
    tables = make_tables(unseen=("a", "b"), baselines=("untrained",))
    tables["h"]["train"] = table(np.random.default_rng(1), ("x", "y"), "train", 20)
    tables["untrained"].pop("train", None)
    kinds = ("knn", "propagated")
    found = analyse(tables, draws=2, sizes=[8], classifiers=kinds).label_efficiency
    for embedding, others in (("h", tables["h"]["train"].vectors), ("untrained", None)):
        unseen = tables[embedding]["unseen"]
        expected = label_efficiency(
            unseen.vectors,
            unseen.labels,
            sizes=[8],
            draws=2,
            classifiers=kinds,
            graph=whitened_graph(unseen.vectors, others),
        )
        rows = [row for row in found if row.embedding == embedding]
        assert [(row.classifier, row.labels, row.mean) for row in rows] == [
            (row["classifier"], row["labels"], row["mean"]) for row in expected
        ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("sets"), "sets is missing"),
        (lambda r: r["sets"]["test"].update(images="8"), r"sets\.test\.images is '8', not int"),
        (lambda r: r["label_efficiency"][3].pop("mean"), r"label_efficiency\[3\]\.mean is missing"),
        (lambda r: r["embedding"].update(distance="cosine"), "embedding.distance is 'cosine'"),
        (lambda r: r.update(knn_accuracy=True), "knn_accuracy is True, not float"),
        (lambda r: r["distances"]["test"]["angular"].pop(), r"distances\.test: angular is not"),
        (lambda r: r.update(exemplars=[1]), r"exemplars is \[1\], not an object"),
        (lambda r: r.update(label_sizes={}), "label_sizes is {}, not a list"),
    ],
)
def test_a_damaged_file_is_named_with_its_field_in_one_line(run, tmp_path, change, says):
    record = read_json(run / "results.json")
    change(record)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=says) as caught:
        Results.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        Results.read(tmp_path / "none.json")


def test_spread_tells_a_point_a_line_and_a_sphere_apart():
    rng = np.random.default_rng(0)
    sphere = spread(rng.normal(size=(5000, 8)))
    assert sphere.std == pytest.approx(1, abs=0.02)
    assert sphere.effective_rank == pytest.approx(8, abs=0.1)
    line = np.outer(rng.choice([-1.0, 1.0], 500), rng.normal(size=8))
    assert spread(line).effective_rank == pytest.approx(1, abs=1e-3)
    assert spread(np.ones((5, 8))) == Spread(std=0.0, effective_rank=1.0)
    # By the definition: the entropy of the normalised squared singular values.
    x = rng.normal(size=(40, 5)) * [1, 2, 3, 4, 5]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    s = np.linalg.svd(unit - unit.mean(0), compute_uv=False) ** 2
    p = s / s.sum()
    assert spread(x).effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()))
