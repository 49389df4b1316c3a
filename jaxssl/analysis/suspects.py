"""Images whose label, picture or place in a split is probably wrong, the most suspect first."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxssl.analysis import checks
from jaxssl.analysis.confident import confident_learning, held_out_probabilities, vote_shares
from jaxssl.analysis.distances import as_points, squares_from
from jaxssl.analysis.results import Suspect
from jaxssl.analysis.tables import Together

LISTED = 500
AGREE = 0.75  # share of the neighbours that must be of one other class
NEAR = 0.05  # of the median distance to the nearest: nearly the same picture
FAR = 4.0  # robust standard deviations from the centre of the class
FLAT = 2.0  # standard deviation of a blank picture's pixels, of 255
# Beyond this many numbers logistic regression takes minutes, and the neighbours vote instead.
_REGRESSION = 4_000_000
# What each reason adds to the score; the neighbours' is their share of the other class.
_WEIGHTS = {"second": 0.5, "classes": 1.0, "splits": 0.75, "same": 0.25, "far": 0.25, "blank": 0.6}


def find_suspects(
    images: Together,
    nearest: np.ndarray,
    distances: np.ndarray,
    *,
    count: int = LISTED,
    seed: int = 0,
) -> tuple[Suspect, ...]:
    """List suspect images and say why.

    - Three quarters or more of its labelled neighbours are of one other class, which is proposed;
      `confident.confident_learning` is the second opinion, by logistic regression on held-out
      folds, or on large tables by the neighbours' votes.
    - Its picture is that of another image, or the two embeddings are nearly one (within 5 % of the
      median distance to the nearest): worst with another class, bad in another split.
    - It is 4 robust standard deviations farther from its class's centre than the class's median.
    - Its picture is very faint or blank, or cannot be read.

    The score is the sum of the share of the neighbours, 0.5 for the second opinion, 1 for a copy
    in another class, 0.75 in another split, 0.25 in its own, 0.25 for an outlier and 0.6 for a
    blank picture.

    Args:
        images: Of `tables.together`.
        nearest: Rows of each image's nearest others, int `[n, m]`, the nearest first.
        distances: Their distances `[n, m]`.
        count: Most images listed.
        seed: Of the folds.

    Returns:
        The most suspect first.

    Raises:
        ValueError: Shapes that do not fit, or rows that there are not.
        InputError: Distances, or vectors of the images, that are not finite.
    """
    nearest, distances = checks.neighbours(nearest, distances, len(images))
    names = sorted({name for name in images.class_names if name})
    index = {name: i for i, name in enumerate(names)} | {"": -1}
    labels = np.array([index[name] for name in images.class_names])
    cases: dict[int, dict[str, tuple[float, str]]] = {}
    proposed: dict[int, str] = {}
    twins: dict[int, int] = {}

    def add(row: int, reason: str, weight: float, why: str) -> None:
        cases.setdefault(row, {}).setdefault(reason, (weight, why))

    if len(names) > 1:
        score, other, share = disagreement(labels, nearest, distances)
        for row in np.flatnonzero(share >= AGREE).tolist():
            proposed[row] = names[other[row]]
            voters = int((labels[nearest[row]] >= 0).sum())
            votes = int((labels[nearest[row]] == other[row]).sum())
            why = f"{votes} of {voters} labelled neighbours are {names[other[row]]}"
            add(row, "neighbours", float(score[row]), why)
        for row, guess in _second_opinion(images, labels, nearest, seed).items():
            proposed.setdefault(row, names[guess])
            add(row, "second", _WEIGHTS["second"], f"confident learning says {names[guess]}")
    for row, (twin, same) in _copies(images, nearest, distances).items():
        twins[row] = twin
        kind, where = _relation(images, row, twin)
        how = "the same picture as" if same else "nearly the same as"
        add(row, kind, _WEIGHTS[kind], f"{how} {images.ids[twin]}{where}")
    for row in _far_from_class(images, labels, len(names)):
        add(row, "far", _WEIGHTS["far"], "far from the other images of its class")
    for row, why in _bad_pictures(images.pictures).items():
        add(row, "blank", _WEIGHTS["blank"], why)
    total = {row: sum(weight for weight, _ in found.values()) for row, found in cases.items()}
    return tuple(
        Suspect(
            id=images.ids[row],
            set=images.sets[row],
            class_name=images.class_names[row],
            proposed=proposed.get(row, ""),
            score=total[row],
            why=tuple(said for _, said in cases[row].values()),
            twin=images.ids[twins[row]] if row in twins else "",
        )
        for row in sorted(total, key=lambda row: (-total[row], row))[:count]
    )


def disagreement(
    labels: np.ndarray, nearest: np.ndarray, distances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure how much each image's neighbours speak for one other class.

    Args:
        labels: int `[n]`, -1 for no label.
        nearest: int `[n, m]`, rows of the nearest others.
        distances: `[n, m]`.

    Returns:
        The score `[n]`: weighted votes for the other class minus those for its own, over all, a
        neighbour at distance r weighing exp(-r / r̄), r̄ the median over all; -1 for an image without
        a label. The other class int `[n]` of most votes. Its share of the labelled neighbours
        `[n]`, by count.

    Raises:
        ValueError: Shapes that do not fit, rows that there are not, or labels below -1, or none.
        InputError: Distances that are not finite.

    Example:
        >>> near = np.array([[1, 2], [2, 0], [0, 1]])
        >>> score, other, share = disagreement(np.array([0, 1, 1]), near, np.ones((3, 2)))
        >>> score.round(2).tolist(), other.tolist(), share.tolist()
        ([1.0, 0.0, 0.0], [1, 0, 0], [1.0, 0.5, 0.5])
    """
    (labels,) = checks.fit(labels=(labels, "n"))
    labels = checks.numbers("labels", labels, least=-1)
    nearest, distances = checks.neighbours(nearest, distances, len(labels))
    classes = int(labels.max()) + 1
    if not classes:
        raise ValueError("labels are all -1: there is none to disagree with")
    scale = float(np.median(distances)) or 1.0
    voters = labels[nearest]
    rows, columns = np.nonzero(voters >= 0)
    votes, counts = np.zeros((2, len(labels), classes))
    np.add.at(votes, (rows, voters[rows, columns]), np.exp(-distances[rows, columns] / scale))
    np.add.at(counts, (rows, voters[rows, columns]), 1)
    everyone, own = np.arange(len(labels)), np.maximum(labels, 0)
    mine = votes[everyone, own]
    rest = votes.copy()
    rest[everyone, own] = -1
    other = rest.argmax(axis=1)
    total = np.maximum(votes.sum(axis=1), 1e-300)
    score = np.where(labels >= 0, (votes[everyone, other] - mine) / total, -1.0)
    share = counts[everyone, other] / np.maximum(counts.sum(axis=1), 1)
    return score, other, np.where(labels >= 0, share, 0.0)


def _second_opinion(
    images: Together, labels: np.ndarray, nearest: np.ndarray, seed: int
) -> dict[int, int]:
    """Return row -> class of what confident learning takes for another class."""
    known = np.flatnonzero(labels >= 0)
    if len(known) * images.vectors.shape[1] <= _REGRESSION:
        p = held_out_probabilities(images.vectors[known], labels[known], seed=seed)
    else:
        p = vote_shares(labels[nearest[known]], int(labels.max()) + 1)
    suspect, guess, _ = confident_learning(labels[known], p)
    return {int(known[i]): int(guess[i]) for i in np.flatnonzero(suspect)}


def _copies(
    images: Together, nearest: np.ndarray, distances: np.ndarray
) -> dict[int, tuple[int, bool]]:
    """Find for each image that has one its copy, and whether the pictures are the same.

    Of several copies the worst: of another class, else of another set.
    """
    same: dict[bytes, list[int]] = {}
    for row, picture in enumerate(images.pictures):
        if picture:
            same.setdefault(hashlib.sha256(picture).digest(), []).append(row)
    limit = NEAR * float(np.median(distances[:, 0]))
    near = [
        [int(j) for j in row[reach <= limit]] if limit else []
        for row, reach in zip(nearest, distances, strict=True)
    ]
    groups = {row: [r for r in rows if r != row] for rows in same.values() for row in rows}
    found = {}
    for row in range(len(images)):
        twins = [*groups.get(row, [])[:50], *near[row]]
        if twins:
            worst = max(twins, key=lambda twin: _WEIGHTS[_relation(images, row, twin)[0]])
            found[row] = worst, worst in groups.get(row, ())
    return found


def _relation(images: Together, row: int, twin: int) -> tuple[str, str]:
    """Name the kind of two copies, and say what they do not share."""
    mine, theirs = images.class_names[row], images.class_names[twin]
    if mine and theirs and mine != theirs:
        return "classes", f", which is {theirs} ({images.sets[twin]})"
    if images.sets[row] != images.sets[twin]:
        return "splits", f", which is in {images.sets[twin]}"
    return "same", ""


def _far_from_class(images: Together, labels: np.ndarray, classes: int) -> list[int]:
    """Find the rows that are far from their class's centre, by the class's own spread."""
    points, found = as_points(images.vectors, images.distance), []
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 5:
            continue
        reach = np.sqrt(squares_from(points[rows].mean(axis=0, keepdims=True), points[rows]))
        middle = np.median(reach)
        spread = 1.4826 * np.median(np.abs(reach - middle))  # a normal's standard deviation
        if spread > 0:
            found += rows[reach > middle + FAR * spread].tolist()
    return found


def _bad_pictures(pictures: Sequence[bytes]) -> dict[int, str]:
    """Return row -> why of pictures that are blank or cannot be read; no picture is not bad."""
    found = {}
    for row, data in enumerate(pictures):
        if not data:
            continue
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                flat = np.asarray(image.convert("RGB"), np.float32).std(axis=(0, 1)).max() < FLAT
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            found[row] = "the picture cannot be read"
            continue
        if flat:
            found[row] = "the picture is very faint or blank"
    return found
