"""What to label next: against plain loops, and the properties that each way promises."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from jaxssl.analysis import acquisition
from jaxssl.analysis.acquisition import propose
from jaxssl.analysis.distances import as_points

RNG = np.random.default_rng(0)
CENTRES = 9 * np.eye(5)
OWNER = np.repeat(np.arange(5), [40, 30, 20, 12, 8])
X = CENTRES[OWNER] + RNG.normal(size=(len(OWNER), 5))
NONE = np.full(len(X), -1)
WAYS = ("clusters", "coreset", "random", "margin")


def some_labels():
    labels = NONE.copy()
    labels[[0, 1, 45, 46, 75]] = [0, 0, 1, 1, 2]
    return labels


@pytest.mark.parametrize("metric", ["euclidean", "angular"])
@pytest.mark.parametrize("labels", [NONE, some_labels()], ids=["none", "some"])
def test_the_core_set_is_that_of_a_plain_loop(metric, labels):
    points = as_points(X, metric)
    taken = np.flatnonzero(labels >= 0).tolist()
    expected = []
    for _ in range(12):
        if taken:
            row = int(cdist(points, points[taken]).min(axis=1).argmax())
        else:
            row = int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())
        taken.append(row)
        expected.append(row)
    found = propose(X, labels, 12, by="coreset", metric=metric)
    assert found.rows.tolist() == expected
    before = taken[: -len(expected)] + expected[:-1]
    if metric == "angular":
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        cosine = (unit[before] @ unit[expected[-1]]).max()
        assert found.scores[-1] == pytest.approx(np.degrees(np.arccos(cosine)))


def test_the_margin_is_that_of_a_classifier_by_hand():
    labels = some_labels()
    known = labels >= 0
    scaler = StandardScaler().fit(X[known])
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(X[known]), labels[known])
    ranked = np.sort(model.predict_proba(scaler.transform(X)), axis=1)
    gap = ranked[:, -1] - ranked[:, -2]
    order = [row for row in np.argsort(gap) if labels[row] < 0]
    found = propose(X, labels, 20, by="margin")
    assert found.rows.tolist() == order[:20]
    np.testing.assert_allclose(found.scores, gap[order[:20]])
    assert propose(X, labels, 20).rows.tolist() == order[:20]  # the default with labels


def test_clusters_give_each_group_one_before_any_gets_two():
    found = propose(X, NONE, 5)  # the default without labels
    assert sorted(OWNER[found.rows]) == [0, 1, 2, 3, 4]
    assert found.scores.tolist() == [40, 30, 20, 12, 8]
    for row, count in zip(found.rows, found.scores, strict=True):
        mine = X[OWNER[row] == OWNER]
        near = np.sort(cdist(mine, mine), axis=1)[:, 1 : 1 + min(20, int(count) - 1)].mean(axis=1)
        assert near.min() == pytest.approx(
            np.sort(cdist(X[[row]], mine))[0, 1 : 1 + min(20, int(count) - 1)].mean()
        )
    labels = NONE.copy()
    labels[[0, 45]] = 0, 1
    fresh = propose(X, labels, 3, by="clusters").rows
    assert sorted(OWNER[fresh]) == [2, 3, 4]  # those that have a label already come last


@pytest.mark.parametrize("by", WAYS)
def test_no_label_and_no_copy_is_proposed_and_the_seed_decides(by):
    labels = some_labels()
    twice = np.concatenate([X, X + 1e-9])  # every image once more, nearly the same
    both = np.concatenate([labels, NONE])
    found = propose(twice, both, 10**6, by=by, seed=3)
    assert (both[found.rows] < 0).all()
    originals = found.rows % len(X)
    assert len(set(originals.tolist())) == len(originals) == (labels < 0).sum()
    again = propose(twice, both, 10**6, by=by, seed=3)
    np.testing.assert_array_equal(found.rows, again.rows)
    assert len(propose(X, np.zeros(len(X), int), 5, by=by).rows) == 0


def test_images_that_are_all_the_same_are_proposed_once():
    same = np.ones((30, 3))
    for by in ("clusters", "coreset", "random"):
        assert len(propose(same, np.full(30, -1), 5, by=by).rows) == 1, by
    assert len(propose(np.ones((1, 3)), np.array([-1]), 5).rows) == 1


def test_look_alikes_are_a_partition_of_groups_the_nearest_first():
    groups = acquisition.look_alikes(X, size=10, seed=1)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(X)))
    assert max(map(len, groups)) <= 20
    for rows in groups:
        assert len(set(OWNER[rows])) == 1
    assert len(acquisition.look_alikes(X, size=1000)) == 1
    assert [len(g) for g in acquisition.look_alikes(np.ones((90, 2)), size=10)] == [10] * 9


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"labels": NONE[1:]}, "not \\[n, d\\]"),
        ({"number": 0}, "1 or more"),
        ({"by": "best"}, "not one of margin"),
        ({"by": "margin"}, "two classes"),
    ],
)
def test_what_does_not_fit_is_refused(told, match):
    given = {"vectors": X, "labels": NONE, "number": 3} | told
    with pytest.raises(ValueError, match=match):
        propose(given.pop("vectors"), given.pop("labels"), given.pop("number"), **given)
