"""How every study is judged: embed all sets, compute every number, write the report.

The network's representation h stands beside two baselines in every table: raw pixels and the same
network before training.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from PIL import Image

from experiments.images import Data
from experiments.protocol import Protocol
from jaxssl.analysis import embeddings, evaluation, report, results
from jaxssl.augment.views import to_float
from jaxssl.data.images import ImageSet
from jaxssl.data.streams import eval_batches
from jaxssl.files import cache_dir as default_cache_dir
from jaxssl.files import read_lines as read_metrics
from jaxssl.models import Embedder
from jaxssl.training import processes
from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.devices import Placement
from jaxssl.training.runs import RunFolder, config_hash
from jaxssl.training.state import TrainState
from jaxssl.training.step import make_eval_step

RAW_PIXELS_SIDE = 32
# The same for every study: equal weights then give equal embeddings to the last bit.
EMBED_BATCH = 256
THUMBNAIL_SIDE = 64
Encode = Callable[[TrainState, Mapping[str, jax.Array], jax.Array], jax.Array]
# (model, images float32 [b, h, w, c]) -> one row an image
Output = Callable[[Any, jax.Array], jax.Array]


def compile_encode(
    model: Embedder,
    placement: Placement,
    output: Output = lambda model, images: model.encoder(images),
) -> Encode:
    """`(state, batch, key) -> h`, or another output, of a batch's images, in evaluation mode."""
    return make_eval_step(
        model, lambda model, batch, key: output(model, to_float(batch["image"])), placement
    )


def embed(encode: Encode, state: TrainState, images: ImageSet, placement: Placement) -> np.ndarray:
    """What `encode` makes of every image, float32 [n, d], in the set's order."""
    key = jax.random.key(0)  # evaluation draws nothing; a compiled step takes a key
    rows = []
    many = placement.device_count
    size = max(EMBED_BATCH // many, 1) * many
    for batch in eval_batches(images, batch_size=size, part=placement.part(size)):
        rows.append(jax.device_get(encode(state, placement.put(batch), key)))
    return np.concatenate(rows)[: len(images)]


def judge(
    config: Protocol,
    run: RunFolder,
    data: Data,
    encode: Encode,
    placement: Placement,
    checkpoints: Checkpoints,
    *,
    last: TrainState,
    untrained: TrainState,
    distance: Literal["euclidean", "angular"],
    training: Mapping[str, Any],
    classify: Encode | None = None,
) -> None:
    """Write `embeddings/`, `results.json` and `report/`; print the headline and where it is.

    Args:
      config: the study's flags.
      run: its open folder.
      data: its images.
      encode: the compiled `(state, batch, key) -> h`.
      placement: where batches go.
      checkpoints: the run's, to find the best step.
      last: the state training ended with.
      untrained: the state it began with.
      distance: the one the embedding was trained for.
      training: what `fit` returned, and what else stands beside the numbers.
      classify: the compiled `(state, batch, key) -> logits`, where the model is a classifier.
    """
    last_step = int(last.step)
    # Process 0 has written the last manifest; the others might look before it did.
    best_step = processes.from_first(checkpoints.best_step) or last_step
    states = {"last": last, "best": last}
    if best_step != last_step:
        states["best"], _ = checkpoints.restore(last, step=best_step)
    judged = {"test": data.test, **data.unseen}
    about = {
        "config_hash": config_hash(vars(config)),
        "layer": "h",
        "distance": distance,
        "checkpoint": {"best": best_step, "last": last_step}[config.judge],
    }
    seconds = {"training": training["seconds"]}
    record = {
        "protocol": {"seed": config.seed, "judged": config.judge, "layer": "h"},
        "training": {**training, "best_step": best_step, "last_step": last_step},
        "wall_seconds": seconds,
    }

    def embed_into(folder: str, state: TrainState, sets: Mapping[str, ImageSet]) -> None:
        for name, images in sets.items():
            vectors = embed(encode, state, images, placement)
            if processes.is_first():
                path = run.path / "embeddings" / folder / f"{name}.parquet"
                save_table(path, images, name, vectors, about)

    with _timed("embedding", seconds):
        every = {"train": data.train, "val": data.val, **judged}
        embed_into(".", states[config.judge], every)
        embed_into("untrained", untrained, judged)
        if best_step != last_step:
            other = "last" if config.judge == "best" else "best"
            embed_into(other, states[other], judged)
        logits = None
        if classify is not None:
            logits = embed(classify, states[config.judge], data.test, placement)
        if not processes.is_first():
            return
        for name, images in judged.items():
            pixels = about | {"layer": f"{RAW_PIXELS_SIDE} px grey", "distance": "euclidean"}
            path = run.path / "embeddings" / "raw_pixels" / f"{name}.parquet"
            save_table(path, images, name, raw_pixels(images), pixels)
        if logits is not None:
            record["classification"] = evaluation.classification(
                logits, data.test.labels, data.test.class_names
            )
    results.write_json(run.path / "results.json", record)
    with _timed("analysis", seconds):
        numbers = results.analyse(
            run.path,
            draws=config.draws,
            sizes=config.labels or None,
            progress=_say,
            cache=default_cache_dir() / "probes",
        )
    numbers["wall_seconds"] = seconds
    results.write_json(run.path / "results.json", results.plain(numbers))
    page = report.write_report(run.path)
    verdict = report.health(read_metrics(run.path / "metrics.jsonl"), numbers["spread"])
    print(f"\nhealth: {verdict['state']}. {verdict['text']}")
    if classify is not None:
        found = numbers["classification"]
        worst = min(found["per_class"], key=lambda name: found["per_class"][name])
        print(
            f"classifier: {found['accuracy']:.1%} of {len(data.test)} test images right; "
            f"fewest of {worst}, {found['per_class'][worst]:.1%}"
        )
    print(headline(numbers))
    print(f"report: {page}")


def raw_pixels(images: ImageSet) -> np.ndarray:
    """The baseline that knows nothing: grey pixels at no more than 32 x 32, float32 in [0, 1]."""

    def flat(image: np.ndarray) -> np.ndarray:
        grey = Image.fromarray(image.squeeze()).convert("L")
        side = min(RAW_PIXELS_SIDE, *grey.size)
        resized = grey.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(resized, np.float32).ravel() / 255

    return np.stack([flat(images[i]["image"]) for i in range(len(images))])


def headline(numbers: Mapping[str, Any]) -> str:
    """The few numbers that a run is about, as a small table for the terminal."""
    rows = [row for row in numbers["label_efficiency"] if row["classifier"] == "svc"]
    lines = []
    if "knn_accuracy" in numbers:
        share = numbers["knn_accuracy"]
        lines.append(f"kNN on the seen classes' test images (k = 200, T = .1): {share:.1%}")
    for name in dict.fromkeys(row["set"] for row in rows):
        here = [row for row in rows if row["set"] == name]
        labels = report.headline_labels(here)
        lines.append(f"\nbalanced accuracy on {name} classes (SVC, mean of draws)")
        lines.append(f"  {'labels':14}" + "".join(f"{n:>8}" for n in labels))
        for embedding in dict.fromkeys(row["embedding"] for row in here):
            means = {r["labels"]: r["mean"] for r in here if r["embedding"] == embedding}
            lines.append(f"  {embedding:14}" + "".join(f"{means[n]:>8.3f}" for n in labels))
    return "\n".join([*lines, ""])


def save_table(
    path: Path, images: ImageSet, split: str, vectors: np.ndarray, about: Mapping[str, Any]
) -> None:
    """Write an embedding table; `about` stands in its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The page shows pictures of the judged embedding alone: the others need none.
    with_pictures = path.parent.name not in ("untrained", "raw_pixels", "best", "last")
    table = embeddings.Embeddings(
        ids=images.ids,
        paths=images.paths,
        class_names=tuple(images.class_names[label] for label in images.labels),
        class_index=images.labels,
        split=(split,) * len(images),
        vectors=vectors,
        thumbnails=[_thumbnail(images[i]["image"]) for i in range(len(images))]
        if with_pictures
        else [],
    )
    embeddings.save(path, table, about)


def _thumbnail(image: np.ndarray) -> bytes:
    picture = Image.fromarray(image.squeeze())
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _say(stage: str) -> None:
    print(f"  {stage}", flush=True)


@contextmanager
def _timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"{stage} ...", flush=True)
    begin = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - begin
