"""Classes for other images, by a finished run; as CSV, Parquet and an EcoTaxa import file.

By the run's own classifier (softmax, arcface, rnn, finetune):
  `python -m experiments.predict RUN --data-dir NEW`

By a classifier on h, fitted on the few labels that a table gives to images of NEW:
  `python -m experiments.predict RUN --data-dir NEW --labels-from TABLE`

Without a label in NEW, on the labels of the run's own images: those it was given, those filled in
in RUN/label-next, and those of RUN/labels.csv, which `label RUN` writes. SVC, linear or kNN,
whichever cross-validates best; the accuracy to expect is told with its interval. Predictions of
other labels, or that you changed, are kept: the new ones have a number.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from experiments import cli, datasets, finished, labelling, newcomers, study
from experiments.config import AtLeast1, Devices, Reading, Share0, check_out
from jaxssl import analysis, models, training
from jaxssl import data as images_room
from jaxssl.analysis.tables import together
from jaxssl.errors import InputError
from jaxssl.files import is_kept

if TYPE_CHECKING:
    from experiments.finished import Finished


@dataclasses.dataclass(frozen=True)
class Predict(Reading, Devices):
    """The flags of prediction."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a run."""
    data_dir: str = ""
    """What to predict: a folder, zip or table of images, as in training."""
    by: Literal["auto", "own", "labels"] = "auto"
    """own: the run's classifier; labels: a classifier on h, fitted on labels; auto: the run's
    where it has one and NEW has no label."""
    propagate: bool = False
    """Let labels spread to alike images: the classifier learns from how all images of NEW lie."""
    out: str = ""
    """A file .csv, .parquet or .tsv (EcoTaxa's import file). Default: all three in
    RUN/predictions."""
    min_score: Share0[float] = 0.0
    """Images whose best class has a lower score stay unassigned."""
    map: bool = True
    """Draw the images on the run's map, coloured by what is predicted: a page in a folder beside
    the tables."""
    checkpoint: str = "best"
    """Which of the run's checkpoints: best, last or a step."""
    average_views: AtLeast1[Literal[1, 2, 4, 8] | None] = None
    """Average over the image turned by right angles (4) and mirrored too (8; 2: mirrored alone);
    takes as many times as long. Default: as the run was judged."""
    method: str | None = None
    """The Python file of a run whose method is not of this package; it is run."""


def main(config: Predict) -> None:
    """Predict: run, images, classifier, tables."""
    run = finished.open(config.run_dir, method=config.method)
    if not config.data_dir:
        raise InputError("--data-dir is missing: a folder, zip or table of images to predict")
    check_out(config.out, ".csv", ".parquet", ".tsv")
    study.start_devices(config)
    import jax

    from jaxssl import embedding

    images, report = labelling.open_images(run, config)
    print(report)
    placement = training.data_placement(jax.device_count())
    step = run.step(config.checkpoint)
    state = run.restore(step, placement)

    views = run.views(config.average_views)

    def of_all(output: Any) -> np.ndarray:
        output = models.average_views(output, views)
        encode = embedding.compile_output(run.method.model, output, placement)
        return embedding.embed_set(encode, state, images, placement, title="embedding")

    labelled = images.labels >= 0
    if config.by == "own" and run.method.logits is None:
        raise InputError(f"{run.folder} has no classifier of its own: give --labels-from a table")
    own = config.by == "own" or (config.by == "auto" and not labelled.any())
    own = own and run.method.logits is not None
    if own and config.propagate:
        raise InputError(
            "--propagate spreads labels, and the run's own classifier takes none: give "
            "--labels-from a table, or --by labels for the labels of the run's own images"
        )
    if own:
        assert run.method.logits is not None
        classes, vectors = run.record["outline"]["classes"], None
        logits = of_all(run.method.logits)
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        print(_told_by(run))
    else:
        vectors = of_all(run.method.encode)
        names = np.array(images.class_names, object)[images.labels[labelled]]
        classes, probabilities = _by_labels(run, config, vectors, labelled, names)
    gone = [name for name in run.record.get("left_out", ()) if name not in classes]
    if gone:
        print(
            f"never predicted: {', '.join(map(repr, gone[:8]))}{' ...' if len(gone) > 8 else ''}, "
            "of which the run had too few images to learn from"
        )
    best = probabilities.argmax(1)
    rows = [
        images_room.Prediction(
            id=name,
            label=classes[best[i]],
            score=float(min(probabilities[i].max(), 1.0)),
            path=images.paths[i],
            object_id=report.object_ids.get(name, ""),
            scores=dict(zip(classes, probabilities[i].tolist(), strict=True)),
        )
        for i, name in enumerate(images.ids)
    ]
    made = _made(config, own=own, step=step, views=views)
    places = _places(config, run, made)
    for path in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        assigned = images_room.write_predictions(path, rows, min_score=config.min_score, note=made)
        print(f"{assigned:,} of {len(rows):,} images assigned: {path}")
    if config.map:
        vectors = of_all(run.method.encode) if vectors is None else vectors
        sure = [row.label if row.score >= config.min_score else "" for row in rows]
        out = places[0].with_suffix("")
        about = {"checkpoint": step, "views": views}
        newcomers.show(run, about, images, vectors, out, config.data_dir, predicted=sure)


def _by_labels(
    run: Finished, config: Predict, vectors: np.ndarray, labelled: np.ndarray, names: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Fit on few labels, tell what to expect; return the classes, and probabilities of all."""
    known, names = _labels(run, config, vectors[labelled], names)
    found: analysis.FewLabels | analysis.Propagated
    if not config.propagate:
        found = analysis.fit_few_labels(known, names)
        probabilities = found.probabilities(vectors)
    else:
        every, rows = vectors, np.flatnonzero(labelled)
        if not len(rows):  # the run's own images have the labels
            every = np.concatenate([vectors, known])
            rows = np.arange(len(vectors), len(every))
        found = analysis.propagate_few_labels(every, rows, names)
        probabilities = found.probabilities[: len(vectors)]
    print(
        f"{found.kind} on h, fitted on {found.labels:,} labels of {len(found.classes)} classes: "
        f"balanced accuracy to expect {found.accuracy:.1%} "
        f"({found.low:.1%} to {found.high:.1%})"
    )
    return found.classes, probabilities


def _labels(
    run: Finished, config: Predict, vectors: np.ndarray, names: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labelled vectors: of the new images, or where none has a label the run's own."""
    if len(names):
        return vectors, names
    sets = analysis.read_tables(run.folder, embeddings=["h"])["h"]
    images = labelling.with_filled_in(together(sets), run.folder / "label-next")
    grown = run.folder / "labels.csv"
    if grown.is_file():
        images = labelling.with_table(images, grown)
    known = np.array(images.class_names, object)
    if not (known != "").any():
        raise InputError(
            "no image has a label, here or in the run: give --labels-from a table of images here, "
            f"or label some of the run's own: jaxssl label {shlex.quote(str(run.folder))}"
        )
    views = {table.metadata.get("views", 1) for table in sets.values()}
    if views != {run.views(config.average_views)}:
        raise InputError(
            f"the labels are the run's, whose h is averaged over {views.pop()} views: leave "
            "--average-views out"
        )
    kept = known != ""
    print(f"labels: of the run's own {kept.sum():,} images, since none is given for these")
    return images.vectors[kept], known[kept]


def _told_by(run: Finished) -> str:
    """Say what to expect of the run's classifier, from its test images."""
    path = run.folder / "results.json"
    results = analysis.Results.read(path) if path.exists() else None
    if results is None or results.classification is None:
        return "by the run's classifier, whose accuracy was not measured"
    share, n = results.classification.accuracy, results.sets["test"].images
    # Wilson 1927: right near 0 and 1 too.
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (
        f"by the run's classifier: accuracy to expect {share:.1%} ({middle - half:.1%} to "
        f"{middle + half:.1%}), as on its {n:,} test images"
    )


def _made(config: Predict, *, own: bool, step: int, views: int) -> str:
    """Say of what predictions are made: others of the same images must not replace them."""
    table = config.labels_from
    if table not in ("auto", "folders", "none"):
        table = f"{Path(table).expanduser().resolve()} {config.label_column}".strip()
    by = "own" if own else f"labels, {table}{', propagated' * config.propagate}"
    return f"step {step}, {views} views, by {by}, from a score of {config.min_score}"


def _places(config: Predict, run: Finished, made: str) -> list[Path]:
    """Name the files: those that are kept, changed by a person or of other labels, are passed."""
    if config.out:
        return [Path(config.out).expanduser()]
    first = run.folder / "predictions" / datasets.name_of(config.data_dir)
    for number in itertools.count(1):
        place = first if number == 1 else first.with_name(f"{first.name}-{number}")
        files = [place.with_name(place.name + ending) for ending in (".csv", ".parquet", ".tsv")]
        kept = [file for file in files if is_kept(file, made)]
        if not kept:
            return files
        print(f"{kept[0]} is kept: it is of other labels or settings, or was changed")
    raise AssertionError("there is always one more")


if __name__ == "__main__":
    cli.run(main, {"predict": Predict()})
