"""What all studies share, so that they can be compared: flags, data, run folder.

The protocol: a network learns on the seen classes (train 75 %, validation 5 %, test 20 %); its
representation h is judged on the seen classes' test images and on classes that it never saw,
beside two baselines: raw pixels and the same network untrained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxssl.errors import InputError

if TYPE_CHECKING:
    from flax import nnx

    from jaxssl.augment.views import View
    from jaxssl.data.images import ImageSet
    from jaxssl.training.loop import Plan
    from jaxssl.training.runs import RunFolder


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The flags that every study has."""

    dataset: Literal["digits", "plankton"] = "digits"
    """digits: scikit-learn's, nothing to download; plankton: any folder with one folder a class.
    The choice sets the defaults of the other flags."""
    data_dir: str = ""
    """The folder of class folders (plankton)."""
    seen: tuple[str, ...] = ("0", "1", "2", "3", "4", "5")
    """Classes to learn from. A class named nowhere is left out."""
    unseen: tuple[str, ...] = ("6", "7", "8", "9")
    """Classes kept for the test of how few labels the embedding needs."""
    lookalikes: tuple[str, ...] = ()
    """A second, harder set of unseen classes, judged apart."""
    image_size: int = 16
    """Side in pixels to which images are resized."""
    color: Literal["rgb", "grey"] = "grey"
    """Channels the network sees."""
    fit: Literal["squash", "pad"] = "squash"
    """squash: to a square whatever the shape, as the study did; pad: keep the shape, fill up."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """fail: stop and list the unreadable images; skip: leave them out, list in skipped.json."""
    encoder: Literal["convnet", "resnet18", "resnet50", "efficientnet_v2_s"] = "convnet"
    """The network f whose output h is the embedding."""
    bfloat16: bool = False
    """Compute in bfloat16 (parameters and losses stay float32)."""

    batch_size: int = 256
    """Images a step, over all devices."""
    epochs: int = 100
    """Passes over the training images."""
    steps: int | None = None
    """End training after so many steps, then judge and report as usual."""
    seed: int = 0
    """Of the split, the initial weights, the batches and the views."""

    run_dir: str = ""
    """Folder of the run; the same again resumes. Default: runs/<study>-<dataset>-<time>."""
    evaluate_epochs: float = 5.0
    """Epochs between validations; a checkpoint follows each."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_minutes: float = 10.0
    """Longest time without a checkpoint."""
    judge: Literal["best", "last"] = "best"
    """The checkpoint whose embedding is reported; the other one stands beside it in the numbers."""
    draws: int = 5
    """Random draws of labels behind each point of the label-efficiency curves."""
    preset: str = ""
    """A named set of defaults for all flags; without it, --dataset names one."""
    tpu: bool = False
    """Demand a TPU."""
    gpu: bool = False
    """Demand a GPU."""
    cpu: bool = False
    """Stay on the CPU."""
    describe: bool = False
    """Print the model's table and end."""

    @property
    def channels(self) -> int:
        """Of the images: 1 or 3."""
        return 1 if self.color == "grey" else 3


# Defaults of a data set, for every study: `Config(**PLANKTON)`.
DIGITS: dict[str, Any] = {"epochs": 60}
# PlanktonSet 1.0 (Cowen et al. 2015) in the original study's 6 + 3 split, and look-alikes of the
# seen classes as a harder test.
PLANKTON: dict[str, Any] = {
    "dataset": "plankton",
    "seen": (
        "trichodesmium_puff",
        "chaetognath_other",
        "copepod_cyclopoid_oithona_eggs",
        "protist_other",
        "acantharia_protist",
        "hydromedusae_solmaris",
    ),
    "unseen": (
        "appendicularian_s_shape",
        "echinoderm_larva_seastar_brachiolaria",
        "diatom_chain_string",
    ),
    "lookalikes": (
        "copepod_cyclopoid_oithona",
        "trichodesmium_bowtie",
        "chaetognath_sagitta",
    ),
    "image_size": 128,
    "color": "rgb",
}
# What two CPU cores train in minutes.
CPU: dict[str, Any] = {"image_size": 48, "color": "grey", "epochs": 30}
PLANKTON_CPU = PLANKTON | CPU
# 21 + 10 classes: the split that tells methods apart.
PLANKTON_WIDE = PLANKTON | {
    "seen": (
        "trichodesmium_puff",
        "chaetognath_other",
        "protist_other",
        "copepod_cyclopoid_oithona",
        "chaetognath_non_sagitta",
        "trichodesmium_bowtie",
        "appendicularian_s_shape",
        "chaetognath_sagitta",
        "trichodesmium_tuft",
        "protist_noctiluca",
        "appendicularian_slight_curve",
        "diatom_chain_string",
        "siphonophore_calycophoran_rocketship_young",
        "tunicate_doliolid",
        "hydromedusae_shapeA",
        "echinoderm_larva_seastar_bipinnaria",
        "tunicate_partial",
        "hydromedusae_narco_young",
        "copepod_calanoid_large",
        "hydromedusae_shapeA_sideview_small",
        "appendicularian_straight",
    ),
    "unseen": (
        "copepod_cyclopoid_oithona_eggs",
        "acantharia_protist",
        "hydromedusae_solmaris",
        "copepod_calanoid",
        "echinoderm_larva_seastar_brachiolaria",
        "diatom_chain_tube",
        "tunicate_doliolid_nurse",
        "protist_fuzzy_olive",
        "radiolarian_chain",
        "siphonophore_calycophoran_sphaeronectes_young",
    ),
    "lookalikes": (),
}
PLANKTON_WIDE_CPU = PLANKTON_WIDE | CPU
PRESETS = {
    "digits": DIGITS,
    "plankton": PLANKTON,
    "plankton-cpu": PLANKTON_CPU,
    "plankton-wide": PLANKTON_WIDE,
    "plankton-wide-cpu": PLANKTON_WIDE_CPU,
}

# What a resumed run may change: where things are and how often, never what is computed.
MAY_DIFFER = frozenset(
    {
        *("data_dir", "run_dir", "preset", "steps", "log_every", "save_minutes"),
        *("on_bad_image", "judge", "draws", "tpu", "gpu", "cpu", "describe"),
    }
)


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of one protocol."""

    train: ImageSet
    val: ImageSet
    test: ImageSet
    unseen: Mapping[str, ImageSet]  # "unseen", "unseen-lookalikes"
    skipped: list[dict[str, str]]

    @property
    def fingerprint(self) -> str:
        """Changes when an image, its label or the order does."""
        import hashlib

        parts = [self.train, self.val, self.test, *self.unseen.values()]
        return hashlib.sha256("".join(p.fingerprint() for p in parts).encode()).hexdigest()


def start(config: Protocol) -> None:
    """Choose the platform, before anything touches a device; keep compiled programs on disk."""
    import jax

    from jaxssl.data.scan import default_cache_dir
    from jaxssl.training import devices

    chosen = [name for name in ("tpu", "gpu", "cpu") if getattr(config, name)]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)} exclude each other: give one")
    devices.require(chosen[0] if chosen else None)
    # A resumed run, or the same run again, then starts in seconds.
    jax.config.update("jax_compilation_cache_dir", str(default_cache_dir() / "xla"))


def intention(method: str, config: Protocol) -> str:
    """The program's first line: what will happen."""
    from jaxssl.training import devices

    length = f"{config.epochs} epochs" if config.steps is None else f"{config.steps} steps"
    return (
        f"{method} on {config.dataset}: {config.encoder}, {length} in batches of "
        f"{config.batch_size} at {config.image_size} px {config.color}, on {devices.summary()}"
    )


def view_of(config: Protocol) -> View:
    """The data set's recipe of random views."""
    from jaxssl.augment import views

    return views.digits if config.dataset == "digits" else views.plankton


def make_encoder(config: Protocol, rngs: nnx.Rngs) -> Any:
    """The untrained encoder f that the flags name."""
    import jax.numpy as jnp

    from jaxssl.models import make_encoder

    return make_encoder(
        config.encoder,
        image_size=config.image_size,
        channels=config.channels,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
        rngs=rngs,
    )


def print_model(config: Protocol, model: nnx.Module) -> None:
    """What `--describe` asks for."""
    from jaxssl.models import describe

    print(describe(model, (config.image_size, config.image_size, config.channels)))


def load_data(config: Protocol) -> Data:
    """Read, split and report the images; prints the table of classes and splits."""
    from jaxssl.data import splits

    skipped: list[dict[str, str]] = []
    if config.dataset == "digits":
        from jaxssl.data.digits import load_digits

        images = load_digits(size=config.image_size, channels=config.channels)
    else:
        if not config.data_dir:
            raise InputError("--dataset plankton needs --data-dir, a folder of class folders")
        from jaxssl.data.folder import open_folder

        classes = list(dict.fromkeys([*config.seen, *config.unseen, *config.lookalikes]))
        images, report = open_folder(
            config.data_dir,
            classes=classes,
            size=config.image_size,
            channels=config.channels,
            fit=config.fit,
            on_bad_image=config.on_bad_image,
            progress=_reading(),
        )
        print(report)
        skipped = [{"path": path, "reason": why} for path, why in report.unreadable.items()]
    seen, unseen = splits.split_classes(images, config.seen, config.unseen)
    sets = {"unseen": unseen}
    if config.lookalikes:
        sets["unseen-lookalikes"] = splits.split_classes(images, config.seen, config.lookalikes)[1]
    parts = splits.train_val_test(seen, seed=config.seed)
    print(splits.describe({"train": parts.train, "val": parts.val, "test": parts.test, **sets}))
    return Data(parts.train, parts.val, parts.test, sets, skipped)


def _reading() -> Callable[[int, int], None]:
    """A bar while the images are checked; the second time they come from the cache."""
    import sys

    from tqdm import tqdm

    bar = tqdm(desc="checking images", unit="image", disable=not sys.stderr.isatty(), leave=False)

    def progress(done: int, of: int) -> None:
        bar.total = of
        bar.update(done - bar.n)
        if done == of:
            bar.close()

    return progress


def plan(config: Protocol, data: Data) -> Plan:
    """When the loop evaluates, saves and ends."""
    from jaxssl.training.loop import Plan

    per_epoch = len(data.train) // config.batch_size
    if not per_epoch:
        raise InputError(
            f"--batch-size {config.batch_size} is larger than the {len(data.train)} training "
            "images: lower it, or name more --seen classes"
        )
    total = config.epochs * per_epoch
    return Plan(
        total_steps=total if config.steps is None else min(total, config.steps),
        steps_per_epoch=per_epoch,
        evaluate_every=max(1, round(config.evaluate_epochs * per_epoch)),
        log_every=config.log_every,
        save_seconds=60 * config.save_minutes,
    )


def open_run(config: Protocol, study: str, data: Data) -> RunFolder:
    """The run's folder, locked; checks a resumed one against this configuration."""
    from jaxssl.training import devices, runs

    folder = Path(config.run_dir or runs.default_run_dir(study, config.dataset))
    print(f"run folder: {folder}", flush=True)
    return runs.RunFolder(
        folder,
        dataclasses.asdict(config),
        may_differ=MAY_DIFFER,
        facts={"study": study, "data": data.fingerprint, "devices": devices.summary()},
    )
