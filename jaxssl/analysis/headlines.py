"""The few numbers that a run is about: which they are, and their table for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jaxssl.analysis.names import listed
from jaxssl.analysis.results import LabelRow, Results


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


def accuracies(results: Results) -> dict[str, float]:
    """List the shares of the seen classes' test images that are right, by what says so."""
    own = results.classification
    found = {
        "its own classifier": own.accuracy if own else None,
        "kNN on h (k = 200, T = .1)": results.knn_accuracy,
    }
    return {name: share for name, share in found.items() if share is not None}


def without_curve(results: Results) -> dict[str, str]:
    """Say of each unseen set that has no label-efficiency curve why it has none.

    Example:
        >>> from jaxssl.analysis.results import Embedded, ImageCounts
        >>> sets = {"unseen": ImageCounts(5, {"salp": 5}), "test": ImageCounts(2, {"copepod": 2})}
        >>> without_curve(Results(Embedded("h", "angular", 8), sets))
        {'unseen': 'it has one class (salp), and few labels need two classes or more to tell apart'}
    """
    found = {}
    have = {row.set for row in results.label_efficiency}
    for name, counts in results.sets.items():
        if not name.startswith("unseen") or name in have:
            continue
        alone = [label for label, images in counts.classes.items() if images < 2]
        if len(counts.classes) < 2:
            one = f"one class ({next(iter(counts.classes))})" if counts.classes else "no class"
            found[name] = f"it has {one}, and few labels need two classes or more to tell apart"
        elif alone:
            some = listed(alone[:3]) + (f" and {len(alone) - 3} more" if len(alone) > 3 else "")
            found[name] = f"a class needs two images or more, and has one: {some}"
        else:
            found[name] = "it was not analysed"
    return found


def not_measured(results: Results) -> dict[str, str]:
    """Say of each set with curves which numbers of labels were asked for and not measured."""
    found = {}
    for name in dict.fromkeys(row.set for row in results.label_efficiency):
        rows = [row for row in results.label_efficiency if row.set == name]
        left = set(results.label_sizes) - {row.labels for row in rows}
        pool, classes = max(row.labels for row in rows), len(results.sets[name].classes)
        few = sorted(n for n in left if n < classes)
        many = sorted(n for n in left if n >= classes)
        reasons = [f"{listed([f'{n:,}' for n in few])}: fewer than its {classes} classes"] * bool(
            few
        ) + [f"{listed([f'{n:,}' for n in many])}: there are {pool:,} to label"] * bool(many)
        if reasons:
            found[name] = "not measured with " + "; ".join(reasons)
    return found


def headline(results: Results) -> str:
    """Return the few numbers that a run is about, as a small table for the terminal.

    Args:
        results: Of the run.

    Returns:
        Lines: accuracies on the seen classes, then a table for each unseen set, or why there is
        none.
    """
    lines = []
    for name, share in accuracies(results).items():
        lines.append(f"{name}: {share:.1%} of the seen classes' test images")
    rows = [row for row in results.label_efficiency if row.classifier == "svc"]
    for name in dict.fromkeys(row.set for row in rows):
        here = [row for row in rows if row.set == name]
        labels = headline_labels(here, results.label_sizes)
        lines.append(f"\nbalanced accuracy on {name} classes (SVC, mean of draws)")
        lines.append(f"  {'labels':14}" + "".join(f"{n:>8}" for n in labels))
        for embedding in dict.fromkeys(row.embedding for row in here):
            means = {row.labels: row.mean for row in here if row.embedding == embedding}
            lines.append(f"  {embedding:14}" + "".join(f"{means[n]:>8.3f}" for n in labels))
        if name in (left := not_measured(results)):
            lines.append(f"  {left[name]}")
    for name, why in without_curve(results).items():
        lines.append(f"\nno few-label accuracy on {name}: {why}")
    return "\n".join([*lines, ""])
