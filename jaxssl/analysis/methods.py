"""Finished runs as methods: which of them can be compared, which differ in their seed alone."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.analysis.names import embedding_title
from jaxssl.analysis.results import LabelRow, Results
from jaxssl.analysis.run import Run, linear_evaluation, read_run
from jaxssl.errors import InputError

Images = dict[str, set[tuple[str, str]]]  # id and class, by the part that the split draws from
# What must be equal for two numbers to be comparable, beside the images themselves.
PROTOCOL = ("dataset", "seen", "unseen", "lookalikes", "image_size", "color", "fit")


@dataclass(frozen=True)
class Judged:
    """A run with its numbers.

    Args:
        run: The run, with the tables of h.
        results: Its numbers.
        linear: Top-1 accuracy of linear evaluation, by embedding; {} where it was not run.
    """

    run: Run
    results: Results
    linear: Mapping[str, float]


@dataclass(frozen=True)
class Method:
    """One row of the comparison: a training recipe, or a baseline.

    Args:
        name: As shown; no two are alike.
        embedding: Its key in `results.json`: "h" or a baseline's.
        recipe: What its runs have in common.
        runs: One a seed.
    """

    name: str
    embedding: str
    recipe: Mapping[str, Any]
    runs: tuple[Judged, ...]


@dataclass(frozen=True)
class Pooled:
    """A number over seeds.

    Args:
        mean: Over seeds.
        low: Of its 95 % interval.
        high: Of its 95 % interval.
        seeds: The values themselves.
    """

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class MethodRow(LabelRow):
    """A point of a method's label-efficiency curve; `embedding` is the method's name.

    Args:
        seeds: The mean of each seed.
    """

    seeds: tuple[float, ...] = ()


def read_methods(run_dirs: Sequence[str | os.PathLike[str]]) -> list[Method]:
    """Read finished runs of one protocol; those of one study and recipe are one method.

    Args:
        run_dirs: Run folders, in the order in which they are shown.

    Returns:
        The methods, then one network as it began for each encoder, then raw pixels. A baseline's
        numbers are those of the first method that has it, seed by seed.

    Raises:
        InputError: If a run is not finished, two have different protocols, or one method has a seed
            twice.
    """
    if not run_dirs:
        raise InputError("no runs given: name the folders of finished runs")
    groups: dict[str, list[Judged]] = {}
    earlier: list[tuple[Run, dict[str, Any]]] = []
    for folder in map(Path, run_dirs):
        judged = _read(folder)
        run, mine = judged.run, _protocol(judged.run)
        for other, theirs in earlier:
            _check_same(other, run, theirs, mine)
        earlier.append((run, mine))
        group = groups.setdefault(json.dumps([run.study, run.recipe], sort_keys=True), [])
        for twin in group:
            if twin.run.seed == run.seed:
                raise InputError(
                    f"{twin.run.folder} and {folder}: one method, both seed {run.seed}; leave one"
                )
        group.append(judged)
    trained = _named(list(groups.values()))
    return [*trained, *_baselines(trained)]


def _read(folder: Path) -> Judged:
    run = read_run(folder, embeddings=("h",))
    if not run.record:
        raise InputError(f"{folder}: no config.json, so its protocol is not known; restore it")
    if run.results is None:
        raise InputError(
            f"{folder}: no results.json; finish the run, or analyse it again: "
            f"jaxssl report {shlex.quote(str(folder))}"
        )
    if not run.results.retrieval:
        raise InputError(f"{folder}: no judged set of two classes or more, nothing to compare")
    return Judged(run, run.results, linear_evaluation(folder))


def _protocol(run: Run) -> dict[str, Any]:
    images: Images = {}
    for name, table in run.tables["h"].items():
        part = name if name.startswith("unseen") else "seen"  # the seed draws train, val and test
        images.setdefault(part, set()).update(zip(table.ids, table.class_names, strict=True))
    return protocol(run) | {"data": images}


def protocol(run: Run) -> dict[str, Any]:
    """List what must be equal for two numbers to be comparable, beside the images themselves."""
    return {name: run.settings.get(name) for name in PROTOCOL} | {"dataset": run.dataset}


def _check_same(run: Run, other: Run, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    differ = differing([mine, theirs])
    if differ == ["data"] and _learnt_from_a_part(run, other, mine["data"], theirs["data"]):
        return
    # The fingerprint sees the pixels, but also the split, which only equal seeds share.
    fingerprints = (run.provenance.get("data"), other.provenance.get("data"))
    if not differ and run.seed == other.seed and fingerprints[0] != fingerprints[1]:
        differ = ["data"]
    if differ:
        raise InputError(
            f"{run.folder} and {other.folder} differ in {', '.join(differ)}: their numbers cannot "
            "be compared; give runs of one protocol"
        )


def _learnt_from_a_part(run: Run, other: Run, mine: Images, theirs: Images) -> bool:
    """Tell whether one run is the other's but for `--label-fraction`: judged on the same images.

    What it learnt from is a part of what the other did, and the table holds nothing else.
    """
    parts = [_part(one) for one in (run, other)]
    if parts[0] == parts[1] or mine.keys() != theirs.keys():
        return False
    few, all_of_them = (mine, theirs) if parts[0] < parts[1] else (theirs, mine)
    same = all(few[name] == all_of_them[name] for name in few if name != "seen")
    if run.seed == other.seed:  # as far as their pictures tell, of the same pixels too
        tests = [one.tables["h"].get("test") for one in (run, other)]
        shown = [set(zip(t.ids, t.thumbnails, strict=True)) for t in tests if t is not None]
        same = same and all(pictures == shown[0] for pictures in shown)
    return same and few.get("seen", set()) <= all_of_them.get("seen", set())


def _part(run: Run) -> float:
    """Return the share of the labels that a run learnt from: all, of a study without the flag."""
    return run.settings.get("label_fraction") or 1.0


def _named(groups: Sequence[Sequence[Judged]]) -> list[Method]:
    """Name each method by its study, and by whatever else tells it from its namesakes."""
    firsts = [group[0].run for group in groups]
    with_encoder = "encoder" in differing([run.recipe for run in firsts])
    with_part = len({_part(run) for run in firsts}) > 1
    names = []
    for run in firsts:
        differ = differing([other.recipe for other in firsts if other.study == run.study])
        if with_encoder:
            differ = ["encoder", *(name for name in differ if name != "encoder")]
        if with_part and "label_fraction" not in differ:
            differ = [*differ, "label_fraction"]
        names.append((run.study, [(name, run.recipe.get(name)) for name in differ]))
    shown = [", ".join([study, *filter(None, (_told(*s) for s in said))]) for study, said in names]
    methods = []
    for name, (study, said), group in zip(shown, names, groups, strict=True):
        if shown.count(name) > 1:  # what is not set must be told too
            name = ", ".join([study, *(_told(*s) or _not_told(*s) for s in said)])
        methods.append(Method(name, "h", group[0].run.recipe, tuple(group)))
    return methods


def _told(name: str, value: Any) -> str:
    """Write a setting as part of a method's name; "" for one that is not set.

    Example:
        >>> [_told("steps", 9), _told("encoder", "convnet"), _told("steps", None)]
        ['steps 9', 'convnet', '']
        >>> [_told("label_fraction", 0.1), _told("balanced", True), _told("balanced", False)]
        ['label fraction 0.1', 'balanced', '']
    """
    if value is None or value is False or value in ("", [], {}):
        return ""
    words = name.replace("_", " ")
    if value is True:
        return words
    said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return said if name == "encoder" else f"{words} {said}"


def _not_told(name: str, value: Any) -> str:
    how = "off" if value is False else "not set" if value is None else "empty"
    return f"{name.replace('_', ' ')} {how}"


def differing(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the settings that are not equal in all.

    Example:
        >>> differing([{"epochs": 3, "margin": 0.5}, {"epochs": 3}])
        ['margin']
    """
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    return [n for n in names if any(r.get(n) != recipes[0].get(n) for r in recipes)]


def _baselines(trained: Sequence[Method]) -> list[Method]:
    encoders: dict[Any, Method] = {}
    for method in trained:
        settings = method.runs[0].run.settings
        key = tuple(settings.get(name) or None for name in ("encoder", "cell", "pretrained"))
        encoders.setdefault(key, method)
    found = []
    for key, method in encoders.items():
        which = ", ".join(str(part) for part in key if part) if len(encoders) > 1 else ""
        for began in ("untrained", "start"):
            title = embedding_title(began) + (f" ({which})" if which else "")
            found.append(replace(method, name=title, embedding=began))
    for baseline in ("imagenet", "raw_pixels"):
        found.append(replace(trained[0], name=embedding_title(baseline), embedding=baseline))
    few_labels = any(label_rows(method) for method in trained)
    return [m for m in found if (label_rows(m) if few_labels else _is_judged(m))]


def _is_judged(method: Method) -> bool:
    """Tell whether there are numbers of it on the seen classes' test images."""
    return all(method.embedding in one.results.retrieval.get("test", {}) for one in method.runs)


def pooled(
    means: Collection[float],
    half: float = 0.0,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Pooled:
    """Average over seeds with a 95 % interval: label draws and seeds, added in quadrature.

    half² = half_draws² + (t · s / √seeds)², t of seeds - 1 degrees of freedom, s the standard
    deviation over seeds. The seeds share their draws of labels, so that more seeds narrow the
    second part alone.

    Args:
        means: One value a seed.
        half: Half the interval over label draws; 0 where nothing is drawn.
        within: Least and greatest value that there can be; the interval is cut off there.

    Returns:
        The mean with its interval.

    Example:
        >>> found = pooled([0.8, 0.9], half=0.1)
        >>> round(found.mean, 3), round(found.high - found.mean, 3)
        (0.85, 0.643)
    """
    from scipy.special import stdtrit

    values = np.asarray(means, np.float64)
    n = len(values)
    over_seeds = stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
    mean, half = float(values.mean()), math.hypot(half, over_seeds)
    low, high = max(mean - half, within[0]), min(mean + half, within[1])
    return Pooled(mean, low, high, tuple(values.tolist()))


def score(
    method: Method,
    find: Callable[[Judged], float | None],
    *,
    within: tuple[float, float] = (0.0, math.inf),
) -> Pooled | None:
    """Average a number over the method's seeds; None where a seed does not have it.

    Args:
        method: The method.
        find: From a run to the number or None; may raise KeyError.
        within: As in `pooled`.
    """
    try:
        found = [find(one) for one in method.runs]
    except KeyError:
        return None
    values = [value for value in found if value is not None]
    return pooled(values, within=within) if len(values) == len(found) else None


def label_rows(method: Method) -> list[MethodRow]:
    """Average the method's label-efficiency rows over its seeds.

    A number of labels that not every seed was judged at is left out.
    """
    runs = [
        {
            (row.set, row.classifier, row.labels): row
            for row in one.results.label_efficiency
            if row.embedding == method.embedding
        }
        for one in method.runs
    ]
    rows = []
    for key, first in runs[0].items():
        seeds = [run[key] for run in runs if key in run]
        if len(seeds) == len(runs):
            # Of an interval cut off at 0 or 1, the longer side is the whole half.
            halves = [max(row.mean - row.low, row.high - row.mean) for row in seeds]
            means = [row.mean for row in seeds]
            found = pooled(means, float(np.mean(halves)), within=(0.0, 1.0))
            rows.append(MethodRow(**{**asdict(first), **asdict(found), "embedding": method.name}))
    return rows
