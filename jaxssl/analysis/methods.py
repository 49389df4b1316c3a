"""Finished runs as methods: which of them can be compared, which differ in their seed alone."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl.analysis.report import STUDIES
from jaxssl.analysis.run import Run, read_run
from jaxssl.analysis.sections import embedding_title
from jaxssl.errors import InputError
from jaxssl.files import read_object

# What must be equal for two numbers to be comparable, beside the images themselves.
PROTOCOL = ("dataset", "seen", "unseen", "lookalikes", "image_size", "color", "fit")
# Settings that say where a run is and how it was started, not what it learns.
_INCIDENTAL = frozenset(
    {
        *("seed", "run_dir", "data_dir", "preset", "on_bad_image", "log_every", "save_minutes"),
        *("tpu", "gpu", "cpu", "describe", "config", "keep_every"),
    }
)
_NEEDED = ("sets", "retrieval", "nmi", "silhouette", "separation")


class Method(NamedTuple):
    """One row of the comparison: a training recipe, or a baseline.

    Args:
        name: As shown; no two are alike.
        embedding: Its key in `results.json`: "h" or a baseline's.
        settings: What its runs have in common.
        runs: Run folder -> run, one a seed.
    """

    name: str
    embedding: str
    settings: dict[str, Any]
    runs: dict[Path, Run]


def read_methods(run_dirs: Sequence[str | os.PathLike[str]]) -> list[Method]:
    """Reads finished runs of one protocol; those that differ in their seed alone are one method.

    Args:
        run_dirs: Run folders, in the order in which they are shown.

    Returns:
        The methods, then one untrained network an encoder, then raw pixels. A baseline's numbers
        are those of the first method that has it, seed by seed.

    Raises:
        InputError: If a run is not finished, two have different protocols, or one method has a seed
            twice.
    """
    if not run_dirs:
        raise InputError("no runs given: name the folders of finished runs")
    groups: dict[str, dict[Path, Run]] = {}
    earlier: list[tuple[Path, Run, dict[str, Any]]] = []
    for folder in map(Path, run_dirs):
        run = _read(folder)
        mine = _protocol(run)
        for other, its_run, theirs in earlier:
            _check_same((other, its_run), (folder, run), differing([theirs, mine]))
        earlier.append((folder, run, mine))
        key = json.dumps([run.provenance.get("study"), recipe(run)], sort_keys=True)
        group = groups.setdefault(key, {})
        seed = run.settings.get("seed")
        for other, twin in group.items():
            if twin.settings.get("seed") == seed:
                raise InputError(f"{other} and {folder}: one method, both seed {seed}; leave one")
        group[folder] = run
    trained = _named(list(groups.values()))
    return [*trained, *_baselines(trained)]


def recipe(run: Run) -> dict[str, Any]:
    """The settings that make a method: all but the seed and where things are."""
    return {name: value for name, value in run.settings.items() if name not in _INCIDENTAL}


def _read(folder: Path) -> Run:
    run = read_run(folder)
    unseen = any(name.startswith("unseen") for name in run.tables["h"])
    needed = ("label_efficiency", *_NEEDED) if unseen else _NEEDED
    missing = [name for name in needed if not run.results.get(name)]
    if missing:
        raise InputError(
            f"{folder}: results.json has no {', '.join(missing)}; finish the run, or judge it "
            f"again with python -m experiments.report {folder}"
        )
    rows = read_object(folder / "linear_eval" / "results.json").get("rows", [])
    run.results["linear_eval"] = {row["embedding"]: row["linear"]["top"]["1"] for row in rows}
    return run._replace(tables={"h": run.tables["h"]})  # the baselines' vectors are large


def _protocol(run: Run) -> dict[str, Any]:
    images: dict[str, set[tuple[str, str]]] = {}
    for name, table in run.tables["h"].items():
        part = name if name.startswith("unseen") else "seen"  # the seed draws train, val and test
        images.setdefault(part, set()).update(zip(table.ids, table.class_names, strict=True))
    return {name: run.settings.get(name) for name in PROTOCOL} | {"data": images}


def _check_same(a: tuple[Path, Run], b: tuple[Path, Run], differ: list[str]) -> None:
    (folder, run), (other_folder, other) = a, b
    same_seed = run.settings.get("seed") == other.settings.get("seed")
    # The fingerprint sees the pixels, but also the split, which only equal seeds share.
    if not differ and same_seed and run.provenance.get("data") != other.provenance.get("data"):
        differ = ["data"]
    if differ:
        raise InputError(
            f"{folder} and {other_folder} differ in {', '.join(differ)}: their numbers cannot be "
            "compared; give runs of one protocol"
        )


def _named(groups: Sequence[dict[Path, Run]]) -> list[Method]:
    """A method is named by its study, and by whatever else tells it from its namesakes."""
    firsts = [next(iter(group.values())) for group in groups]
    studies = [str(run.provenance.get("study") or "embedding") for run in firsts]
    recipes = [recipe(run) for run in firsts]
    methods = []
    for study, mine, group in zip(studies, recipes, groups, strict=True):
        namesakes = [r for s, r in zip(studies, recipes, strict=True) if s == study]
        differ = differing(namesakes)
        if "encoder" in differing(recipes):
            differ = ["encoder", *(name for name in differ if name != "encoder")]
        told = [
            str(mine.get(n)) if n == "encoder" else f"{n.replace('_', ' ')} {mine.get(n)}"
            for n in differ
        ]
        name = ", ".join([STUDIES.get(study, study), *told])
        methods.append(Method(name, "h", mine, group))
    return methods


def differing(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not equal in all.

    Example:
        >>> differing([{"epochs": 3, "margin": 0.5}, {"epochs": 3}])
        ['margin']
    """
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    return [n for n in names if any(r.get(n) != recipes[0].get(n) for r in recipes)]


def _baselines(trained: Sequence[Method]) -> list[Method]:
    encoders: dict[Any, Method] = {}
    for method in trained:
        settings = method.settings
        key = tuple(settings.get(name) or None for name in ("encoder", "cell", "pretrained"))
        encoders.setdefault(key, method)
    found = []
    for key, method in encoders.items():
        which = ", ".join(str(part) for part in key if part) if len(encoders) > 1 else ""
        title = embedding_title("untrained") + (f" ({which})" if which else "")
        found.append(method._replace(name=title, embedding="untrained"))
    raw = trained[0]._replace(name=embedding_title("raw_pixels"), embedding="raw_pixels")
    few_labels = any(label_rows(method) for method in trained)
    return [m for m in (*found, raw) if (label_rows(m) if few_labels else _is_judged(m))]


def _is_judged(method: Method) -> bool:
    """Whether there are numbers of it on the seen classes' test images."""
    runs = method.runs.values()
    return all(method.embedding in run.results["retrieval"].get("test", {}) for run in runs)


def pooled(
    means: Sequence[float],
    half: float = 0.0,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> dict[str, Any]:
    """Mean over seeds with a 95 % interval: label draws and seeds, added in quadrature.

    half² = half_draws² + (t · s / √seeds)², t of seeds - 1 degrees of freedom, s the standard
    deviation over seeds. The seeds share their draws of labels, so that more seeds narrow the
    second part alone.

    Args:
        means: One value a seed.
        half: Half the interval over label draws; 0 where nothing is drawn.
        within: Least and greatest value that there can be; the interval is cut off there.

    Returns:
        `mean`, `low`, `high`, and `seeds`, the values themselves.

    Example:
        >>> found = pooled([0.8, 0.9], half=0.1)
        >>> round(found["mean"], 3), round(found["high"] - found["mean"], 3)
        (0.85, 0.643)
    """
    from scipy.special import stdtrit

    values = np.asarray(means, np.float64)
    n = len(values)
    over_seeds = stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
    mean, half = float(values.mean()), math.hypot(half, over_seeds)
    low, high = max(mean - half, within[0]), min(mean + half, within[1])
    return {"mean": mean, "low": low, "high": high, "seeds": values.tolist()}


def score(
    method: Method,
    find: Callable[[Mapping[str, Any]], Any],
    *,
    within: tuple[float, float] = (0.0, math.inf),
) -> dict[str, Any] | None:
    """A number of `results.json` over the method's seeds; None where a seed does not have it.

    Args:
        method: The method.
        find: From `results.json` to the number or None; may raise KeyError.
        within: As in `pooled`.
    """
    try:
        values = [find(run.results) for run in method.runs.values()]
    except KeyError:
        return None
    return None if any(value is None for value in values) else pooled(values, within=within)


def label_rows(method: Method) -> list[dict[str, Any]]:
    """The method's label-efficiency rows over its seeds, with its name as `embedding`.

    A number of labels that not every seed was judged at is left out.
    """
    runs = [
        {
            (row["set"], row["classifier"], row["labels"]): row
            for row in run.results["label_efficiency"]
            if row["embedding"] == method.embedding
        }
        for run in method.runs.values()
    ]
    rows = []
    for key, first in runs[0].items():
        seeds = [run[key] for run in runs if key in run]
        if len(seeds) == len(runs):
            # Of an interval cut off at 0 or 1, the longer side is the whole half.
            halves = [max(r["mean"] - r["low"], r["high"] - r["mean"]) for r in seeds]
            means = [row["mean"] for row in seeds]
            found = pooled(means, float(np.mean(halves)), within=(0.0, 1.0))
            rows.append({**first, "embedding": method.name, **found})
    return rows
