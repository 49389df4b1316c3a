"""A study in five verbs: open, load, train, embed, report.

Data flows one way: flags to images (`load`), images and method to a state (`train`), state and
images to tables of embeddings (`embed`), tables to numbers and a page (`report`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import cli, config, datasets
from jaxssl import analysis, augment, files, models, training
from jaxssl import data as images_room
from jaxssl.analysis.health import health
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments.datasets import Data
    from experiments.finished import Finished
    from jaxssl.data import ImageSet

KNN_BANK = 2000
# Hears the numbers of every validation; what it raises ends the run.
OnValidation = Callable[[Mapping[str, float]], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """A program that runs: its flags, its devices, and what it must close at its end.

    Attributes:
      config: The program's flags.
      placement: Where batches and state live.
      start: The finished run that it starts from, whose images are its images; None: its own.
      closing: Closes the run folder and the checkpoints.
    """

    config: Any
    placement: training.Placement
    start: Finished | None
    closing: contextlib.ExitStack

    @property
    def images(self) -> config.Images:
        """Return the flags that say which images."""
        return self.start.images if self.start else self.config


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training ends with.

    Attributes:
      method: What was trained.
      folder: The open run folder.
      states: "last" and "best" (by `method.best` on validation), which may be one.
      facts: What `fit` measured, with the steps of both.
      untrained: The network with random weights; None: as the method began.
    """

    method: training.Method
    folder: training.RunFolder
    states: Mapping[str, training.TrainState]
    facts: Mapping[str, Any]
    untrained: training.TrainState | None = None


@contextlib.contextmanager
def open(settings: Any, start: Finished | None = None) -> Iterator[Run]:
    """Check the flags, find the processes and the devices, and say what will happen.

    The run folder, locked in `train`, is let go at the end.

    Args:
      settings: The program's flags.
      start: The finished run that this one starts from.
    """
    start_devices(settings)
    import jax

    from jaxssl.training import devices

    source = start.images if start else settings
    length = "not trained"
    if isinstance(settings, config.Training):
        many = f"{settings.epochs} epochs" if settings.steps is None else f"{settings.steps} steps"
        length = f"{many} in batches of {settings.batch_size}"
    color = f"{source.image_size} px {source.color}"
    network = f"{settings.encoder}, " if hasattr(settings, "encoder") else ""
    print(
        f"{settings.title} on {source.dataset}: {network}{length} at {color}, on "
        f"{devices.summary()}",
        flush=True,
    )
    placement = training.data_placement(getattr(settings, "batch_size", jax.device_count()))
    with contextlib.ExitStack() as closing:
        yield Run(settings, placement, start, closing)


def load(run: Run, *, labels: bool = False) -> Data:
    """Read the images and split them; refuse a batch that they cannot fill.

    Args:
      run: From `open`.
      labels: Whether the method learns from labels: images without one are then left out.
    """
    settings = run.config
    data = run.start.load_data() if run.start else datasets.read(run.images, settings.seed)
    if labels:
        data = datasets.only_labelled(data, settings.title)
    fraction = getattr(settings, "label_fraction", 1.0)
    data = datasets.with_label_fraction(data, fraction, seed=settings.seed)
    if not isinstance(settings, config.Training):
        return data
    per_epoch = len(data.train) // settings.batch_size
    if not per_epoch:
        raise InputError(
            f"--batch-size {settings.batch_size} is larger than the {len(data.train)} training "
            "images: lower it, or name more --seen classes"
        )
    return dataclasses.replace(
        data, steps_per_epoch=per_epoch, total_steps=settings.epochs * per_epoch
    )


def make_encoder(settings: Any) -> tuple[Any, str, models.Rngs]:
    """Make the encoder f that the flags name.

    Returns:
      The encoder; in words, what its weights are; and the source of random weights after it.
    """
    rngs = models.Rngs(settings.seed)
    encoder = models.make_encoder(
        settings.encoder,
        image_size=settings.image_size,
        channels=settings.channels,
        negative_slope=0.01 if settings.leaky_relu else 0.0,
        width=settings.width,
        layer=settings.layer or None,
        dtype=dtype(settings),
        rngs=rngs,
    )
    start, frozen = "random weights; no --pretrained file given", settings.frozen_until
    if settings.pretrained:
        start = str(models.load_pretrained(encoder, settings.pretrained))
    if frozen == "trunk":
        models.freeze(
            getattr(encoder, "trunk", encoder), adapt_statistics=settings.adapt_statistics
        )
        start += "; its trunk is frozen"
    elif frozen != "none":
        until = int(frozen) if frozen.lstrip("-").isdecimal() else frozen
        models.freeze(encoder, until=until, adapt_statistics=settings.adapt_statistics)
        start += f"; its blocks up to {frozen} are frozen"
    return encoder, start, rngs


def dtype(settings: Any) -> Any:
    """Return what --bfloat16 asks to compute in."""
    import jax.numpy as jnp

    return jnp.bfloat16 if settings.bfloat16 else jnp.float32


def make_optimizer(
    settings: config.Optimization, data: Data, model: Any, encoder: Any = None
) -> Any:
    """Make the optimizer that the flags name, over the length of the training.

    Args:
      settings: The flags.
      data: Says how long the training is.
      model: Whose parameters move.
      encoder: The part of it whose blocks --layer-decay tells apart; None: `model.encoder`.
    """
    import jax
    import optax

    cosine = settings.schedule == "cosine"
    optimizer = training.make_optimizer(
        settings.optimizer,
        learning_rate=settings.learning_rate,
        total_steps=data.total_steps,
        schedule=settings.schedule,
        warmup_steps=round(settings.warmup * data.total_steps) if cosine else 0,
        weight_decay=settings.weight_decay,
    )
    if settings.layer_decay == 1:
        return optimizer
    blocks = model.encoder if encoder is None else encoder
    scales = models.learning_rate_scales(model, blocks, settings.layer_decay)
    scaled = optax.stateless(
        lambda updates, _: jax.tree.map(lambda update, scale: update * scale, updates, scales)
    )
    return optax.chain(optimizer, scaled)


def train(
    run: Run, data: Data, method: training.Method, on_validation: OnValidation | None = None
) -> Trained:
    """Train from wherever the run folder stands.

    Args:
      run: From `open`.
      data: From `load`.
      method: What to train.
      on_validation: Told every validation; may end the run by raising.
    """
    import jax

    from jaxssl.training import processes

    settings, placement = run.config, run.placement
    plan = _plan(settings, data, method)
    stream = functools.partial(
        images_room.train_stream,
        data.train,
        batch_size=settings.batch_size,
        seed=settings.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        pixels=not settings.resident,
        **method.sampling,
    )
    stream()  # batches that cannot be drawn are refused before anything is written
    print(f"encoder: {method.start}", flush=True)
    if processes.count() > 1:
        _check_together(data, method, on_validation)
        placement.meet()
    validate = _validation(run, data, method, plan)

    def evaluate(state: training.TrainState) -> dict[str, float]:
        row = validate(state)
        if on_validation is not None:
            on_validation(row)
        return row

    folder = run.closing.enter_context(_run_folder(run, data, method))
    every = round(settings.keep_every * plan.steps_per_epoch)
    checkpoints = run.closing.enter_context(
        training.Checkpoints(folder.path / "checkpoints", keep_every=every)
    )
    if processes.is_first():
        _save_what_goes_in(folder.path, data, settings.seed)
    resident = None
    if settings.resident:
        shape = (len(data.train), *data.train.shape)
        resident = placement.reside(shape, data.train.images)
    step = training.make_train_step(method, placement, images=resident)
    key = jax.random.key(settings.seed)
    last, facts = training.fit(
        placement.replicate(training.create_state(method)),
        training.Work(step, lambda at: stream(start_step=at), evaluate, key, method.score),
        plan=plan,
        placement=placement,
        run=folder,
        checkpoints=checkpoints,
    )
    last_step = int(last.step)
    # Process 0 has written the last manifest; the others might look before it did.
    best_step = processes.from_first(checkpoints.best_step) or last_step
    best = last if best_step == last_step else checkpoints.restore(last, step=best_step)[0]
    facts = {**facts, "best": list(method.best), "best_step": best_step, "last_step": last_step}
    return Trained(method, folder, {"last": last, "best": best}, facts)


def not_trained(
    run: Run,
    data: Data,
    method: training.Method,
    make_method: Callable[[Any, Data], training.Method],
) -> Trained:
    """Open the run folder for a network that is judged as it is.

    Args:
      run: From `open`.
      data: From `load`.
      method: The network.
      make_method: Makes it; with random weights it is the untrained baseline.
    """
    print(f"encoder: {method.start}", flush=True)
    folder = run.closing.enter_context(_run_folder(run, data, method))
    state = run.placement.replicate(training.create_state(method))
    random = make_method(run.config.for_structure(), data)
    return Trained(
        method,
        folder,
        {"last": state, "best": state},
        {"seconds": 0.0, "best_step": 0, "last_step": 0},
        run.placement.replicate(training.create_state(random)),
    )


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What is reported.

    Attributes:
      folder: Of the run.
      tables: Embedding -> set -> table.
      facts: What training knows beside them.
    """

    folder: Path
    tables: analysis.Tables
    facts: analysis.Facts


def embed(run: Run, data: Data, trained: Trained) -> Embedded | None:
    """Embed every set by the judged state, the other one, the untrained network and raw pixels.

    Returns:
      The tables of embeddings, with what training knows beside them; None in other processes than
      the first.
    """
    from jaxssl import embedding
    from jaxssl.training import processes

    settings, placement, method = run.config, run.placement, trained.method
    judged = {name: x for name, x in {"test": data.test, **data.unseen}.items() if len(x)}
    judge, other = settings.judge, "last" if settings.judge == "best" else "best"
    wanted = {
        "h": (trained.states[judge], {"train": data.train, "val": data.val, **judged}),
        "untrained": (trained.untrained or trained.states[judge], judged),
    }
    if trained.states["last"] is not trained.states["best"]:
        wanted[other] = (trained.states[other], judged)
    about = {
        "config_hash": config.hash_of(_recipe(run)),
        "layer": "h",
        "distance": method.distance,
        "checkpoint": trained.facts[f"{judge}_step"],
    }
    begin = time.monotonic()
    print("embedding ...", flush=True)
    if trained.untrained is None:
        wanted["untrained"] = (placement.replicate(training.create_state(method)), judged)
    encode = embedding.compile_output(method.model, method.encode, placement)
    vectors = {
        name: {part: embedding.embed_set(encode, state, x, placement) for part, x in sets.items()}
        for name, (state, sets) in wanted.items()
    }
    logits = None
    if method.logits is not None:
        classify = embedding.compile_output(method.model, method.logits, placement)
        logits = embedding.embed_set(classify, trained.states[judge], data.test, placement)
    if not processes.is_first():
        return None
    tables = {
        name: {
            part: table_of(x, part, vectors[name][part], about, pictures=name == "h")
            for part, x in sets.items()
        }
        for name, (_, sets) in wanted.items()
    }
    pixels = about | {"layer": "32 px grey", "distance": "euclidean"}
    tables["raw_pixels"] = {
        part: table_of(x, part, images_room.raw_pixels(x), pixels) for part, x in judged.items()
    }
    from experiments import frozen  # a study itself, which is made of these verbs

    tables |= frozen.baseline(run, judged, about)
    names, labels = data.test.class_names, data.test.labels
    found = None if logits is None else analysis.classification(logits, labels, names)
    facts = analysis.Facts(
        protocol={
            "seed": settings.seed,
            "judged": judge,
            "layer": "h",
            "training_images": len(data.train),
        },
        training=trained.facts,
        classification=found,
        wall_seconds={
            "training": trained.facts["seconds"],
            "embedding": time.monotonic() - begin,
        },
    )
    return Embedded(trained.folder.path, tables, facts)


def report(embedded: Embedded | None, *, draws: int, labels: Sequence[int] = ()) -> None:
    """Write the tables, `results.json` and `report/`; print the headline and where it is.

    Args:
      embedded: From `embed`; None does nothing.
      draws: Random draws of labels behind each point of the label-efficiency curves.
      labels: Numbers of labels on them; none: those of `analysis.label_efficiency`.
    """
    if embedded is None:
        return
    begin, folder = time.monotonic(), embedded.folder
    print("analysis ...", flush=True)
    results = analysis.analyse(
        embedded.tables,
        embedded.facts,
        draws=draws,
        sizes=labels or None,
        progress=lambda stage: print(f"  {stage}", flush=True),
        cache=files.cache_dir() / "probes",
    )
    print("  UMAP", flush=True)
    tables = analysis.with_map(embedded.tables)
    analysis.save_tables(folder, tables)
    seconds = {**results.wall_seconds, "analysis": time.monotonic() - begin}
    results = dataclasses.replace(results, wall_seconds=seconds)
    results.write(folder / "results.json")
    page = analysis.write_report(folder, tables, results)
    verdict = health(files.read_lines(folder / "metrics.jsonl"), results.spread)
    print(f"\nembedding: {verdict.state}. {verdict.text}")
    print(analysis.headline(results))
    print(f"report: {page}")


def table_of(
    images: ImageSet,
    split: str,
    vectors: np.ndarray,
    about: Mapping[str, Any],
    *,
    pictures: bool = False,
) -> analysis.Embeddings:
    """Make a table of a set and its vectors; `about` stands in its metadata."""
    return analysis.Embeddings(
        ids=images.ids,
        paths=images.paths,
        class_names=tuple(images.class_names[i] if i >= 0 else "" for i in images.labels),
        class_index=images.labels,
        split=(split,) * len(images),
        vectors=vectors,
        thumbnails=images_room.thumbnails(images) if pictures else [],
        metadata=dict(about),
    )


# The parts of `open` and `train`.


def start_devices(settings: config.Devices) -> None:
    """Check the flags' ranges; find the other processes and the platform.

    Compiled programs are kept on disk from here on.
    """
    from jaxssl.training import devices, processes

    config.check_ranges(settings)
    chosen = [name for name in ("tpu", "gpu", "cpu") if getattr(settings, name)]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)} exclude each other: give one")
    if isinstance(settings, config.Processes):
        processes.join(settings.coordinator, settings.processes, settings.process)
        own = {name for name, scope in config.scopes(type(settings)).items() if scope.own}
        shared = {config.flag(n): v for n, v in vars(settings).items() if n not in own}
        processes.check_same(shared, "start all processes with the same flags")
    devices.require(chosen[0] if chosen else None)
    devices.keep_compiled(files.cache_dir() / "xla")


def _plan(settings: config.Training, data: Data, method: training.Method) -> training.Plan:
    """Plan when the loop evaluates, saves and ends."""
    import jax

    # A checkpoint is saved with each validation: as often as one is to be kept.
    evaluate_epochs = min(settings.evaluate_epochs, settings.keep_every or math.inf)
    return training.Plan(
        total_steps=min(data.total_steps, settings.steps or data.total_steps),
        steps_per_epoch=data.steps_per_epoch,
        evaluate_every=max(1, round(evaluate_epochs * data.steps_per_epoch)),
        log_every=settings.log_every,
        save_seconds=60 * settings.save_minutes,
        patience=method.patience,
        # XLA runs a convolution inside a loop on a CPU 3 to 16 times slower than outside of it
        # (scripts/benchmarks/simclr_step.py), where host and device are one.
        steps_per_dispatch=1 if jax.default_backend() == "cpu" else settings.steps_per_dispatch,
    )


def _recipe(run: Run) -> dict[str, Any]:
    """Pick the settings that make the method: the program's, and those of the images."""
    own = dataclasses.asdict(run.config)
    return config.recipe(own, type(run.config)) | config.recipe(_image_settings(run), config.Images)


def _image_settings(run: Run) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(config.Images)]
    settings = {name: getattr(run.images, name) for name in names}
    return settings | {"lookalikes": datasets.harder_unseen(run.images)}


def _run_folder(run: Run, data: Data, method: training.Method) -> training.RunFolder:
    """Make the run's folder, which checks a resumed one against this configuration."""
    from jaxssl.training import devices, runs

    settings, dataset = run.config, run.images.dataset
    program = cli.program_of(settings)
    path = settings.run_dir or runs.default_run_dir(Path(program).stem, dataset)
    print(f"run folder: {path}", flush=True)
    return training.RunFolder(
        path,
        {**_image_settings(run), **dataclasses.asdict(settings)}
        | {"lookalikes": datasets.harder_unseen(run.images)},
        may_differ={n for n, scope in config.scopes(type(settings)).items() if scope.resume},
        facts={
            "study": method.name,
            "program": program,
            "dataset": dataset,
            "recipe": _recipe(run),
            "hash": config.hash_of(_recipe(run)),
            "data": data.fingerprint,
            "outline": data.outline(),
            "devices": devices.summary(),
            "pretrained": method.start,
        },
    )


def _validation(
    run: Run, data: Data, method: training.Method, plan: training.Plan
) -> Callable[[training.TrainState], dict[str, float]]:
    """Make `validate(state) -> {"loss": ..., "knn_accuracy": ..., ...}` on the validation images.

    Loss and metrics are the method's own in evaluation mode, with the same keys every time, as
    means over batches of equal size, whose chance level is therefore one number. `knn_accuracy`,
    at most once an epoch, is of the representation h on the seen classes, against at most 2,000
    training images.
    """
    import jax

    from jaxssl import embedding

    placement, seed = run.placement, run.config.seed
    measure = training.make_eval_step(method.model, method.validate or method.loss, placement)
    encode = embedding.compile_output(method.model, method.encode, placement)
    random = np.random.default_rng(0)
    many = placement.device_count
    size = min(run.config.batch_size, len(data.val)) // many * many
    if not size:
        raise InputError(
            f"{len(data.val)} validation images cannot be split over {many} devices: use fewer "
            "devices or more images"
        )
    order = random.permutation(len(data.val))[: len(data.val) // size * size]
    batches = [data.val.batch(rows[placement.part(size)]) for rows in order.reshape(-1, size)]
    labelled = data.train.labelled()
    bank = labelled.subset(np.sort(random.permutation(len(labelled))[:KNN_BANK]))

    def validate(state: training.TrainState) -> dict[str, float]:
        rows = []
        for i, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.key(seed), i)
            loss, metrics = measure(state, placement.put(batch), key)
            rows.append({"loss": loss, **metrics})
        rows = jax.device_get(rows)
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        if plan.ends_epoch(int(state.step)) and len(bank):
            h_bank = embedding.embed_set(encode, state, bank, placement)
            h_val = embedding.embed_set(encode, state, data.val, placement)
            means["knn_accuracy"] = analysis.knn_accuracy(
                h_bank, bank.labels, h_val, data.val.labels, k=20
            )
        verdict = health([means], {})
        if verdict.state == "collapsed":
            print(f"warning: the embedding has collapsed. {verdict.text}", flush=True)
        return means

    return validate


def _check_together(
    data: Data, method: training.Method, on_validation: OnValidation | None
) -> None:
    """Stop processes that would each train something else, before the first step."""
    from jaxssl.training import processes, state

    if on_validation is not None:
        raise InputError("tuning runs as one process: start it without --processes and srun")
    processes.check_same(
        {
            "the fingerprint of the images": data.fingerprint[:12],
            "that of the initial weights": state.fingerprint(method.model)[:12],
        },
        "all need the same files in --data-dir and --pretrained",
    )


def _save_what_goes_in(path: Path, data: Data, seed: int) -> None:
    """Write `report/views.png`, a few images with two views each, and `skipped.json`."""
    import jax

    from jaxssl.analysis import figures

    if data.skipped:
        files.write_json(path / "skipped.json", data.skipped)
    if data.recipe is None:
        return
    images = data.train
    rows = np.random.default_rng(seed).permutation(len(images))[:8]
    originals = np.stack([images[i]["image"] for i in rows])
    views = jax.device_get(augment.views(jax.random.key(seed), originals, data.recipe))
    drawn = [np.asarray(np.round(255 * view), np.uint8) for view in views]
    (path / "report").mkdir(exist_ok=True)
    figures.save_png(figures.view_sheet(originals, *drawn), path / "report" / "views.png")
