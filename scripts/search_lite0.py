"""Settings for training on from ImageNet's Lite0: a small search on validation images.

    python scripts/search_lite0.py simclr --data-dir DIR --json LOG --trial freeze=block4

A trial is one pass over a third of the seen classes' training images at 96 px (wide protocol,
seed 0, batch 128). What is compared: kNN (k = 20, T = .1) of h on the seen classes' validation
images against that third; beside it the balanced accuracy of logistic regression on 300 labels of
the third (10 draws). A trial with no setting is the frozen network. The unseen classes and the
test images are not looked at. Trials are appended to the log; one that is there already is not
run again.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments import arcface, simclr, study
from jaxssl import analysis, embedding, files
from jaxssl import data as images_room
from jaxssl.analysis.sampling import stratified_sample
from jaxssl.training import runs
from jaxssl.training.state import model_state

PROGRAMS = {"simclr": (simclr, {}), "cosface": (arcface, {"kind": "cosface"})}
COMMON = {
    "image_size": 96,
    "color": "rgb",
    "encoder": "efficientnet_lite0",
    "pretrained": "auto",
    "batch_size": 128,
    "epochs": 1,
    "imagenet": False,
}


def parsed(kind: Any, words: list[str]) -> dict[str, Any]:
    """Read name=value in the type that the flag has."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        default = fields[name].default
        found[name] = text if isinstance(default, str) else ast.literal_eval(text)
    return found


def knn_and_linear(encode: Any, state: Any, data: Any, placement: Any) -> dict[str, float]:
    """Judge h on the validation images."""
    bank, val = (embedding.embed_set(encode, state, x, placement) for x in (data.train, data.val))
    labels, wanted = data.train.labels, data.val.labels
    knn = analysis.knn_accuracy(bank, labels, val, wanted, k=20)
    few = []
    for draw in range(10):
        rows = stratified_sample(labels, 300, np.random.default_rng(draw))
        few.append(few_labels(bank[rows], labels[rows], val, wanted))
    return {"knn": knn, "linear_300": float(np.mean(few))}


def few_labels(x: np.ndarray, y: np.ndarray, val: np.ndarray, wanted: np.ndarray) -> float:
    """Score logistic regression on the features standardised by those it learns from."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    return float(balanced_accuracy_score(wanted, model.predict(val)))


def run_trial(name: str, data_dir: str, trial: dict[str, Any]) -> dict[str, float]:
    """Train one trial, and judge it."""
    program, own = PROGRAMS[name]
    settings = dataclasses.replace(
        program.PRESETS["plankton-wide"], data_dir=data_dir, **COMMON | own | trial
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = dataclasses.replace(settings, run_dir=f"{folder}/run")
        with study.open(settings) as run:
            whole = study.load(run)
            part = images_room.label_fraction(whole.train, 1 / 3, seed=0)
            steps = len(part) // settings.batch_size
            data = dataclasses.replace(
                whole, train=part, steps_per_epoch=steps, total_steps=steps * settings.epochs
            )
            method = program.make_method(settings, data)
            encode = embedding.compile_output(method.model, method.encode, run.placement)
            if not trial:
                state = run.placement.replicate(model_state(method.model))
                return knn_and_linear(encode, state, data, run.placement)
            begin = time.monotonic()
            trained = study.train(run, data, method)
            seconds = time.monotonic() - begin
            found = knn_and_linear(encode, trained.states["last"], data, run.placement)
            return found | {"seconds": seconds}


def main() -> None:
    """Run the trials that the log has not yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=PROGRAMS)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--trial", nargs="*", action="append", default=[])
    options = parser.parse_args()
    kind = type(PROGRAMS[options.method][0].PRESETS["plankton-wide"])
    log = json.loads(options.json.read_text()) if options.json.exists() else runs.provenance()
    rows = log.setdefault("trials", [])
    for words in options.trial:
        trial = parsed(kind, words)
        known = [r for r in rows if (r["method"], r["settings"]) == (options.method, trial)]
        if known:
            continue
        row = {"method": options.method, "settings": trial}
        rows.append(row | run_trial(options.method, options.data_dir, trial))
        print(json.dumps(rows[-1]), flush=True)
        files.write_json(options.json, log)


if __name__ == "__main__":
    main()
