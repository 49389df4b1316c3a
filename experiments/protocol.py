"""What all studies share, so that they can be compared: flags, model, run folder.

The protocol: a network learns on the seen classes (train 75 %, validation 5 %, test 20 %); its
representation h is judged on the seen classes' test images and on classes that it never saw,
beside two baselines: raw pixels and the same network untrained.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments import presets
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from flax import nnx

    from experiments.images import Data
    from jaxssl.augment.views import View
    from jaxssl.training.loop import Plan
    from jaxssl.training.runs import RunFolder


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The flags that every study has."""

    dataset: Literal["digits", "plankton", "cifar10"] = "digits"
    """digits: scikit-learn's, nothing to download; plankton: any folder with one folder a class;
    cifar10: through TFDS, downloaded where it is not there. The choice sets the defaults of the
    other flags."""
    data_dir: str = ""
    """The folder of class folders, or the file that scripts/pack_images.py made of it (plankton);
    the folder of TFDS's data sets (cifar10; default TFDS's)."""
    seen: tuple[str, ...] = ("0", "1", "2", "3", "4", "5")
    """Classes to learn from. A class named nowhere is left out."""
    unseen: tuple[str, ...] = ("6", "7", "8", "9")
    """Classes kept for the test of how few labels the embedding needs."""
    lookalikes: tuple[str, ...] | None = None
    """A second, harder set of unseen classes, judged apart. Default: those of the data set where
    its own seen and unseen classes are used, else none."""
    image_size: int = 16
    """Side in pixels to which images are resized."""
    color: Literal["rgb", "grey"] = "grey"
    """Channels the network sees."""
    fit: Literal["squash", "pad"] = "squash"
    """squash: to a square whatever the shape, as the study did; pad: keep the shape, fill up."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """fail: stop and list the unreadable images; skip: leave them out, list in skipped.json."""
    encoder: Literal[
        "convnet", "resnet18", "resnet50", "efficientnet_v2_s", "tf_efficientnetv2_s"
    ] = "convnet"
    """The network f whose output h is the embedding (tf_: with timm's weights)."""
    width: int = 64
    """Channels of a ResNet's first stage; h of ResNet-18 has 8 times as many numbers."""
    pretrained: str = ""
    """A file of torchvision's or timm's weights for the encoder (.pth or .safetensors); without it
    the weights start at random."""
    freeze: Literal["auto", "trunk", "none"] = "auto"
    """trunk: pretrained layers stay as they are, with their BatchNorm (efficientnet: its first
    stages; a ResNet: all of it); none: everything learns; auto: trunk for an efficientnet with
    --pretrained, as the study did, else none."""
    leaky_relu: bool = False
    """LeakyReLU (.01) before h, as in the later studies, for ReLU (efficientnet)."""
    bfloat16: bool = False
    """Compute in bfloat16 (parameters and losses stay float32)."""

    batch_size: int = 256
    """Images a step, over all devices."""
    resident: bool = False
    """Keep all training images on every device, as bytes: CIFAR-10's take 154 MB. The batches are
    the same."""
    steps_per_dispatch: int = 1
    """Steps that go to the devices in one call, best a divisor of --log-every: 10 keeps a GPU from
    waiting for the host. The same arithmetic, rounded within float32. On a CPU always 1."""
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
    keep_every: float = 0.0
    """Epochs between checkpoints that stay, each with a validation, for the accuracy over epochs of
    linear_eval; 0: only the newest two and the best stay."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_minutes: float = 10.0
    """Longest time without a checkpoint."""
    judge: Literal["best", "last"] = "best"
    """The checkpoint whose embedding is reported; the other one stands beside it in the numbers."""
    draws: int = 5
    """Random draws of labels behind each point of the label-efficiency curves."""
    labels: tuple[int, ...] = ()
    """Numbers of labels on the label-efficiency curves. Default: 30-90 by 10, 100-900 by 100, then
    by 200; all labels always come last."""
    preset: str = ""
    """A named set of defaults for all flags; without it, --dataset names one."""
    config: str = ""
    """A JSON file of settings, such as the best.json of experiments.tune; flags win over it."""
    tpu: bool = False
    """Demand a TPU."""
    gpu: bool = False
    """Demand a GPU."""
    cpu: bool = False
    """Stay on the CPU."""
    coordinator: str = ""
    """HOST:PORT of process 0 of several; on TPU pods and under srun found by itself."""
    processes: int | None = None
    """Number of processes that train together, each started with the same flags; 1: alone."""
    process: int | None = None
    """Which of the --processes this one is, from 0."""
    describe: bool = False
    """Print the model's table and end."""

    @property
    def channels(self) -> int:
        """Of the images: 1 or 3."""
        return 1 if self.color == "grey" else 3

    @property
    def harder_unseen(self) -> tuple[str, ...]:
        """The look-alikes: as given, or the data set's own."""
        if self.lookalikes is not None:
            return self.lookalikes
        return presets.LOOKALIKES.get((self.seen, self.unseen), ())

    @property
    def frozen_trunk(self) -> bool:
        """Whether --freeze leaves the trunk as it is."""
        auto = "efficientnet" in self.encoder and bool(self.pretrained)
        return self.freeze == "trunk" or (self.freeze == "auto" and auto)


# What a resumed run may change: where things are and how often, never what is computed.
MAY_DIFFER = frozenset(
    {
        *("data_dir", "run_dir", "preset", "config", "steps", "log_every", "save_minutes"),
        *("on_bad_image", "judge", "draws", "labels", "tpu", "gpu", "cpu", "describe"),
        *("coordinator", "processes", "process"),
    }
)
# What the processes of one run may be given each for itself.
PER_PROCESS = frozenset({"coordinator", "process", "data_dir", "run_dir", "config", "preset"})


# What numbers must be, in whichever program has them: at least this, or above 0.
LEAST = {
    **dict.fromkeys(("batch_size", "epochs", "steps", "image_size", "log_every", "features"), 1),
    **dict.fromkeys(("width", "steps_per_dispatch", "processes"), 1),
    **dict.fromkeys(("layers", "hidden", "l2", "l3", "plateau"), 1),
    **dict.fromkeys(("process", "seed", "margin", "patience", "images_per_class", "keep_every"), 0),
    **dict.fromkeys(("hard_negatives_from", "hard_positives_from"), 0),
    **dict.fromkeys(("weight_decay", "warmup"), 0),
    "draws": 2,
}
ABOVE_0 = (
    "learning_rate",
    "temperature",
    "scale",
    "evaluate_epochs",
    "save_minutes",
    "label_fraction",
)


def start(config: Protocol, *, alone: bool = False) -> None:
    """Find the other processes and the platform, before anything touches a device.

    Compiled programs are kept on disk from here on.

    Args:
      config: the program's.
      alone: this program runs as one process, wherever it is.
    """
    import jax

    from jaxssl.files import cache_dir as default_cache_dir
    from jaxssl.training import devices, processes

    check_numbers(config)
    chosen = [name for name in ("tpu", "gpu", "cpu") if getattr(config, name)]
    if len(chosen) > 1:
        raise InputError(f"--{' and --'.join(chosen)} exclude each other: give one")
    if not alone:
        processes.join(config.coordinator, config.processes, config.process)
        shared = {
            f"--{name.replace('_', '-')}": value
            for name, value in vars(config).items()
            if name not in PER_PROCESS
        }
        processes.check_same(shared, "start all processes with the same flags")
    devices.require(chosen[0] if chosen else None)
    # A resumed run, or the same run again, then starts in seconds.
    jax.config.update("jax_compilation_cache_dir", str(default_cache_dir() / "xla"))


def check_numbers(config: Protocol) -> None:
    """Refuse a number out of its range by its flag's name, before anything is read."""
    for name, value in vars(config).items():
        flag = f"--{name.replace('_', '-')} is {value}"
        if value is None:
            continue
        # Written so that NaN is refused too.
        if name in LEAST and not LEAST[name] <= value < math.inf:
            raise InputError(f"{flag}: it must be {LEAST[name]} or more")
        if name in ABOVE_0 and not 0 < value < math.inf:
            raise InputError(f"{flag}: it must be above 0")


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

    match config.dataset:
        case "digits":
            return views.digits
        case "plankton":
            return views.plankton
        case "cifar10":
            return views.cifar


def make_encoder(config: Protocol, rngs: nnx.Rngs) -> Any:
    """The untrained encoder f that the flags name, its trunk frozen where they say so."""
    import jax.numpy as jnp

    from jaxssl.models import freeze, make_encoder

    encoder = make_encoder(
        config.encoder,
        image_size=config.image_size,
        channels=config.channels,
        negative_slope=0.01 if config.leaky_relu else 0.0,
        width=config.width,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
        rngs=rngs,
    )
    if config.frozen_trunk:
        freeze(getattr(encoder, "trunk", encoder))
    return encoder


def load_pretrained(config: Protocol, encoder: nnx.Module) -> str:
    """Put `--pretrained` weights into the encoder; says, for log and report, what it starts as."""
    if not config.pretrained:
        start = "random weights; no --pretrained file given"
        return start + (", and its trunk is frozen" if config.frozen_trunk else "")
    from jaxssl.models.pretrained import load_pretrained

    trunk = "frozen" if config.frozen_trunk else "trained further"
    return f"{load_pretrained(encoder, config.pretrained)}; trunk {trunk}"


def print_model(config: Protocol, model: Any) -> None:
    """What `--describe` asks for."""
    from jaxssl.models import describe, freeze

    shape = (config.image_size, config.image_size, config.channels)
    print(describe(model, shape))
    trunk = getattr(model.encoder, "trunk", None)
    if trunk is not None and not config.frozen_trunk:
        freeze(trunk)
        totals = describe(model, shape).split("\n\n")[-1]
        print(f"\nwith --freeze trunk, the default where --pretrained is given:\n{totals}")


def plan(config: Protocol, data: Data) -> Plan:
    """When the loop evaluates, saves and ends."""
    import jax

    from jaxssl.training.loop import Plan

    per_epoch = len(data.train) // config.batch_size
    if not per_epoch:
        raise InputError(
            f"--batch-size {config.batch_size} is larger than the {len(data.train)} training "
            "images: lower it, or name more --seen classes"
        )
    total = config.epochs * per_epoch
    # A checkpoint is saved with each validation: as often as one is to be kept.
    evaluate_epochs = min(config.evaluate_epochs, config.keep_every or math.inf)
    return Plan(
        total_steps=total if config.steps is None else min(total, config.steps),
        steps_per_epoch=per_epoch,
        evaluate_every=max(1, round(evaluate_epochs * per_epoch)),
        log_every=config.log_every,
        save_seconds=60 * config.save_minutes,
        # XLA runs a convolution inside a loop on a CPU 3 to 16 times slower than outside of it
        # (scripts/benchmarks/simclr_step.py), and a CPU is its own host.
        steps_per_dispatch=1 if jax.default_backend() == "cpu" else config.steps_per_dispatch,
    )


def open_run(config: Protocol, study: str, data: Data, initial: str) -> RunFolder:
    """The run's folder, locked; checks a resumed one against this configuration."""
    from jaxssl.training import devices, runs

    folder = Path(config.run_dir or runs.default_run_dir(study, config.dataset))
    print(f"run folder: {folder}", flush=True)
    return runs.RunFolder(
        folder,
        dataclasses.asdict(config) | {"lookalikes": config.harder_unseen},
        may_differ=MAY_DIFFER,
        facts={
            "study": study,
            "program": Path(inspect.getfile(type(config))).stem,
            "data": data.fingerprint,
            "devices": devices.summary(),
            "pretrained": initial,
        },
    )
