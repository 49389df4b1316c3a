"""Suspect images: corrupted labels found again, copies, odd ones, blank pictures; cleanlab."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxssl.analysis.confident import confident_learning, held_out_probabilities, vote_shares
from jaxssl.analysis.exemplars import nearest_neighbours
from jaxssl.analysis.suspects import disagreement, find_suspects
from jaxssl.analysis.tables import Together


def noise(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def images_of(vectors, names, *, sets=None, pictures=None):
    n = len(vectors)
    return Together(
        np.asarray(vectors, np.float32),
        tuple(f"i{row}" for row in range(n)),
        ("",) * n,
        tuple(names),
        tuple(sets or ["train"] * n),
        tuple(pictures or [noise(row) for row in range(n)]),
        "euclidean",
    )


def found_in(images):
    near = nearest_neighbours(images.vectors, images.vectors, count=6, exclude_self=True)
    return {one.id: one for one in find_suspects(images, *near)}


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(3), 30)
    return rng.uniform(-1, 1, size=(90, 4)) + 6 * np.eye(4)[owner], np.array(list("abc"))[owner]


def test_wrong_labels_come_first_with_the_class_of_their_neighbours(blobs):
    x, names = blobs
    wrong = {3: "b", 40: "c", 77: "a"}
    told = names.copy()
    told[list(wrong)] = list(wrong.values())
    told[[10, 50]] = ""  # no label is no wrong label
    found = found_in(images_of(x, told))
    first = list(found.values())[:3]
    assert {one.id: (one.class_name, one.proposed) for one in first} == {
        f"i{row}": (label, names[row]) for row, label in wrong.items()
    }
    for one in first:
        assert one.why[0].endswith(f"labelled neighbours are {one.proposed}")
        assert one.why[1] == f"confident learning says {one.proposed}"
    assert not {"i10", "i50"} & set(found)


def test_disagreement_against_a_loop():
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(40, 3)), rng.integers(-1, 4, 40)
    near, far = nearest_neighbours(x, x, count=5, exclude_self=True)
    score, other, share = disagreement(labels, near, far)
    for row in np.flatnonzero(labels >= 0):
        votes, counts = dict.fromkeys(range(4), 0.0), dict.fromkeys(range(4), 0)
        for j, r in zip(near[row], far[row], strict=True):
            if labels[j] >= 0:
                votes[labels[j]] += np.exp(-r / np.median(far))
                counts[labels[j]] += 1
        mine = votes[labels[row]]
        best = max((c for c in votes if c != labels[row]), key=votes.get)
        assert other[row] == best
        assert score[row] == pytest.approx((votes[best] - mine) / sum(votes.values()))
        assert share[row] == pytest.approx(counts[best] / sum(counts.values()))
    assert (share[labels < 0] == 0).all()


def test_copies_say_of_what_and_worst_across_classes(blobs):
    x, names = blobs
    pictures = [noise(row) for row in range(90)]
    sets = ["train"] * 60 + ["test"] * 30
    x[20] = x[5] + 1e-6  # nearly the same, in one class and set
    pictures[31] = pictures[32] = pictures[2]  # two classes; 31 and 32 share theirs
    pictures[65] = pictures[70]
    x[75] = x[80]
    sets[75] = "train"
    found = found_in(images_of(x, names, sets=sets, pictures=pictures))
    why = {i: found[i].why for i in ("i20", "i31", "i65", "i75")}
    assert why == {
        "i20": ("nearly the same as i5",),
        "i31": ("the same picture as i2, which is a (train)",),
        "i65": ("the same picture as i70",),
        "i75": ("nearly the same as i80, which is in test",),
    }
    assert [found[i].twin for i in ("i5", "i2", "i70")] == ["i20", "i31", "i65"]
    scores = [found[i].score for i in ("i31", "i75", "i20")]
    assert scores == sorted(scores, reverse=True)


def test_odd_and_blank_images_are_named(blobs):
    x, names = blobs
    x[7] -= 5
    blank, broken = io.BytesIO(), b"no picture"
    Image.new("L", (8, 8), 200).save(blank, "PNG")
    pictures = [noise(row) for row in range(90)]
    pictures[15], pictures[45], pictures[46] = blank.getvalue(), broken, b""
    found = found_in(images_of(x, names, pictures=pictures))
    assert found["i7"].why == ("far from the other images of its class",)
    assert found["i15"].why == ("the picture is very faint or blank",)
    assert found["i45"].why == ("the picture cannot be read",)
    assert "i46" not in found  # no picture is not a bad one


def test_a_collapsed_embedding_has_no_near_copies():
    assert found_in(images_of(np.ones((12, 3)), [""] * 12)) == {}


def test_confident_learning_against_a_loop():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 200)
    p = rng.dirichlet(np.ones(4), 200) + 0.5 * np.eye(4)[labels]
    p /= p.sum(axis=1, keepdims=True)
    suspect, guess, margin = confident_learning(labels, p)
    limits = [p[labels == j, j].mean() for j in range(4)]
    for row in range(200):
        over = [j for j in range(4) if p[row, j] >= limits[j]]
        expected = max(over, key=lambda j: p[row, j]) if over else labels[row]
        expected = labels[row] if p[row].argmax() == labels[row] else expected
        assert guess[row] == expected
        assert suspect[row] == (expected != labels[row])
        others = [p[row, j] for j in range(4) if j != labels[row]]
        assert margin[row] == pytest.approx(p[row, labels[row]] - max(others))
    assert 0 < suspect.sum() < 200


def test_confident_learning_against_cleanlab():
    cleanlab = pytest.importorskip("cleanlab", reason="cleanlab is not a dependency")
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 500)
    p = rng.dirichlet(np.ones(5), 500) + 0.4 * np.eye(5)[labels]
    p /= p.sum(axis=1, keepdims=True)
    theirs = cleanlab.filter.find_label_issues(labels, p, filter_by="confident_learning")
    suspect, _, _ = confident_learning(labels, p)
    np.testing.assert_array_equal(suspect, theirs)


def test_probabilities_are_of_images_that_were_not_learnt():
    """Random labels can be learnt by heart, and not be foretold."""
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(60, 100)), np.arange(60) % 2
    p = held_out_probabilities(x, labels)
    assert abs((p.argmax(axis=1) == labels).mean() - 0.5) < 0.25
    np.testing.assert_allclose(p.sum(axis=1), 1)
    lone = held_out_probabilities(x[:5], np.array([0, 0, 0, 1, 2]))
    assert lone[4, 2] == 0  # the other folds have no such class


def test_votes_are_shares():
    found = vote_shares(np.array([[-1, -1], [0, 2]]), 3)
    np.testing.assert_allclose(found, [[1 / 3] * 3, [4 / 9, 1 / 9, 4 / 9]])


@pytest.mark.parametrize("labels", [np.zeros(2, int), np.array([0, 1, 5]), np.array([0, -1, 0])])
def test_what_does_not_fit_is_refused(labels):
    with pytest.raises(ValueError, match="labels"):
        confident_learning(labels, np.ones((3, 2)) / 2)
