"""What makes few labels go far: a frozen network's h on the wide protocol, prepared in many ways.

Embed once a size (Lite0, 128 px: 20,281 images, eight views each), then try from the file:

    python scripts/frozen_probes.py embed --data-dir DIR --pixels 96 128 --out h
    python scripts/frozen_probes.py probe h-96.npz --json results/frozen-probes-96.json

Of a finished run, plain h with the same classifiers:

    python scripts/frozen_probes.py run RUN --json results/NAME.json

Choices are made one after the other on the seen classes: the whitening of the graph, layers, views,
the whitening of the features; by the mean of the balanced accuracy of propagated labels, 100, 300
and 1,000 of one half of the seen classes' training and validation images, whitened by the other.
Then every step's setting is judged on the unseen classes, whitening fitted on all seen images: SVC,
linear, kNN, label spreading and propagated labels, 2 draws for each of 3 seeds, and MAP@R.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results_table import without_places

LAYERS = ("block4", "block7", *(f"block{index}" for index in range(10, 16)), "head")
SEEDS = (0, 1, 2)
SIZES = (100, 300, 1000)
DRAWS = 2
CHOICES: dict[str, tuple[Any, ...]] = {
    "graph": (None, 0.05, 0.2, 0.5),
    "layers": (
        *("block14", "block10", "block13", "block15", "block10+block14", "block13+block14"),
        *("block14+block15", "block10+block13+block14", "block10+block14+block15"),
    ),
    "views": (1, 4, 8),
    "features": (None, 0.2, 0.5),
}


def embed(options: argparse.Namespace) -> None:
    """Write the channel means of every layer, averaged over 1, 4 and 8 views, of every image."""
    import jax
    import jax.numpy as jnp

    from experiments import datasets, frozen, networks
    from jaxssl import embedding, files, models
    from jaxssl.analysis.sampling import stratified_sample
    from jaxssl.training import data_placement, devices
    from jaxssl.training.state import model_state

    devices.keep_compiled(files.cache_dir() / "xla")
    for pixels in options.pixels:
        settings = dataclasses.replace(
            frozen.PRESETS["plankton-wide"],
            data_dir=options.data_dir,
            image_size=pixels,
            layer="+".join(LAYERS),
        )
        encoder = models.fold_batch_norm(networks.make_encoder(settings)[0])

        def of_views(encoder: Any, images: jax.Array) -> jax.Array:
            def add(total: Any, view: jax.Array) -> Any:
                means = jnp.concatenate(encoder.means(models.turned(images, view)), axis=1)
                total = total + means
                return total, None

            shape = (len(images), encoder.features)
            sums, after = [jnp.zeros(shape)], 0
            for views in (1, 4, 8):
                sums.append(jax.lax.scan(add, sums[-1], jnp.arange(after, views))[0])
                after = views
            return jnp.concatenate([s / n for s, n in zip(sums[1:], (1, 4, 8), strict=True)], 1)

        placement = data_placement(jax.device_count())
        encode = embedding.compile_output(encoder, of_views, placement)
        state = placement.replicate(model_state(encoder))
        data = datasets.read(settings, 0)
        rows = stratified_sample(data.train.labels, options.train, np.random.default_rng(0))
        parts = {**data.unseen, "val": data.val, "train": data.train.subset(rows)}
        h, classes, ids, split = [], [], [], []
        for part, images in parts.items():
            print(f"{pixels} px: {part}", flush=True)
            h.append(embedding.embed_set(encode, state, images, placement))
            classes += [images.class_names[label] for label in images.labels]
            ids += images.ids
            split += [part] * len(images)
        named = [f"{layer}/{views}" for views in (1, 4, 8) for layer in LAYERS]
        sizes = [m.shape[1] for m in jax.eval_shape(encoder.means, jnp.zeros((1, 64, 64, 3)))] * 3
        tables = np.split(np.concatenate(h), np.cumsum(sizes)[:-1], axis=1)
        np.savez(
            f"{options.out}-{pixels}.npz",
            ids=ids,
            classes=classes,
            split=split,
            **dict(zip(named, tables, strict=True)),
        )


@dataclasses.dataclass(frozen=True)
class Setting:
    """How h is made of what was embedded, and prepared for the classifiers.

    Attributes:
      layers: Joined by `+`; of several, each scaled to unit length.
      views: 1, 4 or 8, averaged.
      graph: Shrinkage of the whitening before the neighbour graph; None: h as it is.
      features: Shrinkage of the whitening before the classifiers; None: h as it is.
    """

    layers: str = "block14"
    views: int = 1
    graph: float | None = None
    features: float | None = None

    def h(self, file: Any, rows: np.ndarray) -> np.ndarray:
        """Return the representations of some of the images."""
        parts = [file[f"{layer}/{self.views}"][rows] for layer in self.layers.split("+")]
        if len(parts) == 1:
            return parts[0]
        return np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts])


def judge(
    setting: Setting, file: Any, judged: np.ndarray, others: np.ndarray, **options: Any
) -> list[dict[str, Any]]:
    """Run `label_efficiency` on the rows `judged`, whitened by the rows `others`."""
    from jaxssl.analysis.probes import TRANSDUCTIVE, label_efficiency
    from jaxssl.analysis.propagation import neighbour_graph, whitened_graph
    from jaxssl.analysis.whitening import fit_whitening

    h, other = setting.h(file, judged), setting.h(file, others)

    def whitened(shrinkage: float | None) -> np.ndarray:
        if shrinkage is None:
            return h
        units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (h, other)]
        return fit_whitening(units[1], shrinkage=shrinkage)(units[0])

    graph = None
    if {*options["classifiers"]} & {*TRANSDUCTIVE}:
        graph = neighbour_graph(h)
        if setting.graph is not None:
            graph = whitened_graph(h, other, shrinkage=setting.graph)
    labels = np.unique(file["classes"][judged], return_inverse=True)[1]
    return label_efficiency(whitened(setting.features), labels, graph=graph, **options)


def choose(file: Any) -> list[tuple[str, Setting, float]]:
    """Choose on the seen classes, step by step: (what was chosen, setting, accuracy)."""
    from jaxssl.analysis.sampling import stratified_sample

    seen = np.flatnonzero(file["split"] != "unseen")
    classes = file["classes"][seen]
    half = stratified_sample(classes, len(seen) // 2, np.random.default_rng(0))
    judged, others = seen[half], np.delete(seen, half)

    def accuracy(setting: Setting) -> float:
        options = {"sizes": SIZES, "draws": 3, "classifiers": ["propagated"]}
        rows = judge(setting, file, judged, others, **options)
        found = float(np.mean([row["mean"] for row in rows if not row.get("all")]))
        print(f"  seen classes: {found:.4f} {setting}", flush=True)
        return found

    setting, steps = Setting(), []
    for step, values in CHOICES.items():
        tried = [dataclasses.replace(setting, **{step: value}) for value in values]
        scores = [accuracy(one) for one in tried]
        setting = tried[int(np.argmax(scores))]
        steps.append((step, setting, max(scores)))
    return steps


def probe(options: argparse.Namespace) -> None:
    """Choose on the seen classes, judge on the unseen ones, write the log."""
    from jaxssl import files
    from jaxssl.analysis.retrieval import retrieval
    from jaxssl.training import runs

    file = dict(np.load(options.file))
    unseen, others = (np.flatnonzero(x) for x in _parts(file["split"]))
    steps = choose(file)
    best = steps[-1][1]
    wanted = {
        "plain": Setting(),
        "layers": Setting(layers=best.layers),
        "views": Setting(views=8),
        "whitening": Setting(graph=best.graph, features=best.features or best.graph),
        "best": best,
    }
    log = runs.provenance() | {"file": options.file.name, "seeds": SEEDS, "draws": DRAWS}
    log["chosen"] = [
        {"step": step, "setting": dataclasses.asdict(one), "seen_accuracy": score}
        for step, one, score in steps
    ]
    log["unseen"] = []
    kinds = ["svc", "linear", "knn", "spread", "propagated"]
    for name, setting in wanted.items():
        tables = [
            judge(
                setting, file, unseen, others, sizes=SIZES, draws=DRAWS, classifiers=kinds, seed=s
            )
            for s in SEEDS
        ]
        rows = []
        for same in zip(*tables, strict=True):
            means = [row["mean"] for row in same]
            rows.append(
                {k: same[0][k] for k in ("classifier", "labels")}
                | {"all": same[0].get("all", False), "mean": float(np.mean(means))}
                | {"sd_over_seeds": float(np.std(means, ddof=1)), "seeds": means}
            )
        labels = np.unique(file["classes"][unseen], return_inverse=True)[1]
        scores = retrieval(setting.h(file, unseen), labels, metric="angular")
        about = {"name": name, "setting": dataclasses.asdict(setting)}
        log["unseen"].append(about | {"retrieval": scores, "label_efficiency": rows})
        for kind in kinds:
            means = [f"{row['mean']:.3f}" for row in rows if row["classifier"] == kind]
            print(f"{name:10} {kind:10} {' '.join(means)}", flush=True)
        print(f"{name:10} {scores}", flush=True)
        files.write_json(options.json, log)


def of_run(options: argparse.Namespace) -> None:
    """Judge the h of a finished run on its unseen classes, or another set; write the log."""
    from jaxssl import files
    from jaxssl.analysis.probes import label_efficiency
    from jaxssl.analysis.propagation import whitened_graph
    from jaxssl.analysis.retrieval import retrieval
    from jaxssl.analysis.tables import read_tables
    from jaxssl.training import runs

    sets = read_tables(options.folder, embeddings=("h",))["h"]
    asked = sets[options.set]
    views = asked.metadata.get("views", 1)
    h, graph = asked.vectors[:, : options.values], None
    if options.average_views:
        h, views = _averaged(options, asked.ids)[:, : options.values], options.average_views
    else:
        graph = whitened_graph(h, sets["train"].vectors[:, : options.values])
    rows = label_efficiency(
        h,
        asked.labels,
        sizes=SIZES,
        draws=options.draws,
        classifiers=["svc", "linear", "knn", "spread", "propagated"],
        graph=graph,
    )
    for row in rows:
        print(f"{row['classifier']:10} {row['labels']:5} {row['mean']:.3f}", flush=True)
    log = runs.provenance() | {"run": files.read_record(options.folder), "views": views}
    log |= {"set": options.set, "values": h.shape[1], "whitened_graph": graph is not None}
    log["retrieval"] = retrieval(h, asked.labels, metric="angular")
    text = json.dumps(files.plain(log | {"label_efficiency": rows}), indent=1)
    files.write_text(options.json, without_places(text) + "\n")


def _averaged(options: argparse.Namespace, ids: Sequence[str]) -> np.ndarray:
    """Embed the set again, averaged over views, by the best checkpoint."""
    from experiments import datasets, finished
    from jaxssl import embedding, models

    run = finished.open(str(options.folder))
    data = datasets.read(run.images, run.config.seed)
    images = {"test": data.test, **data.unseen}[options.set]
    assert list(images.ids) == list(ids)
    output = models.average_views(run.method.encode, options.average_views)
    return embedding.embed(images, str(options.folder), output=output)


def _parts(split: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return split == "unseen", split != "unseen"


def main() -> None:
    """Embed, or probe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    embedding = commands.add_parser("embed")
    embedding.add_argument("--data-dir", required=True)
    embedding.add_argument("--pixels", type=int, nargs="+", default=[96, 128])
    embedding.add_argument(
        "--train", type=int, default=5000, help="of the seen classes' 10,843 training images"
    )
    embedding.add_argument("--out", type=Path, required=True)
    embedding.set_defaults(run=embed)
    probing = commands.add_parser("probe")
    probing.add_argument("file", type=Path)
    probing.add_argument("--json", type=Path, required=True)
    probing.set_defaults(run=probe)
    judging = commands.add_parser("run")
    judging.add_argument("folder", type=Path)
    judging.add_argument("--draws", type=int, default=5)
    judging.add_argument("--set", default="unseen", help="test: the seen classes', to choose by")
    judging.add_argument(
        "--average-views", type=int, help="embed again, averaged over so many; no whitened graph"
    )
    judging.add_argument(
        "--values", type=int, help="the first so many of h: where its start is beside it, the half"
    )
    judging.add_argument("--json", type=Path, required=True)
    judging.set_defaults(run=of_run)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
