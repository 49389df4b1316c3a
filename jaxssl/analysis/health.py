"""Whether an embedding has collapsed, said in words: the one home of that verdict.

It needs numpy alone, so that training can ask it at every validation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxssl.analysis import checks
from jaxssl.analysis.names import set_title

State = Literal["collapsed", "not collapsed", "at chance", "unknown"]

LEAST_STD, LEAST_RANK = 0.1, 2.0
_AT_THE_MARGIN = (
    "The loss sits at the margin ({loss:.3f} of {margin:g}): all points coincide, positives at a "
    "mean squared distance of {d_ap:.3f} and negatives of {d_an:.3f}. Keep to easier triplets for "
    "longer (hard negatives and hard positives from a later epoch), or lower the learning rate."
)

_AT_ONE_POINT = (
    "Images fall on nearly one point or line. Train for more steps (smaller batches, more epochs), "
    "or begin with published weights."
)


@dataclass(frozen=True)
class Spread:
    """How much of its space an embedding fills.

    Args:
        std: Mean over dimensions of std · sqrt(d), of l2-normalised rows: 1 = uniform on the
            sphere, 0 = one point.
        effective_rank: Directions in use, 1 (a line) to d.
    """

    std: float
    effective_rank: float


@dataclass(frozen=True)
class Health:
    """The verdict on an embedding.

    Args:
        state: "collapsed", "not collapsed", "at chance", or "unknown". None of them says that the
            embedding is good: that takes the comparison with the baselines.
        text: Why, in a sentence.
        measured: What was measured -> its spread.
    """

    state: State
    text: str
    measured: Mapping[str, Spread]


def spread(vectors: np.ndarray) -> Spread:
    """Measure how much of its space an embedding fills, on l2-normalised rows.

    `std` = mean over dimensions of std · sqrt(d).
    `effective_rank` = exp(entropy of the normalised squared singular values), centred.

    Args:
        vectors: `[n, d]`.

    Returns:
        The spread; of no image that of a point.

    Raises:
        ValueError: Another shape, or no real numbers.
        InputError: Vectors that are not finite.

    Reference:
        Roy and Vetterli 2007, "The effective rank", on the covariance's spectrum.

    Example:
        >>> spread(np.ones((4, 3)))
        Spread(std=0.0, effective_rank=1.0)
        >>> spread(np.concatenate([np.eye(3), -np.eye(3)]))
        Spread(std=1.0, effective_rank=3.0)
    """
    rows = np.asarray(checks.vectors("vectors", vectors, least=0), np.float64)
    if not len(rows):
        return Spread(0.0, 1.0)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    centred = rows - rows.mean(0, keepdims=True)
    covariance = centred.T @ centred / len(rows)
    spectrum = np.maximum(np.linalg.eigvalsh(covariance), 0)
    p = spectrum / max(spectrum.sum(), 1e-12)
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-30)))
    std = np.sqrt(np.diagonal(covariance)).mean() * math.sqrt(rows.shape[1])
    return Spread(round(float(std), 6), round(math.exp(entropy), 6))


def health(
    metrics: Sequence[Mapping[str, Any]], spread: Mapping[str, Spread] | None = None
) -> Health:
    """Say whether an embedding has collapsed, from the last metrics and the spread of h.

    Args:
        metrics: Rows of `metrics.jsonl`, or of a validation; the last with `z_std` and
            `effective_rank` counts, and its `loss` where it has a `chance`. Of triplets, the last
            with `margin`, `loss`, `d_ap` and `d_an`.
        spread: Set -> spread of h on it (`Results.spread`).

    Returns:
        The verdict.

    Example:
        >>> health([], {"test": Spread(std=0.01, effective_rank=1.0)}).state
        'collapsed'
        >>> health([{"loss": 0.5, "margin": 0.5, "d_ap": 0.001, "d_an": 0.002}]).state
        'collapsed'
    """
    z = _last(metrics, "z_std", "effective_rank")
    triplets = _last(metrics, "margin", "loss", "d_ap", "d_an")
    measured = {f"h, {set_title(name)}": found for name, found in (spread or {}).items()}
    if z is not None:
        measured = {"z, training's end": Spread(z["z_std"], z["effective_rank"]), **measured}

    def found(state: State, text: str) -> Health:
        return Health(state, text, measured)

    if triplets is not None and _coincide(triplets):
        return found("collapsed", _AT_THE_MARGIN.format(**triplets))
    if not measured:
        return found("unknown", "Neither metrics.jsonl nor results.json holds a spread.")
    # NaN compares false: it counts as the worse case.
    if not all(v.std >= LEAST_STD and v.effective_rank >= LEAST_RANK for v in measured.values()):
        return found("collapsed", _AT_ONE_POINT)
    if z is None or z.get("chance") is None or z.get("loss") is None:
        return found("not collapsed", "Images fall neither on one point nor on a line.")
    below = z["loss"] <= 0.95 * z["chance"]
    text = f"The loss ends at {z['loss']:.2f}, where chance is {z['chance']:.2f}."
    return found("not collapsed" if below else "at chance", text)


def _last(rows: Sequence[Mapping[str, Any]], *names: str) -> Mapping[str, Any] | None:
    return next((r for r in reversed(rows) if all(r.get(n) is not None for n in names)), None)


def _coincide(row: Mapping[str, Any]) -> bool:
    """Tell whether all points are one, on the scale of the margin: the loss is then the margin."""
    # On PlanktonSet a switch to hard positives left distances of 12 and 3 % of the margin.
    near = 0.25 * row["margin"]
    return max(abs(row["loss"] - row["margin"]), row["d_ap"], row["d_an"]) <= near
