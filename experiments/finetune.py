"""Fine-tuning: a finished run's encoder with a new classifier, on a part of the labels.

End to end on a tenth of the labels, from the run's weights:
  `python -m experiments.finetune runs/simclr-cifar10-... --label-fraction .1`

Only a linear layer on the frozen network, and the same two from random weights, for comparison:
  `python -m experiments.finetune RUN --freeze`
  `python -m experiments.finetune RUN --random`
  `python -m experiments.finetune RUN --random --freeze`

The images and their split are the run's; validation accuracy chooses the epoch. Top-1, top-3, top-5
and per-class accuracy on the test images stand in results.json under "classification";
`python scripts/results_table.py --classifiers FOLDER ...` sets several runs in one table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from experiments import cli, trained
from experiments.images import with_label_fraction

if TYPE_CHECKING:
    import jax
    import numpy as np

    from experiments.images import Data
    from experiments.trained import Trained
    from jaxssl.models import Embedder
    from jaxssl.training.checkpoint import Checkpoints
    from jaxssl.training.devices import Placement
    from jaxssl.training.runs import RunFolder
    from jaxssl.training.state import TrainState
    from jaxssl.training.step import Batch, Loss


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of fine-tuning."""

    start: tyro.conf.Positional[str] = ""
    """The folder of a run: its encoder, its images and their split."""
    checkpoint: str = "best"
    """Of the run: best (on validation), last, or a step."""
    random: bool = False
    """Start from random weights of the same encoder instead."""
    freeze: bool = False
    """Train the classifier alone; the encoder stays as it is, with its BatchNorm."""
    label_fraction: float = 0.1
    """Of the training labels, by class."""
    views: bool = True
    """Train on a random view of each image; --no-views: on the images as they are."""
    data_dir: str = ""
    """Where the images are; default: where they were."""
    batch_size: int = 64
    """Images a step, over all devices."""
    epochs: int = 50
    """Passes over the labelled images."""
    steps: int | None = None
    """End training after so many steps, then judge as usual."""
    learning_rate: float = 0.001
    """Of Adam."""
    seed: int = 0
    """Of the labels drawn, the classifier's (and random encoder's) weights, batches and views."""
    run_dir: str = ""
    """Folder of this one; the same again resumes. Default: runs/finetune-<dataset>-<time>."""
    evaluate_epochs: float = 1.0
    """Epochs between validations; a checkpoint follows each."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_minutes: float = 10.0
    """Longest time without a checkpoint."""
    tpu: bool = False
    """Demand a TPU."""
    gpu: bool = False
    """Demand a GPU."""
    cpu: bool = False
    """Stay on the CPU."""
    describe: bool = False
    """Print the model's table and end."""


# Settings of the run that are this one's own.
OWN = (
    *("batch_size", "epochs", "steps", "evaluate_epochs", "log_every", "save_minutes"),
    *("run_dir", "learning_rate"),
)
# What a resumed fine-tuning may change.
MAY_DIFFER = frozenset(
    {"data_dir", "run_dir", "steps", "log_every", "save_minutes", "tpu", "gpu", "cpu", "describe"}
)


def make_model(config: Config, run: Trained, placement: Placement) -> tuple[Embedder, str]:
    """The run's encoder under a new linear classifier, and in words what it starts as."""
    from flax import nnx

    from jaxssl.models import Classifier, Embedder, freeze

    # A trunk that the run froze learns here too: --freeze says what stays.
    settings = dataclasses.replace(run.config, freeze="none", seed=config.seed)
    encoder = run.program.make_model(settings).encoder
    start = "random weights"
    if not config.random:
        step = run.step(config.checkpoint)
        state = run.restore(step, placement)
        parts = (state.params, state.rest)
        nnx.update(encoder, *(part["encoder"] for part in parts if "encoder" in part))
        start = f"{run.title}, step {step} of {run.folder.resolve().name}"
    if config.freeze:
        freeze(encoder)
    rngs = nnx.Rngs(config.seed)
    return Embedder(encoder, Classifier(encoder.features, len(run.config.seen), rngs=rngs)), start


def main(config: Config) -> None:
    """Run, images, model, method, loop, evaluation."""
    run = trained.open_run(
        config.start, data_dir=config.data_dir, tpu=config.tpu, gpu=config.gpu, cpu=config.cpu
    )
    import jax
    import jax.numpy as jnp
    import optax

    from experiments import judging, protocol, study
    from jaxssl.data.streams import train_stream
    from jaxssl.training import devices
    from jaxssl.training.loop import fit
    from jaxssl.training.state import create_state
    from jaxssl.training.step import make_train_step

    # The run's settings, with the training of this one.
    settings = dataclasses.replace(run.config, **{name: getattr(config, name) for name in OWN})
    protocol.check_numbers(settings)
    placement = devices.data_placement(config.batch_size)
    model, start = make_model(config, run, placement)
    if config.describe:
        return protocol.print_model(settings, model)

    # Data.
    print(f"{'linear layer on' if config.freeze else 'end to end from'} {start}", flush=True)
    data = run.load_data()
    fraction = config.label_fraction
    labelled = with_label_fraction(data, fraction, seed=config.seed).train
    plan = protocol.plan(settings, dataclasses.replace(data, train=labelled))
    view = protocol.view_of(settings) if config.views else None

    # Method.
    def train(model: Embedder, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        _, logits = model(study.augmented(key, batch["image"], view))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        right = jnp.argmax(logits, axis=1) == batch["label"]
        return jnp.mean(losses), {"accuracy": jnp.mean(right)}

    classify = judging.compile_encode(model, placement, lambda model, images: model(images)[1])
    accuracies: list[float] = []

    def validate(state: TrainState) -> dict[str, float]:
        logits = judging.embed(classify, state, data.val, placement)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, data.val.labels)
        accuracies.append(float((logits.argmax(axis=1) == data.val.labels).mean()))
        return {"loss": float(losses.mean()), "accuracy": accuracies[-1]}

    # Loop and evaluation.
    optimizer = optax.adam(config.learning_rate)
    images = None
    if settings.resident:
        images = placement.reside((len(labelled), *labelled.shape), labelled.images)
    stream = functools.partial(
        train_stream,
        labelled,
        batch_size=config.batch_size,
        seed=config.seed,
        pixels=not settings.resident,
    )
    with (
        open_folder(config, run, start, data) as folder,
        checkpoints_by(accuracies, folder.path / "checkpoints") as checkpoints,
    ):
        last, training = fit(
            placement.replicate(create_state(model, optimizer)),
            make_train_step(model, optimizer, train, placement, images=images),
            lambda step: stream(start_step=step),
            validate,
            key=jax.random.key(config.seed),
            plan=plan,
            placement=placement,
            run=folder,
            checkpoints=checkpoints,
        )
        best_step = checkpoints.best_step() or int(last.step)
        best, _ = checkpoints.restore(last, step=best_step)
        logits = judging.embed(classify, best, data.test, placement)
        facts = {
            **{name: getattr(run.config, name) for name in ("dataset", "encoder")},
            "start": "random" if config.random else run.record.get("study"),
            "from": start,
            "trained": "linear layer" if config.freeze else "end to end",
            **{name: getattr(config, name) for name in ("label_fraction", "seed", "views")},
            "labels": len(labelled),
            "checkpoint": f"step {best_step} of {int(last.step)}, best validation accuracy",
        }
        write(folder, facts, training, logits, data)


def open_folder(config: Config, run: Trained, start: str, data: Data) -> RunFolder:
    """The folder of this fine-tuning, locked; checks a resumed one against this configuration."""
    from jaxssl.training import devices, runs

    folder = Path(config.run_dir or runs.default_run_dir("finetune", run.config.dataset))
    print(f"run folder: {folder}", flush=True)
    return runs.RunFolder(
        folder,
        dataclasses.asdict(config),
        may_differ=MAY_DIFFER,
        facts={
            "study": "finetune",
            "from": start,
            "data": data.fingerprint,
            "devices": devices.summary(),
            "trained_by": run.record,
        },
    )


def checkpoints_by(accuracies: Sequence[float], directory: Path) -> Checkpoints:
    """Checkpoints of which the best has the highest validation accuracy, not the lowest loss."""
    from jaxssl.training.checkpoint import Checkpoints

    class ByAccuracy(Checkpoints):
        def save(self, step: int, state: TrainState, facts: dict[str, Any]) -> None:
            validated = facts["score"] is not None
            super().save(step, state, facts | {"score": -accuracies[-1] if validated else None})

    return ByAccuracy(directory)


def write(
    run: RunFolder,
    protocol: Mapping[str, Any],
    training: Mapping[str, Any],
    logits: np.ndarray,
    data: Data,
) -> None:
    """`results.json` and `report/`; prints the headline."""
    from jaxssl import files
    from jaxssl.analysis import evaluation
    from jaxssl.files import write_json
    from jaxssl.training import devices, runs

    found = evaluation.classification(logits, data.test.labels, data.test.class_names)
    results = {
        "protocol": protocol,
        "training": training,
        "classification": found,
        "wall_seconds": {"training": training["seconds"]},
        "devices": devices.summary(),
    }
    page = evaluation.write_page(
        run.path / "report",
        results | (provenance := runs.provenance()),
        title=f"Fine-tuning: {protocol['trained']} from {protocol['from']}",
        records=files.read_lines(run.path / "metrics.jsonl"),
    )
    write_json(run.path / "results.json", results | provenance)
    shares = ", ".join(f"top-{n} {share:.1%}" for n, share in found["top"].items())
    print(f"{len(data.test):,} test images: {shares}\nreport: {page}")


if __name__ == "__main__":
    cli.run(main, {"finetune": Config()})
