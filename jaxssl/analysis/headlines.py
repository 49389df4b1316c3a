"""The few numbers that a run is about: which they are, and why one is not there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from jaxssl.analysis.names import listed
from jaxssl.analysis.results import LabelRow, Results

WITHOUT_LABELS = "no image has a label, so nothing says how well classes are told apart"


def headline_labels(rows: Sequence[LabelRow], asked: Collection[int] = ()) -> list[int]:
    """Choose the numbers of labels that a set's results are told by.

    Args:
        rows: Of `label_efficiency`, of one set.
        asked: The numbers of labels that were asked for, which are told; () where nobody did.

    Returns:
        Of the numbers measured: those asked for, or a few; and the whole pool.

    Example:
        >>> row = LabelRow("unseen", "h", "svc", 30, mean=0.5, low=0.4, high=0.6, draws=5)
        >>> from dataclasses import replace
        >>> rows = [replace(row, labels=n) for n in (30, 40, 90, 100, 300)]
        >>> rows += [replace(row, labels=499, all=True)]
        >>> headline_labels(rows), headline_labels(rows, asked=[40])
        ([30, 90, 300, 499], [40, 499])
    """
    measured = {row.labels for row in rows}
    wanted = set(asked) or {30, 90 if 90 in measured else 100, 300, 1000}
    return sorted(wanted & measured | {row.labels for row in rows if row.all})


def better_by_a_line(rows: Sequence[LabelRow]) -> list[LabelRow]:
    """List h's rows by the linear classifier, where it tells classes apart better than the SVC.

    That it does is said beside the SVC's numbers, which tables quote: of a few labels that are
    spread unevenly over the classes an RBF kernel finds less than what is in h.

    Args:
        rows: Of `label_efficiency`, of one set.

    Returns:
        The rows of "h" and "linear"; [] unless they are .05 above the SVC's with all labels.

    Example:
        >>> row = LabelRow("unseen", "h", "svc", 72, mean=0.7, low=0.7, high=0.7, draws=1, all=True)
        >>> from dataclasses import replace
        >>> line = replace(row, classifier="linear", mean=0.94)
        >>> [one.mean for one in better_by_a_line([row, line])], better_by_a_line([row])
        ([0.94], [])
    """
    of_h = [row for row in rows if row.embedding == "h"]
    means = {row.classifier: row.mean for row in of_h if row.all}
    if means.get("linear", 0.0) < means.get("svc", 1.0) + 0.05:
        return []
    return [row for row in of_h if row.classifier == "linear"]


def accuracies(results: Results) -> dict[str, float]:
    """List the shares of the seen classes' test images that are right, by what says so."""
    own = results.classification
    found = {
        "its own classifier": own.accuracy if own else None,
        "kNN on h (k = 200, T = .1)": results.knn_accuracy,
    }
    return {name: share for name, share in found.items() if share is not None}


def without_curve(results: Results) -> dict[str, str]:
    """Say of each set that should have a label-efficiency curve and has none why.

    Example:
        >>> from jaxssl.analysis.results import Embedded, ImageCounts
        >>> sets = {"unseen": ImageCounts(5, {"salp": 5}), "test": ImageCounts(2, {"copepod": 2})}
        >>> without_curve(Results(Embedded("h", "angular", 8), sets))
        {'unseen': 'it has one class (salp), and few labels need two classes or more to tell apart'}
    """
    have = {row.set for row in results.label_efficiency}
    unseen = [n for n, counts in results.sets.items() if n.startswith("unseen") and counts.images]
    wanted = unseen or [name for name in ("test",) if name in results.sets]
    found = {}
    for name in [name for name in wanted if name not in have]:
        classes = results.sets[name].classes
        if not classes:
            found[name] = "no image of it has a label"
        elif len(classes) == 1:
            one = f"one class ({next(iter(classes))})"
            found[name] = f"it has {one}, and few labels need two classes or more to tell apart"
        elif len(compared_classes(results, name)) < 2:
            found[name] = f"two classes need two images or more; {_alone(classes)}"
        else:
            found[name] = "it was not analysed"
    return found


def compared_classes(results: Results, name: str) -> list[str]:
    """List the classes of a set that a label-efficiency curve can have: of two images or more."""
    return [label for label, images in results.sets[name].classes.items() if images > 1]


def _alone(classes: Mapping[str, int]) -> str:
    alone = [label for label, images in classes.items() if images < 2]
    more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
    one = f"{listed(alone[:3])}{more}" if more else listed(alone)
    return f"{one} {'has' if len(alone) == 1 else 'have'} one"


def not_measured(results: Results) -> dict[str, str]:
    """Say of each set with curves which numbers of labels, and which classes, were left out."""
    found = {}
    for name in dict.fromkeys(row.set for row in results.label_efficiency):
        rows = [row for row in results.label_efficiency if row.set == name]
        left = set(results.label_sizes) - {row.labels for row in rows}
        counts, classes = results.sets[name].classes, len(compared_classes(results, name))
        pool = max(row.labels for row in rows)
        few = sorted(n for n in left if n < classes)
        many = sorted(n for n in left if n >= classes)
        reasons = []
        if few:
            numbers = listed([f"{n:,}" for n in few])
            reasons.append(f"not measured with {numbers}: fewer than its {classes} classes")
        if many:
            numbers = listed([f"{n:,}" for n in many])
            before = "" if few else "not measured with "
            reasons.append(f"{before}{numbers}: there are {pool:,} to label")
        if classes < len(counts):
            reasons.append(f"without classes of one image: {_alone(counts)}")
        if reasons:
            found[name] = "; ".join(reasons)
    return found


def of_classes(name: str) -> str:
    """Say whose images a label-efficiency curve is measured on.

    Example:
        >>> of_classes("unseen-lookalikes"), of_classes("test")
        ('unseen-lookalikes classes', 'held-out test images of the seen classes')
    """
    return "held-out test images of the seen classes" if name == "test" else f"{name} classes"
