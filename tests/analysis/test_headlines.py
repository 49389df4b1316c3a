"""What the terminal says of a run, and what it says where there is nothing."""

import dataclasses

from jaxssl.analysis.headlines import headline
from jaxssl.analysis.measures import analyse
from jaxssl.analysis.results import Facts

from .conftest import CLASSIFICATION, make_tables, unlabelled


def test_numbers_of_labels_that_were_asked_for_are_in_the_table():
    found = analyse(make_tables(baselines=()), draws=2, sizes=[10])
    means = {row.labels: row.mean for row in found.label_efficiency if row.classifier == "svc"}
    lines = headline(found).splitlines()
    assert lines[-3:-1] == [
        "balanced accuracy on unseen classes (SVC, mean of draws)",
        "  labels              10      25",
    ]
    assert lines[-1] == f"  h             {means[10]:>8.3f}{means[25]:>8.3f}"


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
    text = headline(dataclasses.replace(found, sets=sets, label_efficiency=()))
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
