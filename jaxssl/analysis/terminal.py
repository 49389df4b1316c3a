"""What the terminal says at a run's end."""

from __future__ import annotations

from jaxssl.analysis.findings import failing, failing_sentence, winning_baselines
from jaxssl.analysis.headlines import (
    WITHOUT_LABELS,
    accuracies,
    better_by_a_line,
    headline_labels,
    not_measured,
    of_classes,
    without_curve,
)
from jaxssl.analysis.results import Results
from jaxssl.errors import visible


def headline(results: Results) -> str:
    """Return the few numbers that a run is about, as a small table for the terminal.

    Args:
        results: Of the run.

    Returns:
        Lines: accuracies on the seen classes, then a table for each unseen set (of the held-out
        test images where there is none), or why there is none; of a run without labels what it has
        instead. The last lines say which classes fail and which baselines win.
    """
    lines = []
    if not any(counts.classes for counts in results.sets.values()):
        groups = len(results.clusters.clusters) if results.clusters else 0
        lines.append(f"{WITHOUT_LABELS}: the report has {groups} clusters and the outliers")
    for name, share in accuracies(results).items():
        lines.append(f"{name}: {share:.1%} of the seen classes' test images")
    rows = [row for row in results.label_efficiency if row.classifier == "svc"]
    for name in dict.fromkeys(row.set for row in rows):
        here = [row for row in rows if row.set == name]
        labels = headline_labels(here, results.label_sizes)
        lines.append(f"\nbalanced accuracy on {of_classes(name)} (SVC, mean of draws)")
        lines.append(f"  {'labels':14}" + "".join(f"{n:>8}" for n in labels))
        for embedding in dict.fromkeys(row.embedding for row in here):
            means = {row.labels: row.mean for row in here if row.embedding == embedding}
            lines.append(f"  {embedding:14}" + "".join(f"{means[n]:>8.3f}" for n in labels))
        every = [row for row in results.label_efficiency if row.set == name]
        if by_line := {row.labels: row.mean for row in better_by_a_line(every)}:
            cells = (f"{by_line[n]:>8.3f}" if n in by_line else f"{'-':>8}" for n in labels)
            lines.append(f"  {'h, linear':14}" + "".join(cells))
        if name in (left := not_measured(results)):
            lines.append(f"  {left[name]}")
    for name, why in without_curve(results).items():
        lines.append(f"\nno few-label accuracy on {name}: {why}")
    last = [failing_sentence(found) for found in failing(results)] + winning_baselines(results)
    # A line break in a name is part of it; one that begins a line is ours.
    shown = ["\n" * line.startswith("\n") + visible(line.removeprefix("\n")) for line in lines]
    return "\n".join([*shown, *([""] if last else []), *map(visible, last), ""])
