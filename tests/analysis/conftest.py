"""A small run folder as a training program leaves it, with names that attack page and plots."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxssl.analysis.embeddings import Embeddings, save

SEEN = ("<script>alert(1)</script>", "part<Crustacea")
CLASSIFICATION = {
    "accuracy": 0.75,
    "per_class": {SEEN[0]: 0.875, SEEN[1]: 0.625},
    "confusion": [[7, 1], [3, 5]],
    "classes": list(SEEN),
    "top": {"1": 0.75, "3": 0.991},
}
UNSEEN = ("a \"quoted\" & 'name'", r"$\frac$", "_two\nlines 珊瑚\x1b")


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


def write_run(folder, *, unseen=UNSEEN, baselines=("untrained", "raw_pixels"), record=True):
    """Writes the run folder; without `record`, only the embedding tables."""
    rng = np.random.default_rng(0)
    for name in ("", *baselines):
        pictures = not name
        place = folder / "embeddings" / name
        save(place / "train.parquet", table(rng, SEEN, "train", 16, pictures=pictures))
        save(place / "val.parquet", table(rng, SEEN, "val", 4, pictures=pictures))
        save(place / "test.parquet", table(rng, SEEN, "test", 8, pictures=pictures))
        if unseen:
            here = table(rng, unseen, "unseen", 12, pictures=pictures, first=2)
            save(place / "unseen.parquet", here)
    if not record:
        return folder
    steps = [
        {"step": s, "epoch": s / 4, "split": split, "time": 0.0, "loss": 6.0 / s, "chance": 5.5}
        | {"z_std": 0.9, "effective_rank": 4.0}
        for s in (1, 2, 3)
        for split in ("train", "val")
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    config = {"dataset": "<b>plankton</b>", "batch_size": 128, "encoder": "convnet"}
    config["pretrained"] = ""
    provenance = {
        "study": "simclr",
        "command": "python -m experiments.simclr --seen '<script>'",
        "versions": {"jax": "0.10.2"},
        "commit": "0123456789ab",
        "pretrained": "none: random initialisation",
        "devices": "1 x cpu",
    }
    (folder / "config.json").write_text(json.dumps({"config": config, **provenance}))
    results = {"wall_seconds": {"training": 12.0}, "classification": CLASSIFICATION}
    (folder / "results.json").write_text(json.dumps(results))
    skipped = [{"path": "x/<i>broken</i>.jpg", "reason": "truncated & bad"}]
    (folder / "skipped.json").write_text(json.dumps(skipped))
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The run folder after `analyse` and `write_report`; tests only read it."""
    from jaxssl.analysis.report import write_report
    from jaxssl.analysis.results import analyse

    folder = write_run(tmp_path_factory.mktemp("run"))
    analyse(folder, draws=2)
    write_report(folder)
    return folder
