"""The numbers of an evaluation against scikit-learn, and its page against attacks."""

import json
import re

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from sklearn.neighbors import NearestNeighbors

from jaxssl.analysis import evaluation, neighbours
from jaxssl.analysis.evaluation import classification, evaluate, top_accuracy, write
from jaxssl.analysis.linear_probe import linear_probe
from jaxssl.data.images import ImageSet

from .test_report import Page

CLASSES = ("<script>alert(1)</script>", "$b$", "c", "none")


def images(n, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, 6, 6, 1), dtype=np.uint8)
    return ImageSet(
        ids=tuple(f'{seed}/"<i>{i}' for i in range(n)),
        paths=("",) * n,
        labels=(np.arange(n) % 3).astype(np.int32),
        class_names=CLASSES,
        load=pixels.__getitem__,
        groups=np.arange(n),
        shape=(6, 6, 1),
    )


def vectors(labels, seed):
    rng = np.random.default_rng(seed)
    return (2 * np.eye(5)[labels] + rng.normal(size=(len(labels), 5))).astype(np.float32)


@pytest.fixture(scope="module")
def sets():
    return {"train": images(90, 1), "val": images(30, 2), "test": images(60, 3)}


@pytest.fixture(scope="module")
def features(sets):
    return {name: vectors(part.labels, i) for i, (name, part) in enumerate(sets.items())}


@pytest.mark.parametrize("k", [7, 4, 2])
def test_guesses_are_counted_as_scikit_learn_does(k):
    rng = np.random.default_rng(k)
    scores, labels = rng.normal(size=(200, k)), rng.integers(k, size=200)
    found = top_accuracy(scores, labels)
    assert [int(t) for t in found] == [t for t in (1, 3, 5) if t == 1 or t < k]
    for t, share in found.items():
        expected = top_k_accuracy_score(
            labels, scores[:, 1] - scores[:, 0] if k == 2 else scores, k=int(t), labels=range(k)
        )
        assert share == pytest.approx(expected)


def test_a_classifier_by_class():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 4)), rng.integers(3, size=50)
    found = classification(scores, labels, CLASSES)
    matrix = confusion_matrix(labels, scores.argmax(1), labels=range(4))
    assert [list(row) for row in found.confusion] == matrix.tolist()
    assert found.accuracy == pytest.approx(np.trace(matrix) / 50)
    assert found.accuracy == found.top["1"]
    shares = np.diagonal(matrix)[:3] / matrix.sum(1)[:3]
    assert list(found.per_class.values()) == [*map(pytest.approx, shares), None]


def test_the_nearest_are_scikit_learns_by_cosine(sets, features):
    found = neighbours.find(
        features["test"], features["train"], test=sets["test"], train=sets["train"], seed=4
    )
    search = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features["train"])
    assert len(set(found.ids)) == 10
    for row, row_id in enumerate(found.ids):
        asked = sets["test"].ids.index(row_id)
        distances, places = search.kneighbors(features["test"][[asked]])
        assert found.nearest_ids[row] == [sets["train"].ids[i] for i in places[0]]
        degrees = np.degrees(np.arccos(1 - distances[0]))
        np.testing.assert_allclose(found.angles[row], degrees, atol=0.02)
        np.testing.assert_array_equal(found.asked[row], sets["test"][asked]["image"])
        np.testing.assert_array_equal(
            found.nearest[row], np.stack([sets["train"][i]["image"] for i in places[0]])
        )
        assert found.names[row] == CLASSES[sets["test"].labels[asked]]


@pytest.fixture(scope="module")
def page(sets, features, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "linear_eval"
    labels = {name: part.labels for name, part in sets.items()}
    row, scores = evaluate(features, labels)
    near = neighbours.find(
        features["test"], features["train"], test=sets["test"], train=sets["train"], seed=0
    )
    results = {
        "protocol": {"run": "<b>run</b>", "images": {"train": 90, "test": 60}},
        "rows": [{"embedding": "h", **row}, {"embedding": "raw_pixels", **row}],
        "classification": classification(scores, sets["test"].labels, CLASSES),
        "epochs": [{"step": s, "epoch": s / 2, "linear": 0.2 * s, "knn": 0.1 * s} for s in (0, 2)],
        "command": "python -m x '<script>'",
        "versions": {"jax": "0.10.2"},
    }
    rows = np.arange(60)
    write(
        folder,
        results,
        title="Linear evaluation of <i>",
        points={"t-SNE": (rows, features["test"][:, :2]), "UMAP": (rows, features["test"][:, 2:4])},
        names=[CLASSES[label] for label in sets["test"].labels],
        neighbours=near,
        records=[{"step": 1, "split": "train", "loss": 1.0}],
    )
    return folder


def test_the_page_stands_alone_and_escapes(page):
    found = Page((page / "index.html").read_text(encoding="utf-8"))
    assert not {tag for tag, _ in found.tags} & {"i", "iframe", "link"}
    assert [attributes for tag, attributes in found.tags if tag == "script"] == [{}]
    assert [attributes for tag, attributes in found.tags if tag == "b" and attributes] == []
    assert "<b>run</b>" in found.text
    assert "python -m x '<script>'" in found.text
    for link in found.values("href") + found.values("src"):
        local = not link.startswith(("#", "data:"))
        assert not local or (page / link).is_file(), link
    alts = [alt for alt in found.values("alt") if alt != "The picture"]  # that of the dialog
    assert len(alts) == 10 * 6
    assert all(re.fullmatch(r'\d/"<i>\d+, of .+', alt) for alt in alts)
    assert any(CLASSES[0] in alt for alt in alts)
    titles = found.values("title")
    assert len(titles) == 10 * 5
    assert all(re.fullmatch(r'\d/"<i>\d+', title) for title in titles)
    names = {"confusion", "neighbours", "map", "epochs", "training"}
    assert {path.stem for path in page.glob("*.png")} == names
    assert {path.stem for path in page.glob("*.json")} == names | {"results"}
    assert not list(page.glob(".*"))


def test_what_was_not_measured_is_not_on_the_page(tmp_path):
    scores = np.eye(2)[[0, 1, 1]]
    results = {"protocol": {}, "classification": classification(scores, np.array([0, 1, 0]), "ab")}
    text = write(tmp_path, results, title="x").read_text(encoding="utf-8")
    for name in ("accuracy", "epochs", "training", "neighbours", "map"):
        assert f'id="{name}"' not in text
    assert 'id="classification"' in text


def test_the_penalty_is_chosen_on_validation_never_on_the_test_images():
    """One feature tells the class, sixty are noise; a label in four is wrong, in test all."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=300)
    x = np.concatenate([3 * y[:, None] + rng.normal(size=(300, 1)), rng.normal(size=(300, 60))], 1)
    said = np.where(rng.random(300) < 0.25, 1 - y, y)
    parts = {"train": slice(0, 100), "val": slice(100, 200), "test": slice(200, 300)}
    features = {name: x[rows] for name, rows in parts.items()}
    labels = {"train": said[:100], "val": y[100:200], "test": 1 - y[200:]}
    on_test = linear_probe(features["train"], labels["train"], features["test"], labels["test"])
    row, _ = evaluate(features, labels)
    expected = linear_probe(features["train"], labels["train"], features["val"], labels["val"])
    assert on_test.c != expected.c, "else this shows nothing"
    assert row["linear"]["c"] == expected.c
    assert row["linear"]["val_accuracy"] == expected.val_accuracy


def test_the_headline_has_a_line_an_embedding(page):
    rows = json.loads((page / "results.json").read_text())["rows"]
    text = evaluation.headline(rows)
    lines = text.splitlines()
    for name, line in (("linear", 2), ("knn", 6)):
        shares = [float(cell.rstrip("%")) for cell in lines[line].split()[2:]]
        expected = [100 * share for share in rows[0][name]["top"].values()]
        assert lines[line].split()[:2] == ["this", "embedding"]
        assert shares == pytest.approx(expected, abs=0.051)
