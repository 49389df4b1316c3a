"""A study in five verbs: open, load, train, embed, report.

Data flows one way: flags to images (`load`), images and method to a state (`train`), state and
images to tables of embeddings (`embed`), tables to numbers and a page (`report`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import baseline, batches, config, datasets, folders, next_steps, watching
from experiments.folders import Run
from experiments.tables import table_of
from jaxssl import analysis, files, models, training
from jaxssl import data as images_room
from jaxssl.analysis import probes
from jaxssl.analysis.health import health
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments.datasets import Data
    from experiments.finished import Finished

# Hears the numbers of every validation; what it raises ends the run.
OnValidation = Callable[[Mapping[str, float]], None]


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
    datasets.check_flags(settings)
    folders.check_apart(settings, start)
    start_devices(settings)
    import jax

    from jaxssl.training import devices

    source = start.images if start else settings
    length = "not trained"
    if isinstance(settings, config.Training):
        many = f"{settings.epochs} epochs" if settings.steps is None else f"{settings.steps} steps"
        length = f"{many} in batches of {settings.batch_size}"
    color = f"{source.image_size} px {source.color}"
    of = f"of {start.title}" if start else f"on {settings.dataset}"
    network = f"{settings.encoder}, " if hasattr(settings, "encoder") else ""
    print(
        f"{settings.title} {of}: {network}{length} at {color}, on {devices.summary()}",
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
    data = run.judged.data if run.judged else datasets.read(run.images, settings.seed)
    if labels:
        data = datasets.only_labelled(data, settings.title)
    fraction = getattr(settings, "label_fraction", 1.0)
    data = datasets.with_label_fraction(data, fraction, seed=settings.seed)
    if not isinstance(settings, config.Training):
        return data
    settings = run.config = batches.fitted(run, len(data.train))
    per_epoch = len(data.train) // settings.batch_size
    if set(data.val.ids) <= set(data.train.ids):
        print(f"the loss is watched on {len(data.val):,} of the training images")
    return dataclasses.replace(
        data, steps_per_epoch=per_epoch, total_steps=settings.epochs * per_epoch
    )


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
    _check_encoding(settings, method)
    plan = watching.plan_of(settings, data, method)
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
    validate = watching.validation(run, data, method, plan)

    def evaluate(state: training.TrainState) -> dict[str, float]:
        row = validate(state)
        if on_validation is not None:
            on_validation(row)
        return row

    folder = run.closing.enter_context(folders.run_folder(run, data, method))
    every = round(settings.keep_every * plan.steps_per_epoch)
    checkpoints = run.closing.enter_context(
        training.Checkpoints(folder.path / "checkpoints", keep_every=every)
    )
    if processes.is_first():
        folders.save_what_goes_in(folder.path, data, settings.seed)
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
    """Open the run folder for a network that is judged as it is, and save it as its step 0.

    Args:
      run: From `open`.
      data: From `load`.
      method: The network.
      make_method: Makes it; with random weights it is the untrained baseline.
    """
    print(f"encoder: {method.start}", flush=True)
    folder = run.closing.enter_context(folders.run_folder(run, data, method))
    state = run.placement.replicate(training.create_state(method))
    with training.Checkpoints(folder.path / "checkpoints") as checkpoints:
        checkpoints.save(0, state, {})  # embeds and predicts as any other run
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
      propagate: Whether the curves have propagated labels too.
    """

    folder: Path
    tables: analysis.Tables
    facts: analysis.Facts
    propagate: bool = False


def _check_encoding(settings: Any, method: training.Method) -> None:
    """Refuse --beside-start where the method, one from outside it may be, does not heed it."""
    asked = getattr(settings, "beside_start", False)
    if asked and not isinstance(method.encoder(method.model), models.BesideStart):
        raise InputError(
            f"--beside-start: {method.name} does not say by `networks.encoding` which module "
            "encodes; leave it off (--no-beside-start), which presets of Lite0 need too"
        )


def _was_given_weights(settings: Any) -> bool:
    """Tell whether training began with weights that had been trained before."""
    from_run = hasattr(settings, "start") and not settings.random
    return from_run or bool(getattr(settings, "pretrained", ""))


def embed(run: Run, data: Data, trained: Trained) -> Embedded | None:
    """Embed every set by the judged state, the other one, the start of training and raw pixels.

    The network as it began is "untrained" with random weights, and "start" with published ones or
    a run's.

    Returns:
      The tables of embeddings, with what training knows beside them; None in other processes than
      the first.
    """
    from jaxssl import embedding
    from jaxssl.training import processes

    settings, placement, method = run.config, run.placement, trained.method
    judged = {name: x for name, x in {"test": data.test, **data.unseen}.items() if len(x)}
    judge = settings.judge if isinstance(settings, config.Training) else "best"
    other = "last" if judge == "best" else "best"
    began, start = trained.untrained, "untrained"
    if began is None:
        began = placement.replicate(training.create_state(method))
        start = "start" if _was_given_weights(settings) else "untrained"
    learnt = {"train": data.train, "val": data.val}
    if set(data.val.ids) <= set(data.train.ids):
        del learnt["val"]  # without labels those that validate are among those that train
    wanted = {
        "h": (trained.states[judge], {**learnt, **judged}),
        start: (began, judged),
    }
    if trained.states["last"] is not trained.states["best"]:
        wanted[other] = (trained.states[other], judged)
    about = {
        "config_hash": config.hash_of(folders.recipe_of(run)),
        "layer": "h",
        "distance": method.distance,
        "checkpoint": trained.facts[f"{judge}_step"],
        "views": settings.average_views,
    }
    begin = time.monotonic()
    number = sum(len(x) for x in wanted["h"][1].values())
    print(f"embedding {number:,} images ...", flush=True)
    output = models.average_views(method.encode, settings.average_views)
    encode = embedding.compile_output(method.model, output, placement)
    vectors = {
        name: {
            part: embedding.embed_set(encode, state, x, placement, title=f"{name} of {part}")
            for part, x in sets.items()
        }
        for name, (state, sets) in wanted.items()
    }
    # In all processes: each has a part of every batch.
    imagenet = baseline.imagenet(run, judged, about)
    logits = None
    if method.logits is not None and len(data.test):
        averaged = models.average_views(method.logits, settings.average_views)
        classify = embedding.compile_output(method.model, averaged, placement)
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
    tables |= imagenet
    names, labels = data.test.class_names, data.test.labels
    found = None
    if logits is not None:
        found = analysis.classification(logits, labels, names)
        guesses = np.array(names, object)[logits.argmax(1)]
        test = tables["h"]["test"]
        tables["h"]["test"] = dataclasses.replace(test, extra={**test.extra, "predicted": guesses})
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
    return Embedded(trained.folder.path, tables, facts, settings.propagate)


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
        classifiers=(*probes.CLASSIFIERS, *(("propagated",) if embedded.propagate else ())),
        progress=lambda stage: print(f"  {stage}", flush=True),
        cache=files.cache_dir() / "probes",
    )
    print("  UMAP", flush=True)
    tables = analysis.with_map(embedded.tables)
    analysis.save_tables(folder, tables)
    seconds = {**results.wall_seconds, "analysis": time.monotonic() - begin}
    results = dataclasses.replace(results, wall_seconds=seconds)
    results.write(folder / "results.json")
    verdict = health(files.read_lines(folder / "metrics.jsonl"), results.spread)
    steps = next_steps.of(folder, results, verdict.state)
    page = analysis.write_report(folder, tables, results, steps=steps)
    print(f"\nembedding: {verdict.state}. {verdict.text}")
    print(analysis.headline(results))
    if steps:
        print(next_steps.lines(steps))
    print(f"report: {page}")


# The parts of `open` and `train`.


def start_devices(settings: config.Devices) -> None:
    """Check the flags' ranges; find the other processes and the platform.

    Compiled programs are kept on disk from here on, where XLA can write them.
    """
    from jaxssl.training import devices, processes

    config.check_ranges(settings)
    chosen = [name for name in ("tpu", "gpu", "cpu") if getattr(settings, name)]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)} exclude each other: give one")
    devices.run_in_turn()
    if isinstance(settings, config.Processes):
        processes.join(
            settings.coordinator,
            settings.processes,
            settings.process,
            seconds=settings.join_seconds,
        )
        own = {name for name, scope in config.scopes(type(settings)).items() if scope.own}
        shared = {config.flag(n): v for n, v in vars(settings).items() if n not in own}
        processes.check_same(shared, "start all processes with the same flags")
    devices.divide_cpu(settings.cpu_devices, getattr(settings, "batch_size", devices.CORES))
    devices.require(chosen[0] if chosen else None)
    devices.keep_compiled(files.cache_dir() / "xla")


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
