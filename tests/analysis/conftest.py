"""A small run folder as a training program leaves it, with names that attack page and plots."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxssl.analysis.embeddings import Embeddings
from jaxssl.analysis.measures import analyse
from jaxssl.analysis.report import write_report
from jaxssl.analysis.results import Classification, Facts
from jaxssl.analysis.tables import read_tables, save_tables

SEEN = ("<script>alert(1)</script>", "part<Crustacea")
CLASSIFICATION = Classification(
    accuracy=0.75,
    top={"1": 0.75, "3": 0.991},
    per_class={SEEN[0]: 0.875, SEEN[1]: 0.625},
    confusion=((7, 1), (3, 5)),
    classes=SEEN,
)
UNSEEN = ("a \"quoted\" & 'name'", r"$\frac$", "_two\nlines 珊瑚\x1b")
DEEP = 'unseen-<b>"deep" & $x'  # a set has the name that a person gave it


def table(rng, classes, split, count, *, d=6, pictures=True, first=0):
    """`count` points a class around one corner each, with 8 x 8 pictures."""
    labels = np.repeat(np.arange(len(classes)), count)
    centres = 3 * np.eye(d)[first : first + len(classes)]

    def png(label):
        out = io.BytesIO()
        Image.fromarray(np.full((8, 8), 40 + 60 * label, np.uint8)).save(out, "PNG")
        return out.getvalue()

    return Embeddings(
        vectors=centres[labels] + rng.normal(size=(len(labels), d)),
        ids=tuple(f"{split}/{classes[label]}/{i}.png" for i, label in enumerate(labels)),
        paths=("",) * len(labels),
        class_names=tuple(classes[label] for label in labels),
        class_index=labels.astype(np.int32),
        split=(split,) * len(labels),
        thumbnails=[png(label) for label in labels] if pictures else [],
        metadata={"layer": "h", "distance": "angular"},
    )


def unlabelled(table, rows=slice(None)):
    """The table with some labels taken away, all by default."""
    names, index = np.array(table.class_names, object), table.class_index.copy()
    names[rows], index[rows] = "", -1
    return dataclasses.replace(table, class_names=tuple(names), class_index=index)


def mapped(tables):
    """The tables with places on a map, which UMAP would take seconds for."""

    def placed(table):
        x, y = table.vectors[:, :2].T
        return dataclasses.replace(table, extra={"x_umap": x, "y_umap": y})

    h = {name: t if name == "val" else placed(t) for name, t in tables["h"].items()}
    return {**tables, "h": h}


def make_tables(*, unseen=UNSEEN, deep=False, baselines=("untrained", "raw_pixels")):
    """Embedding -> set -> table, as a training program makes them."""
    rng, tables = np.random.default_rng(0), {}
    for name in ("h", *baselines):
        pictures = name == "h"
        sets = {
            "train": table(rng, SEEN, "train", 16, pictures=pictures),
            "val": table(rng, SEEN, "val", 4, pictures=pictures),
            "test": table(rng, SEEN, "test", 8, pictures=pictures),
        }
        if unseen:
            sets["unseen"] = table(rng, unseen, "unseen", 12, pictures=pictures, first=2)
        if deep and name == "h":
            sets[DEEP] = table(rng, ("x", "y"), DEEP, 4, first=2)
        tables[name] = sets
    return tables


def write_record(folder, *, study="SimCLR", **settings):
    """`config.json` as a program writes it."""
    config = {"batch_size": 128, "encoder": "convnet", "pretrained": "", "seed": 0, "run_dir": "x"}
    config |= settings
    record = {
        "format": 2,
        "study": study,
        "program": "simclr",
        "dataset": "<b>plankton</b>",
        "config": config,
        "recipe": {n: v for n, v in config.items() if n not in ("seed", "run_dir", "processes")},
        "hash": "0123",
        "data": "x",
        "command": "jaxssl simclr --seen '<script>'",
        "versions": {"jax": "0.10.2"},
        "commit": "0123456789ab",
        "pretrained": "none: random initialisation",
        "devices": "1 x cpu",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(record))


METRICS = [
    {"step": s, "epoch": s / 4, "split": split, "time": 0.0, "loss": 6.0 / s, "chance": 5.5}
    | {"z_std": 0.9, "effective_rank": 4.0}
    for s in (1, 2, 3)
    for split in ("train", "val")
]


def write_run(folder, tables, *, facts=None, metrics=METRICS, page=True, **record):
    """The folder of a finished run, as a program leaves it; its results."""
    write_record(folder, **record)
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    (folder / "metrics.jsonl").write_text(lines)
    results = analyse(tables, facts, draws=2)
    results.write(folder / "results.json")
    save_tables(folder, tables)
    if page:
        write_report(folder, tables, results)
    return results


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a finished run with names that attack; tests only read it."""
    folder = tmp_path_factory.mktemp("run")
    skipped = [{"path": "x/<i>broken</i>.jpg", "reason": "truncated & bad"}]
    (folder / "skipped.json").write_text(json.dumps(skipped))
    facts = Facts(wall_seconds={"training": 12.0}, classification=CLASSIFICATION)
    write_run(folder, mapped(make_tables(deep=True)), facts=facts)
    return folder


@pytest.fixture(scope="session")
def tables(run: Path):
    """Its tables as they were read back."""
    return read_tables(run)
