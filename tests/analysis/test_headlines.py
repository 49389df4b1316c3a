"""What the terminal says of a run, and what it says where there is nothing."""

import dataclasses

from jaxssl.analysis.findings import Failing, failing, failing_sentence, winning_baselines
from jaxssl.analysis.measures import analyse
from jaxssl.analysis.results import Classification, Facts, RetrievalScores
from jaxssl.analysis.sections.overview import headlines
from jaxssl.analysis.terminal import headline

from .conftest import CLASSIFICATION, make_tables, unlabelled


def test_numbers_of_labels_that_were_asked_for_are_in_the_table():
    found = analyse(make_tables(baselines=()), draws=2, sizes=[10])
    means = {row.labels: row.mean for row in found.label_efficiency if row.classifier == "svc"}
    by_line = {row.labels: row.mean for row in found.label_efficiency if row.classifier == "linear"}
    assert headline(found).splitlines()[-4:] == [
        "balanced accuracy on unseen classes (SVC, mean of draws)",
        "  labels              10      25",
        f"  h             {means[10]:>8.3f}{means[25]:>8.3f}",
        f"  h, linear     {by_line[10]:>8.3f}{by_line[25]:>8.3f}",
    ]


def test_h_by_a_linear_classifier_stands_beside_an_svc_that_it_beats():
    """As of 530 unevenly labelled images: .70 by the SVC, .94 by a line, and nobody was told."""
    found = analyse(make_tables(baselines=()), draws=2, sizes=[10])
    changed = dataclasses.replace(
        found,
        label_efficiency=tuple(
            dataclasses.replace(row, mean=0.94 if row.classifier == "linear" else 0.7)
            for row in found.label_efficiency
        ),
    )
    assert headline(changed).splitlines()[-2:] == [
        "  h                0.700   0.700",
        "  h, linear        0.940   0.940",
    ]
    (tiles,) = (part["tiles"] for part in headlines(changed))
    assert [(bar["name"], bar["mean"]) for bar in tiles[-1]["bars"]] == [
        ("this embedding", 0.7),
        ("this embedding, linear", 0.94),
    ]
    assert tiles[-1]["bars"][1]["best"]


def test_numbers_of_labels_that_cannot_be_measured_are_told():
    found = analyse(make_tables(baselines=()), draws=2, sizes=[2, 10, 25, 400])
    last = headline(found).splitlines()[-1]
    assert last == "  not measured with 2: fewer than its 3 classes; 400: there are 25 to label"


def test_one_unseen_class_is_said_in_a_sentence():
    found = analyse(make_tables(unseen=("salp",), baselines=()), draws=2)
    assert headline(found).splitlines()[-1] == (
        "no few-label accuracy on unseen: it has one class (salp), and few labels need two classes "
        "or more to tell apart"
    )


def test_a_class_of_one_image_is_named():
    found = analyse(make_tables(unseen=None, baselines=()), draws=2)
    sets = {"unseen": dataclasses.replace(found.sets["test"], classes={"a": 5, "b": 1, "c": 1})}
    bare = dataclasses.replace(found, sets=sets, label_efficiency=(), nearest_right={})
    text = headline(bare)
    assert (
        "few-label accuracy on unseen: two classes need two images or more; b and c have one"
        in text
    )


def test_a_run_without_unseen_classes_gets_its_accuracies_and_curves_of_its_test_images():
    facts = Facts(classification=CLASSIFICATION)
    found = analyse(make_tables(unseen=None, baselines=()), facts, draws=2)
    lines = headline(found).splitlines()
    (whole,) = {row.mean for row in found.label_efficiency if row.classifier == "svc"}
    assert lines[3:] == [
        "balanced accuracy on held-out test images of the seen classes (SVC, mean of draws)",
        "  labels              11",
        f"  h             {whole:>8.3f}",
    ]
    assert lines[:2] == [
        "its own classifier: 75.0% of the seen classes' test images",
        f"kNN on h (k = 200, T = .1): {found.knn_accuracy:.1%} of the seen classes' test images",
    ]


def test_a_run_without_labels_says_what_it_has_instead():
    found = analyse({"h": {"train": unlabelled(make_tables(baselines=())["h"]["train"])}})
    assert headline(found) == (
        "no image has a label, so nothing says how well classes are told apart: the report has "
        f"{len(found.clusters.clusters)} clusters and the outliers\n"
    )


def test_the_last_lines_say_which_classes_fail_and_which_baselines_win():
    """As in a run that a green verdict stood over: classes at 0 %, raw pixels best by P@1."""
    names = ("a", "b", "c", "few")
    own = Classification(
        accuracy=0.5,
        top={"1": 0.5},
        per_class={"a": 0.9, "b": 0.0, "c": 0.2, "few": 0.0},
        confusion=((9, 1, 0, 0), (10, 0, 0, 0), (8, 0, 2, 0), (1, 0, 0, 0)),
        classes=names,
    )
    found = analyse(make_tables(baselines=("raw_pixels",)), Facts(classification=own), draws=2)
    best = RetrievalScores(precision_at_1=1.0, r_precision=None, map_at_r=None, queries=36)
    mine = dataclasses.replace(best, precision_at_1=0.875)
    changed = dataclasses.replace(
        found,
        retrieval={"unseen": {"h": mine, "raw_pixels": best}},
        label_efficiency=tuple(
            dataclasses.replace(
                row, mean=(m := 0.9 if row.embedding == "h" else 0.95), low=m, high=m
            )
            for row in found.label_efficiency
        ),
        nearest_right={"unseen": dict.fromkeys(found.sets["unseen"].classes, 0.75)},
    )
    assert [one.classes for one in failing(changed)] == [
        {"b": 0.0}
    ]  # "c" is over half the mean, "few" has one
    assert headline(changed).splitlines()[-4:] == [
        "",
        "1 of 3 classes fail by its own classifier on the test images (mean 37 %): b 0 %",
        "raw pixels wins on unseen with 25 labels: 95.0 against 90.0 %, intervals apart",
        "raw pixels wins on unseen by the nearest neighbour (P@1): 100.0 against 87.5 %",
    ]
    assert winning_baselines(dataclasses.replace(changed, label_efficiency=(), retrieval={})) == []


def test_a_long_list_of_failing_classes_is_cut():
    said = failing_sentence(Failing("x", {f"c{i}": 0.0 for i in range(30)}, 0.5, 60))
    assert said.endswith("c7 0 % and 22 more")
