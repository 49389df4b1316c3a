"""What matters most about a run's numbers: classes that fail, baselines that win."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxssl.analysis.headlines import headline_labels
from jaxssl.analysis.names import BASELINES, embedding_title, listed
from jaxssl.analysis.results import Results

FEWEST = 5  # of fewer images a share says nothing
_NAMED = 8


@dataclass(frozen=True)
class Failing:
    """The classes of a set that are far under the others.

    Args:
        where: Whose share it is, in words.
        classes: Class -> its share right, the worst first.
        mean: Mean share over all classes.
        of: How many classes there are.
    """

    where: str
    classes: Mapping[str, float]
    mean: float
    of: int


def failing(results: Results) -> list[Failing]:
    """Find classes of which 0 %, or under half the mean over classes, is right.

    "Right" is what the run's own classifier says of the test images, and in each judged set whether
    an image's nearest other is of its class. Of classes with 5 images or more.

    Args:
        results: Of the run.

    Returns:
        One object for each that has such classes.
    """
    asked: dict[str, tuple[Mapping[str, float | None], Mapping[str, int]]] = {}
    own = results.classification
    if own:
        own_images = {n: sum(row) for n, row in zip(own.classes, own.confusion, strict=True)}
        asked["its own classifier on the test images"] = (own.per_class, own_images)
    for name, shares in results.nearest_right.items():
        asked[f"the nearest neighbour in {name}"] = shares, results.sets[name].classes
    found = []
    for where, (shares, images) in asked.items():
        known = {n: s for n, s in shares.items() if s is not None and images.get(n, 0) >= FEWEST}
        if len(known) < 2:
            continue
        mean = sum(known.values()) / len(known)
        bad = {n: s for n, s in known.items() if s == 0 or s < mean / 2}
        if bad:
            worst = dict(sorted(bad.items(), key=lambda item: item[1]))
            found.append(Failing(where, worst, mean, len(known)))
    return found


def failing_sentence(found: Failing) -> str:
    """Say which classes fail.

    Example:
        >>> failing_sentence(Failing("the nearest neighbour in test", {"a": 0.0, "b": 0.2}, 0.7, 9))
        '2 of 9 classes fail by the nearest neighbour in test (mean 70 %): a 0 % and b 20 %'
    """
    named = [f"{name} {share:.0%}".replace("%", " %") for name, share in found.classes.items()]
    more = len(named) - _NAMED
    said = listed(named) if more <= 0 else f"{', '.join(named[:_NAMED])} and {more} more"
    return (
        f"{len(named)} of {found.of} classes fail by {found.where} "
        f"(mean {100 * found.mean:.0f} %): {said}"
    )


def winning_baselines(results: Results) -> list[str]:
    """Say where a baseline is better than the trained embedding, a sentence a set and measure.

    Of few labels by the SVC at the numbers that the headline tells, and of precision at 1.
    """
    said = []
    svc = [row for row in results.label_efficiency if row.classifier == "svc"]
    for name in dict.fromkeys(row.set for row in svc):
        here = [row for row in svc if row.set == name]
        for labels in headline_labels(here, results.label_sizes):
            rows = {row.embedding: row for row in here if row.labels == labels}
            h = rows.get("h")
            better = [r for r in rows.values() if h and _is_baseline(r.embedding, h.mean, r.mean)]
            for row in better:
                apart = "overlapping intervals" if h and row.low <= h.high else "intervals apart"
                said.append(
                    f"{embedding_title(row.embedding)} wins on {name} with {labels:,} labels: "
                    f"{100 * row.mean:.1f} against {100 * (h.mean if h else 0):.1f} %, {apart}"
                )
    for name, scores in results.retrieval.items():
        mine = scores["h"].precision_at_1 if "h" in scores else None
        for embedding, theirs in scores.items():
            value = theirs.precision_at_1
            if mine is not None and value is not None and _is_baseline(embedding, mine, value):
                said.append(
                    f"{embedding_title(embedding)} wins on {name} by the nearest neighbour (P@1): "
                    f"{100 * value:.1f} against {100 * mine:.1f} %"
                )
    return said


def _is_baseline(embedding: str, mine: float, theirs: float) -> bool:
    return embedding in BASELINES and theirs > mine


def samples(results: Results, drawn: Mapping[str, tuple[int, int]]) -> list[str]:
    """Say which parts of the page are of a sample, and what its intervals leave out.

    Args:
        results: Of the run.
        drawn: Set -> images on the map, and images in all.
    """
    part = {name: (few, n) for name, (few, n) in drawn.items() if 0 < few < n}
    said = []
    if part:
        each = listed([f"{few:,} of {n:,} {name}" for name, (few, n) in part.items()])
        said.append(f"The map shows a sample: {each} images; all numbers are of all images.")
    if results.label_efficiency:
        said.append(
            "Intervals are over random draws of the labels: other trainings and other images vary "
            "more. Runs of several seeds, compared, show the first."
        )
    return said
