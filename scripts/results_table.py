"""The README's table of label efficiency, from run folders that differ in their seed alone.

`python scripts/results_table.py RUN RUN RUN --log results/NAME.json` also keeps the numbers.
`--classifiers FOLDER ...` is the table of what softmax, rnn and finetune runs start from and train,
`--linear-eval RUN ...` that of linear evaluation; runs that differ in their seed share a row.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from jaxssl.analysis.report import headline_labels

NAMES = {
    "h": "**this embedding (h)**",
    "last": "h of the last epoch",
    "best": "h of the best epoch",
    "untrained": "untrained network",
    "raw_pixels": "raw pixels",
}


def accuracies(rows: list[dict[str, Any]], where: str, embedding: str) -> dict[str, float]:
    """SVC accuracy by number of labels, "all" for the whole pool."""
    return {
        "all" if row.get("all") else str(row["labels"]): row["mean"]
        for row in rows
        if (row["set"], row["embedding"], row["classifier"]) == (where, embedding, "svc")
    }


def main() -> None:
    """Read the runs, print the table, keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--classifiers", action="store_true")
    parser.add_argument("--linear-eval", action="store_true")
    arguments = parser.parse_args()
    part = "linear_eval/results.json" if arguments.linear_eval else "results.json"
    runs = []
    for folder in arguments.runs:
        record = json.loads((folder / "config.json").read_text())
        runs.append({"config": record, **json.loads((folder / part).read_text())})
    if arguments.classifiers:
        print_classifiers(runs)
        return write_log(arguments.log, runs, ("config", "training", "classification"))
    if arguments.linear_eval:
        print_linear_evaluation(runs)
        return write_log(arguments.log, runs, ("config", "rows", "epochs", "wall_seconds"))
    settings = [{**run["config"]["config"], "seed": 0, "run_dir": ""} for run in runs]
    if any(other != settings[0] for other in settings):
        parser.error("the runs differ in more than their seed")

    sets = dict.fromkeys(row["set"] for row in runs[0]["label_efficiency"])
    counted = [row for row in runs[0]["label_efficiency"] if not row.get("all")]
    columns = [*map(str, headline_labels(counted)), "all"]
    print(f"| set | embedding | {' | '.join(f'{n} labels' for n in columns)} |")
    print("|---|---|" + "---|" * len(columns))
    for name in sets:
        for embedding, title in NAMES.items():
            found = [accuracies(run["label_efficiency"], name, embedding) for run in runs]
            if not all(found):
                continue
            cells = [_mean_and_spread([scores[n] for scores in found]) for n in columns]
            print(f"| {name} | {title} | {' | '.join(cells)} |")
    for run in runs:
        every = run["label_efficiency"]
        run["label_efficiency"] = [
            row
            for row in every
            if row["labels"] in headline_labels([r for r in every if r["set"] == row["set"]])
        ]
    keep = ("config", "training", "wall_seconds", "label_efficiency", "sets", "spread")
    write_log(arguments.log, runs, keep)


def write_log(path: Path | None, runs: list[dict[str, Any]], keep: tuple[str, ...]) -> None:
    """The runs' settings and numbers as JSON; nothing without a path."""
    if path is None:
        return
    log = json.dumps(_short([{key: run[key] for key in keep} for run in runs]))
    log = re.sub(r'(\{"(?:set|embedding|step)")', r"\n\1", log)  # a row a line: changes can be read
    # Where this machine keeps things is nobody's business; the name of a run says which it is.
    log = re.sub(r"/[\w./-]+/([\w.-]+)", r"\1", log)
    path.parent.mkdir(exist_ok=True)
    path.write_text(log + "\n")


def print_classifiers(runs: list[dict[str, Any]]) -> None:
    """Top-1, top-3 and top-5 of the test images, by start and by what is trained."""
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
    """Top-1, top-3 and top-5 of a linear classifier and kNN, by embedding."""
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
    """The same with five digits after the point, which is more than is known."""
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return round(value, 5) if isinstance(value, float) else value


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}".replace("0.", ".")


if __name__ == "__main__":
    main()
