"""The report of a run: one page that opens from disk, with its figures and numbers beside it."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxssl.analysis import sections
from jaxssl.analysis.classification import classification
from jaxssl.analysis.page import FigureFiles, render
from jaxssl.analysis.run import Run, read_run
from jaxssl.analysis.sections import embedding_title, set_title
from jaxssl.files import read_list, write_text

STUDIES = {
    "simclr": "SimCLR",
    "supcon": "SupCon",
    "triplet": "Triplet",
    "arcface": "ArcFace",
    "cosface": "CosFace",
    "softmax": "Softmax",
    "rnn": "RNN",
    "lstm": "LSTM",
    "gru": "GRU",
}
AT_THE_MARGIN = (
    "The loss sits at the margin ({loss:.3f} of {margin:g}): all points coincide, positives at a "
    "mean squared distance of {d_ap:.3f} and negatives of {d_an:.3f}. Keep to easier triplets for "
    "longer (--hard-negatives-from, --hard-positives-from), or lower the --learning-rate."
)
# The settings a reader asks for first; all of them stand at the end of the page.
FIRST_SETTINGS = (
    "encoder", "image_size", "color", "batch_size", "epochs", "steps", "learning_rate",
    "temperature", "margin", "scale", "seed",
)  # fmt: skip


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Draws `report/index.html` from `results.json` and the tables; computes nothing anew.

    Each figure is on the page, and beside it as PNG with its numbers as JSON. What the run does not
    have (baselines, unseen classes, metrics, views, pictures) is a sentence in its place.

    Args:
        run_dir: A run folder, after `results.analyse`.

    Returns:
        The page's path.

    Raises:
        InputError: If the folder or one of its files cannot be used.
    """
    folder = Path(run_dir)
    run = read_run(folder)
    tables = run.tables["h"]
    out = folder / "report"
    out.mkdir(exist_ok=True)
    files = FigureFiles(out)
    page = render(
        "report.html.j2",
        **overview(folder, run),
        headlines=headlines(run.results),
        accuracies=_accuracies(run.results),
        # What the settings rule out is not missed on the page.
        has_unseen=run.settings.get("unseen") != [],
        has_views=run.settings.get("views") is not False,
        health=health(run.metrics, run.results.get("spread", {})),
        curves=sections.curves(run.results, files),
        classification=classification(run.results, files),
        training=sections.training(run.metrics, files),
        views=_inline_png(out / "views.png"),
        maps=sections.maps(tables, files),
        distances=sections.matrices(run.results, files),
        retrieval=sections.retrieval(run.results),
        exemplars=sections.exemplars(run.results, tables, files),
        skipped=read_list(folder / "skipped.json"),
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _accuracies(results: Mapping[str, Any]) -> dict[str, float]:
    """On the seen classes' test images, for a run that has no others."""
    found = {
        "its own classifier": results.get("classification", {}).get("accuracy"),
        "kNN on h (k = 200, T = .1)": results.get("knn_accuracy"),
    }
    return {name: share for name, share in found.items() if share is not None}


def headlines(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The SVC's balanced accuracy at a few sizes, every embedding beside h, for each unseen set.

    Args:
        results: `label_efficiency` and `sets` of `results.json`.

    Returns:
        One object a set: `set`, `classes` and `tiles`, one for each of `headline_labels`.
    """
    found = []
    svc = [row for row in results.get("label_efficiency", []) if row["classifier"] == "svc"]
    for name in dict.fromkeys(row["set"] for row in svc):
        rows = [row for row in svc if row["set"] == name]
        tiles = [
            _tile([row for row in rows if row["labels"] == labels])
            for labels in headline_labels(rows)
        ]
        classes = len(results["sets"][name]["classes"])
        found.append({"set": set_title(name), "classes": classes, "tiles": tiles})
    return found


def headline_labels(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """The few numbers of labels that a set's results are told by: of those measured, and all.

    Args:
        rows: of `label_efficiency`, of one set.

    Example:
        >>> headline_labels([{"labels": n} for n in (30, 40, 90, 100, 300)])
        [30, 90, 300]
        >>> headline_labels([{"labels": 100}, {"labels": 300}, {"labels": 499, "all": True}])
        [100, 300, 499]
    """
    measured = {row["labels"] for row in rows}
    wanted = {30, 90 if 90 in measured else 100, 300, 1000}
    return sorted(wanted & measured | {row["labels"] for row in rows if row.get("all")})


def _tile(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    best = max(row["mean"] for row in rows)
    bars = [
        {"name": embedding_title(row["embedding"]), "best": row["mean"] == best, **row}
        for row in rows
    ]
    return {"labels": rows[0]["labels"], "all": rows[0].get("all", False), "bars": bars}


def health(
    records: Sequence[Mapping[str, Any]], spread: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The embedding's health in words, from the last metrics and the spread of h.

    Args:
        records: Lines of `metrics.jsonl`; the last with `z_std` and `effective_rank` counts, and
            its `loss` where it has a `chance`. Of triplets, the last with `margin`, `loss`, `d_ap`
            and `d_an`.
        spread: By set, `std` and `effective_rank` of h (`results.spread`).

    Returns:
        `state` ("healthy", "at chance", "collapsed", "unknown"), `text` that says why, and
        `measured`: name -> {"std", "effective_rank"}.

    Example:
        >>> health([], {"test": {"std": 0.01, "effective_rank": 1.0}})["state"]
        'collapsed'
        >>> health([{"loss": 0.5, "margin": 0.5, "d_ap": 0.001, "d_an": 0.002}], {})["state"]
        'collapsed'
    """
    z = _last(records, "z_std", "effective_rank")
    triplets = _last(records, "margin", "loss", "d_ap", "d_an")
    measured = {f"h, {set_title(name)}": values for name, values in spread.items()}
    if z is not None:
        of_z = {"std": z["z_std"], "effective_rank": z["effective_rank"]}
        measured = {"z, training's end": of_z, **measured}
    # NaN compares false: it counts as the worse case.
    alive = all(v["std"] >= 0.1 and v["effective_rank"] >= 2 for v in measured.values())
    if triplets is not None and _coincide(triplets):
        state, text = "collapsed", AT_THE_MARGIN.format(**triplets)
    elif not measured:
        state, text = "unknown", "Neither metrics.jsonl nor results.json holds a spread."
    elif not alive:
        state, text = "collapsed", "Images fall on nearly one point or line."
    elif z is None or z.get("chance") is None or z.get("loss") is None:
        state, text = "healthy", "The embedding fills its space."
    else:
        state = "healthy" if z["loss"] <= 0.95 * z["chance"] else "at chance"
        text = f"The loss ends at {z['loss']:.2f}, where chance is {z['chance']:.2f}."
    return {"state": state, "text": text, "measured": measured}


def _last(records: Sequence[Mapping[str, Any]], *names: str) -> Mapping[str, Any] | None:
    return next((r for r in reversed(records) if all(r.get(n) is not None for n in names)), None)


def _coincide(row: Mapping[str, Any]) -> bool:
    """Whether all points are one, on the scale of the margin: the loss is then the margin."""
    # On PlanktonSet a switch to hard positives left distances of 12 and 3 % of the margin.
    near = 0.25 * row["margin"]
    return max(abs(row["loss"] - row["margin"]), row["d_ap"], row["d_an"]) <= near


def overview(folder: Path, run: Run) -> dict[str, Any]:
    """What a run is, in words: title, sets, facts, provenance, command, settings."""
    study = str(run.provenance.get("study", ""))
    dataset = str(run.settings.get("dataset", ""))
    method = STUDIES.get(study, study) or "Embedding"
    wanted = {name: run.settings.get(name) for name in FIRST_SETTINGS}
    facts = {name.replace("_", " "): v for name, v in wanted.items() if v not in (None, "")}
    return {
        "title": f"{method} on {dataset}" if dataset else method,
        "run_name": folder.resolve().name,
        "sets": {set_title(name): found for name, found in run.results.get("sets", {}).items()},
        "facts": facts | _initial_weights(run) | _what_is_judged(run.results),
        "provenance": {
            name: _words(run.provenance[name])
            for name in ("devices", "machine", "commit", "started", "versions")
            if run.provenance.get(name)
        }
        | _wall_time(run.results),
        "command": run.provenance.get("command"),
        "settings": {name: _words(value) for name, value in run.settings.items()},
    }


def _initial_weights(run: Run) -> dict[str, str]:
    pretrained = run.provenance.get("pretrained")
    return {"initial weights": str(pretrained)} if pretrained else {}


def _what_is_judged(results: Mapping[str, Any]) -> dict[str, str]:
    facts = {}
    if embedding := results.get("embedding"):
        facts["embedding"] = "layer {layer}, {dimensions} numbers, {distance} distance".format(
            **embedding
        )
    steps = results.get("training", {})
    if "last_step" in steps:
        judged = results.get("protocol", {}).get("judged", "last")
        facts["checkpoint"] = (
            f"step {steps[f'{judged}_step']:,} ({judged}) of {steps['last_step']:,}"
        )
    return facts


def _wall_time(results: Mapping[str, Any]) -> dict[str, str]:
    seconds = results.get("wall_seconds", {})
    stages = [f"{stage} {value:.0f} s" for stage, value in seconds.items() if value is not None]
    return {"wall time": ", ".join(stages)} if stages else {}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _inline_png(path: Path) -> str | None:
    if not path.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
