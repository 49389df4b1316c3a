"""What no function of the room takes in silence: each public one with odd input, one clear line."""

import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import jaxssl.analysis as room
from jaxssl.analysis import (
    acquisition,
    checks,
    classifier,
    clusters,
    confident,
    distances,
    evaluation,
    exemplars,
    few_labels,
    health,
    linear_probe,
    outliers,
    placing,
    probes,
    projection,
    propagation,
    retrieval,
    sampling,
    suspects,
    whitening,
)
from jaxssl.analysis.tables import Together
from jaxssl.errors import InputError

RANDOM = np.random.default_rng(0)
Y = np.arange(24) % 3
X = np.eye(4)[Y] + RANDOM.normal(scale=0.3, size=(24, 4))
Q, ASKED = X[:6] + 0.01, Y[:6]
SOME = np.where(np.arange(24) < 9, Y, -1)
NEAR, FAR = exemplars.nearest_neighbours(X, X, count=3, exclude_self=True)
P = np.full((24, 3), 0.2) + 0.4 * np.eye(3)[Y]
GRAPH = propagation.neighbour_graph(X, neighbours=3)
ROWS = np.arange(6)
SUMS = distances.distance_sums(X, Y, 3)
IMAGES = Together(
    X, tuple(map(str, range(24))), ("",) * 24, tuple("abc"[y] for y in Y), ("test",) * 24,
    (b"",) * 24, "euclidean",
)  # fmt: skip
WHITE = whitening.fit_whitening(X)
PROBE = linear_probe.linear_probe(X, Y, X, Y, grid=(1.0,))
FEW = few_labels.fit_few_labels(X, Y, kinds=("knn",))

# What an argument holds: V vectors, L labels of any kind, N class numbers, S scores, R row numbers.
# A function -> its arguments -> what they hold, and a good value. What holds nothing stays as it
# is.
V, L, N, S, R = "VLNSR"
POINTS = {"points": (V, X), "labels": (N, SOME)}
FOLLOWING = {"nearest": (R, NEAR), "distances": (S, FAR)}
PAIRS = {"bank": (V, X), "bank_labels": (L, Y), "queries": (V, Q), "query_labels": (L, ASKED)}
CASES = {
    acquisition.propose: {"vectors": (V, X), "labels": (N, SOME), "number": 2},
    acquisition.default_way: {"labels": (N, SOME)},
    acquisition.class_probabilities: {"vectors": (V, X), "labels": (N, SOME)},
    acquisition.margins: {"probabilities": (S, P)},
    acquisition.margin: POINTS | {"score": (S, P[:, 0]), "number": 2},
    acquisition.coreset: POINTS | {"number": 2},
    acquisition.clusters: POINTS | {"number": 2},
    acquisition.at_random: POINTS | {"number": 2},
    acquisition.look_alikes: {"vectors": (V, X)},
    acquisition.near_limit: {"points": (V, X)},
    classifier.top_accuracy: {"scores": (S, P), "labels": (N, Y)},
    classifier.classification: {"scores": (S, P), "labels": (N, Y), "classes": ("a", "b", "c")},
    clusters.k_means: {"vectors": (V, X)},
    confident.confident_learning: {"labels": (N, Y), "probabilities": (S, P)},
    confident.held_out_probabilities: {"vectors": (V, X), "labels": (N, Y)},
    confident.vote_shares: {"nearest_labels": (N, SOME[NEAR]), "classes": 3},
    distances.class_distances: {"vectors": (V, X), "class_index": (N, Y), "classes": 3},
    distances.distance_sums: {"vectors": (V, X), "class_index": (N, Y), "classes": 3},
    distances.class_means: {"sums": (S, SUMS), "class_index": (N, Y)},
    distances.as_points: {"vectors": (V, X), "metric": "angular"},
    distances.nearest_points: {"queries": (V, Q), "bank": (V, X), "count": 2},
    evaluation.maps: {"vectors": (V, X), "labels": (N, Y), "seed": 0},
    exemplars.nearest_neighbours: {"queries": (V, Q), "bank": (V, X)},
    few_labels.fit_few_labels: {"vectors": (V, X), "names": (L, Y), "kinds": ("knn",)},
    few_labels.propagate_few_labels: {"vectors": (V, X), "rows": (R, ROWS), "names": (L, Y[ROWS])},
    health.spread: {"vectors": (V, X)},
    linear_probe.linear_probe: {
        "train": (V, X), "train_labels": (N, Y), "val": (V, Q), "val_labels": (N, ASKED),
        "grid": (1.0,),
    },
    outliers.find_outliers: {"images": IMAGES} | FOLLOWING,
    placing.place: {"vectors": (V, Q), "bank": (V, X), "places": (V, X[:, :2])},
    placing.unlike: {"vectors": (V, Q), "bank": (V, X), "metric": "euclidean"},
    probes.label_efficiency: {
        "vectors": (V, X), "labels": (L, Y), "classifiers": ("knn",), "draws": 2,
    },
    probes.knn_accuracy: PAIRS,
    probes.knn_votes: {"bank": (V, X), "bank_labels": (N, Y), "queries": (V, Q)},
    propagation.neighbour_graph: {"vectors": (V, X)},
    propagation.whitened_graph: {"vectors": (V, X), "others": (V, Q)},
    propagation.spread: {"graph": GRAPH, "start": (S, P)},
    propagation.spread_labels: {
        "graph": GRAPH, "rows": (R, ROWS), "labels": (N, Y[ROWS]), "classes": 3,
    },
    propagation.propagate: {
        "vectors": (V, X), "graph": GRAPH, "rows": (R, ROWS), "labels": (N, Y[ROWS]), "classes": 3,
    },
    retrieval.retrieval: {"vectors": (V, X), "labels": (L, Y)},
    retrieval.clustering_nmi: {"vectors": (V, X), "labels": (L, Y)},
    retrieval.silhouette: {"vectors": (V, X), "labels": (L, Y)},
    retrieval.mean_silhouette: {"sums": (S, SUMS), "labels": (N, Y)},
    sampling.stratified_sample: {"labels": (L, Y), "count": 3, "rng": RANDOM},
    suspects.disagreement: {"labels": (N, Y)} | FOLLOWING,
    suspects.find_suspects: {"images": IMAGES} | FOLLOWING,
    whitening.fit_whitening: {"vectors": (V, X)},
    # Methods, of what was fitted on X.
    WHITE.__call__: {"vectors": (V, X)},
    PROBE.scores: {"features": (V, X)},
    FEW.probabilities: {"vectors": (V, X)},
}  # fmt: skip
# Blocks of points that `as_points` has checked, in the inner loops of the others.
BLOCKS = {"distance_tile", "as_distances", "ranking", "nearest_columns", "squares_from"}
# Checked by the tests of their own: a matrix with NaN for what there is not, any number of arrays.
OWN = {"separation", "standardise"}
# They hand what they get to one of the list, or draw it.
THROUGH = {"find", "packed"}


def broken(holds, good):
    """Name -> a value that an argument of this kind must not have."""
    damages = {"none": good[:0], "scalar": np.float64(1), "deep": np.stack([good, good])}
    one_less = {"short": good[1:]}
    if holds in (V, S):
        wrong = {}
        for name, value in (("nan", np.nan), ("infinite", np.inf)):
            wrong[name] = good.astype(np.float32)
            wrong[name][2] = value
        damages |= wrong | {"all nan": np.full(good.shape, np.nan), "strings": good.astype(str)}
        damages |= {"objects": good.astype(str).astype(object), "complex": good + 1j}
    if holds == V:
        damages |= {"flat": good[:, 0], "ragged": [[1.0, 2.0], [1.0]], "no columns": good[:, :0]}
    if holds == L:
        damages |= one_less | {"nan": np.where(good == 1, np.nan, good)}
        damages |= {"mixed": np.array([None, *["a"] * (len(good) - 1)], object)}
    if holds == N:
        damages |= {"nan": np.where(good == 1, np.nan, good), "fractions": good + 0.5}
        damages |= {"strings": good.astype(str)}
    if holds == R:
        damages |= {"fractions": good + 0.5, "mask": good > 0, "too high": good + 1000}
        damages |= {"negative": good - 100, "strings": good.astype(str)}
    return damages


def name_of(function):
    return function.__qualname__


# Nothing is wrong with an empty table, or with fewer labels where nothing else has a row for each.
FINE = {
    ("as_points", "none"), ("margins", "none"), ("vote_shares", "none"), ("near_limit", "none"),
    ("default_way", "none"), ("spread", "none"), ("stratified_sample", "none"),
    ("stratified_sample", "short"),
}  # fmt: skip
# A score may be infinite: a logarithm of 0.
INFINITE = {"top_accuracy", "classification"}
ODD = [
    pytest.param(function, name, value, id=f"{name_of(function)}-{name}-{damage}")
    for function, arguments in CASES.items()
    for name, given in arguments.items()
    if isinstance(given, tuple) and len(given) == 2 and given[0] in (V, L, N, S, R)
    for damage, value in broken(*given).items()
    if not (function.__module__ != propagation.__name__ and (name_of(function), damage) in FINE)
    and not (name_of(function) in INFINITE and damage == "infinite")
]


def call(function, **changed):
    given = {
        name: value[1] if isinstance(value, tuple) and value[0] in (V, L, N, S, R) else value
        for name, value in CASES[function].items()
    }
    return function(**(given | changed))


@pytest.mark.parametrize(("function", "name", "value"), ODD)
def test_odd_input_is_refused_in_one_line_that_names_the_argument(function, name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b") as refused:
        call(function, **{name: value})
    line = str(refused.value)
    assert "\n" not in line
    assert not re.search(r"broadcast|np\.|Traceback|Input X|zero-size|object cannot", line)
    assert len(line) < 250


@pytest.mark.parametrize("function", CASES, ids=name_of)
def test_lists_are_arrays(function):
    lists = {
        name: given[1].tolist()
        for name, given in CASES[function].items()
        if isinstance(given, tuple) and given[0] in (V, L, N, S, R)
    }
    random = {"rng": np.random.default_rng(0)} if "rng" in CASES[function] else {}
    expected = call(function, **random)
    random = {"rng": np.random.default_rng(0)} if random else {}
    assert_equal(call(function, **lists, **random), expected)


def assert_equal(found, expected):
    if sparse.issparse(expected):
        found, expected = found.toarray(), expected.toarray()
    if hasattr(expected, "__dict__"):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if name not in ("_model", "model", "scaler"):
                assert_equal(found[name], value)
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        np.testing.assert_array_equal(found, expected)


def test_every_public_function_that_takes_an_array_is_in_the_list():
    listed = {f"{function.__module__}.{name_of(function)}" for function in CASES}
    missing = set()
    for file in Path(room.__file__).parent.glob("[!_]*.py"):
        module = importlib.import_module(f"jaxssl.analysis.{file.stem}")
        if module is checks:
            continue
        for name, found in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(found):
                continue
            takes = [str(one.annotation) for one in inspect.signature(found).parameters.values()]
            if found.__module__ == module.__name__ and any(one == "np.ndarray" for one in takes):
                missing.add(f"{module.__name__}.{name}")
    missing -= listed
    assert {name.rpartition(".")[2] for name in missing} == BLOCKS | OWN | THROUGH


def test_what_is_not_finite_comes_from_the_images_and_names_the_first_row():
    broken = X.astype(np.float32)
    broken[[5, 7], 1] = np.nan
    with pytest.raises(InputError, match=r"bank holds NaN or infinity in 2 of 24 rows, .* row 5:"):
        probes.knn_accuracy(broken, Y, Q, ASKED)
    with pytest.raises(InputError, match="array 1 holds NaN"):
        projection.standardise(X, broken)
    with pytest.raises(InputError, match="labels hold NaN"):
        retrieval.retrieval(X, np.where(Y == 0, np.nan, Y))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_finite_numbers_pass_though_their_sum_overflows_and_are_not_copied(dtype):
    large = np.full((8, 4), np.finfo(dtype).max)
    assert checks.finite("vectors", large) is large
    assert checks.vectors("vectors", large) is large
    large[6, 3] = -np.inf
    with pytest.raises(InputError, match="1 of 8 rows, the first is row 6"):
        checks.finite("vectors", large)
    assert checks.finite("scores", large, infinite=True) is large


def test_classes_may_be_strings_wherever_their_numbers_do_not_count():
    names, asked = np.array(["cod", "eel", "ray"])[Y], np.array(["cod", "eel", "ray"])[ASKED]
    for measure in (retrieval.retrieval, retrieval.clustering_nmi, retrieval.silhouette):
        assert measure(X, names) == measure(X, Y) == measure(X, Y / 2)
    for labels in (names, names.astype(object)):
        assert probes.knn_accuracy(X, labels, Q, asked) == probes.knn_accuracy(X, Y, Q, ASKED) == 1
    assert probes.knn_accuracy(X, Y.astype(float), Q, ASKED) == 1
    told = {"classifiers": ["knn"], "draws": 2}
    assert probes.label_efficiency(X, names, **told) == probes.label_efficiency(X, Y, **told)
    with pytest.raises(ValueError, match="of bank_labels and query_labels one holds strings"):
        probes.knn_accuracy(X, names, Q, ASKED)
    with pytest.raises(ValueError, match="bank_labels run from -1, below 0"):
        probes.knn_accuracy(X, SOME, Q, ASKED)


def test_whole_numbers_of_any_type_are_class_numbers():
    for kind in (np.float32, np.uint8, object):
        found = acquisition.propose(X, SOME.astype(kind) if kind != np.uint8 else SOME, 3)
        np.testing.assert_array_equal(found.rows, acquisition.propose(X, SOME, 3).rows)
        votes = probes.knn_votes(X, Y.astype(kind), Q)
        np.testing.assert_array_equal(votes, probes.knn_votes(X, Y, Q))
    high = np.full(24, 255, np.uint8)  # one more does not fit the type
    assert probes.knn_votes(X, high, Q).shape == (6, 256)
    with pytest.raises(
        ValueError, match=r"pass numpy.unique\(labels, return_inverse=True\)\[1\], "
    ):
        acquisition.propose(X, np.array(["a", "b"])[Y % 2], 3)


def test_few_labels_say_which_rule_was_broken():
    with pytest.raises(ValueError, match=r"vectors have shape \(24, 4\) and names \(5,\)"):
        few_labels.fit_few_labels(X, np.array([*"aabbc"]))
    with pytest.raises(InputError, match="all labels are 'a': a classifier needs two"):
        few_labels.fit_few_labels(X, np.array(["a"] * 24))
    with pytest.raises(
        ValueError, match=r"rows must be integers, got bool: pass numpy.flatnonzero"
    ):
        few_labels.propagate_few_labels(X, Y == 0, Y)


def test_a_label_outside_the_classes_is_no_label_of_the_last_one():
    with pytest.raises(ValueError, match="labels run from -1 to 2, outside 0 to 2"):
        classifier.classification(P, np.where(Y == 0, -1, Y), ("a", "b", "c"))
    with pytest.raises(ValueError, match="scores are of 3 classes, and classes names 2"):
        classifier.classification(P, Y % 2, ("a", "b"))
    # A probe that learnt the first two classes has no score for the third.
    assert classifier.classification(P[:, :2], Y, ("a", "b", "c")).accuracy == pytest.approx(2 / 3)
    log = np.where(np.eye(3)[Y] > 0, 0.0, -np.inf)
    assert classifier.classification(log, Y, ("a", "b", "c")).accuracy == 1


def test_scores_are_no_probabilities():
    with pytest.raises(ValueError, match="probabilities run from -5 to 4, outside 0 to 1"):
        confident.confident_learning(Y, 9 * np.eye(3)[Y] - 5)


def test_no_image_is_a_point():
    assert health.spread(np.empty((0, 4))) == health.spread(np.ones((3, 4)))
