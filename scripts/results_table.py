"""The tables of docs/pages/results.md, from run folders that differ in their seed alone.

`python scripts/results_table.py RUN RUN RUN --log results/NAME.json` also keeps the numbers.
`--classifiers FOLDER ...` is the table of what softmax, rnn and finetune runs start from and train,
`--linear-eval RUN ...` that of linear evaluation; runs that differ in their seed share a row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
from pathlib import Path
from typing import Any

from jaxssl.analysis.headlines import headline_labels
from jaxssl.analysis.names import EMBEDDINGS
from jaxssl.analysis.results import LabelRow, Results
from jaxssl.errors import InputError
from jaxssl.files import plain, read_object, read_record

CLASSIFIED = ("training", "classification")
MEASURED = ("training", "wall_seconds", "sets", "spread", "knn_accuracy", "retrieval", "nmi")
NAMES = EMBEDDINGS | {"h": f"**{EMBEDDINGS['h']} (h)**"}


def accuracies(results: Results, where: str, embedding: str, classifier: str) -> dict[str, float]:
    """Return accuracy by number of labels, "all" for the whole pool."""
    return {
        "all" if row.all else str(row.labels): row.mean
        for row in results.label_efficiency
        if (row.set, row.embedding, row.classifier) == (where, embedding, classifier)
    }


def main() -> None:
    """Read the runs, print the table, keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--classifiers", action="store_true")
    parser.add_argument("--linear-eval", action="store_true")
    arguments = parser.parse_args()
    try:
        records = [read_record(folder) for folder in arguments.runs]
        if arguments.classifiers or arguments.linear_eval:
            part = "linear_eval/results.json" if arguments.linear_eval else "results.json"
            runs = [
                {"config": record, **read_object(folder / part)}
                for record, folder in zip(records, arguments.runs, strict=True)
            ]
            show = print_linear_evaluation if arguments.linear_eval else print_classifiers
            show(runs)
            kept = ("rows", "epochs", "wall_seconds") if arguments.linear_eval else CLASSIFIED
            return write_log(arguments.log, runs, ("config", *kept))
        found = [Results.read(folder / "results.json") for folder in arguments.runs]
    except InputError as error:
        parser.error(str(error))
    methods = [(record["study"], record["recipe"]) for record in records]
    if any(other != methods[0] for other in methods):
        parser.error("the runs differ in more than their seed")
    print_label_efficiency(found)
    write_log(
        arguments.log,
        [
            {"config": record, **{name: plain(getattr(run, name)) for name in MEASURED}}
            | {"own_accuracy": own_accuracy(run)}
            | {"label_efficiency": [_row(row) for row in told(run)]}
            for record, run in zip(records, found, strict=True)
        ],
        ("config", *MEASURED, "own_accuracy", "label_efficiency"),
    )


def print_label_efficiency(runs: list[Results]) -> None:
    """Print balanced accuracy in % at a few numbers of labels, by set, classifier and embedding."""
    sets = dict.fromkeys(row.set for row in runs[0].label_efficiency)
    kinds = dict.fromkeys(row.classifier for row in runs[0].label_efficiency)
    counted = [row for row in runs[0].label_efficiency if not row.all]
    columns = [*map(str, headline_labels(counted, runs[0].label_sizes)), "all"]
    heads = " | ".join(f"{n} labels" for n in columns)
    print(f"| set | classifier | embedding | {heads} |")
    print("|---|---|---|" + "---|" * len(columns))
    for name, kind, (embedding, title) in itertools.product(sets, kinds, NAMES.items()):
        found = [accuracies(run, name, embedding, kind) for run in runs]
        if all(found):
            cells = [_mean_and_spread([scores[n] for scores in found]) for n in columns]
            print(f"| {name} | {kind} | {title} | {' | '.join(cells)} |")
    print_geometry(runs)
    for what, shares in (
        ("kNN on h", [run.knn_accuracy for run in runs]),
        ("the method's own classifier", [own_accuracy(run) for run in runs]),
    ):
        if None not in shares:
            print(f"\n{what}, the seen classes' test images: {_mean_and_spread(shares)}")
    seconds = [run.wall_seconds["training"] for run in runs if "training" in run.wall_seconds]
    print(f"\nseconds of training: {', '.join(f'{value:.0f}' for value in seconds)}")


def own_accuracy(run: Results) -> float | None:
    """Return the accuracy of what the method itself classifies with, if it does."""
    return run.classification.accuracy if run.classification else None


def print_geometry(runs: list[Results]) -> None:
    """Print what needs no classifier, where the runs have it."""
    measures = {
        "P@1": lambda run, name, e: run.retrieval[name][e].precision_at_1,
        "MAP@R": lambda run, name, e: run.retrieval[name][e].map_at_r,
        "NMI": lambda run, name, e: run.nmi[name][e],
    }
    if any(not run.retrieval or not run.nmi for run in runs):
        return
    print(f"\n| set | embedding | {' | '.join(measures)} |\n|---|---|---|---|---|")
    for name, (embedding, title) in itertools.product(runs[0].retrieval, NAMES.items()):
        if all(embedding in run.retrieval[name] for run in runs):
            cells = [
                _mean_and_spread([of(run, name, embedding) for run in runs])
                for of in measures.values()
            ]
            print(f"| {name} | {title} | {' | '.join(cells)} |")


def told(run: Results) -> list[LabelRow]:
    """Pick the rows at the numbers of labels that a set's results are told by."""
    every = run.label_efficiency
    by_set = {
        name: headline_labels([row for row in every if row.set == name], run.label_sizes)
        for name in {row.set for row in every}
    }
    return [row for row in every if row.labels in by_set[row.set]]


def _row(row: LabelRow) -> dict[str, Any]:
    """Copy a row without the usual remark that these are not all the labels."""
    return {name: value for name, value in plain(row).items() if value is not False}


def write_log(path: Path | None, runs: list[dict[str, Any]], keep: tuple[str, ...]) -> None:
    """Write the runs' settings, as they are, and numbers as JSON; nothing without a path."""
    if path is None:
        return
    kept = [
        {key: run[key] if key == "config" else _short(run[key]) for key in keep} for run in runs
    ]
    log = json.dumps(kept)
    log = re.sub(r'(\{"(?:set|embedding|step)")', r"\n\1", log)  # a row a line: changes can be read
    path.parent.mkdir(exist_ok=True)
    path.write_text(without_places(log) + "\n")


def without_places(log: str) -> str:
    """Drop where this machine keeps things from a log: a run's name says which it is."""
    return re.sub(r"/[\w./-]+/([\w.-]+)", r"\1", log)


def print_classifiers(runs: list[dict[str, Any]]) -> None:
    """Print top-1, top-3 and top-5 of the test images, by start and by what is trained."""
    groups: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for run in runs:
        facts = run["protocol"]
        settings = run["config"]["config"]
        key = (
            facts.get("start", run["config"]["study"]),
            facts.get("trained", "end to end"),
            f"{settings.get('label_fraction', 1.0):.0%}",
        )
        groups.setdefault(key, []).append(run["classification"]["top"])
    guesses = list(dict.fromkeys(n for tops in groups.values() for top in tops for n in top))
    print(f"| start | trained | labels | {' | '.join(f'top-{n}' for n in guesses)} | seeds |")
    print("|---|---|---|" + "---|" * (len(guesses) + 1))
    for key, tops in groups.items():
        cells = [_mean_and_spread([top[n] for top in tops]) for n in guesses]
        print(f"| {' | '.join((*key, *cells, str(len(tops))))} |")


def print_linear_evaluation(runs: list[dict[str, Any]]) -> None:
    """Print top-1, top-3 and top-5 of a linear classifier and kNN, by embedding."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for row in run["rows"]:
            groups.setdefault(row["embedding"], []).append(row)
    heads = [f"{how} top-{n}" for how in ("linear", "kNN") for n in ("1", "3", "5")]
    print(f"| embedding | {' | '.join(heads)} | seeds |")
    print("|---|" + "---|" * (len(heads) + 1))
    for embedding, rows in groups.items():
        cells = [
            _mean_and_spread([row[how]["top"][n] for row in rows])
            for how in ("linear", "knn")
            for n in ("1", "3", "5")
        ]
        print(f"| {' | '.join((NAMES.get(embedding, embedding), *cells, str(len(rows))))} |")


def _short(value: Any) -> Any:
    """Round to five digits after the point, which is more than is known."""
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return round(value, 5) if isinstance(value, float) else value


def _mean_and_spread(values: list[float]) -> str:
    """Tell shares in %: their mean and standard deviation."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
