"""Pretrained weights by torchvision's and timm's names, without torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models.backbone import PlanktonBackbone
from jaxssl.models.efficientnet import EfficientNetTrunk
from jaxssl.models.resnet import ResNet
from jaxssl.models.weight_files import read_weights

# What the whole networks have beyond these modules: prefixes of tensors that may be left over.
_RESNET_HEAD = ("fc.",)
_TORCHVISION_REST = ("features.4.", "features.5.", "features.6.", "features.7.", "classifier.")
_TIMM_REST = ("blocks.3.", "blocks.4.", "blocks.5.", "conv_head.", "bn2.", "classifier.")

NamedLayers = Iterator[tuple[str, nnx.Module]]


@dataclass(frozen=True)
class Pretrained:
    """What came from a file: for the log, the report and config.json.

    Attributes:
      file: its name.
      sha256: of its bytes.
      loaded: number of tensors that went into the encoder.
      missing: layers of the encoder that the file knows nothing of: they stay at random.
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


def load_pretrained(encoder: nnx.Module, path: str | Path) -> Pretrained:
    """Puts pretrained weights and batch statistics into an encoder, in place, or changes nothing.

    Files that fit: torchvision's `resnet18-f37072fd.pth`, `resnet50-0676ba61.pth`,
    `resnet50-11ad3fa6.pth` and `efficientnet_v2_s-dd5fe13b.pth`; `model.safetensors` of timm's
    `resnet18.tv_in1k`, `resnet50.tv_in1k` and `tf_efficientnetv2_s.*`; any other state dict with
    these names. Layouts change on the way: kernels from [out, in, k, k] to [k, k, in, out].

    Args:
      encoder: a `ResNet` with the ImageNet stem, a `PlanktonBackbone` or its `EfficientNetTrunk`,
        for RGB images.
      path: of the file, `.pth` or `.safetensors`. A name that ends in `-` and eight hexadecimal
        digits, as torchvision's do, must be true: they begin the file's sha256.

    Returns:
      The report of what was loaded, missing and left over.

    Raises:
      InputError: for an encoder without published weights, a file that `read_weights` refuses, a
        tensor that is missing, of another shape, not finite, or of a larger network.
    """
    path = Path(path)
    trunk = encoder.trunk if isinstance(encoder, PlanktonBackbone) else encoder
    tensors = read_weights(path)
    sha256 = _checked_sha256(path)
    names, rest = _names_of(trunk, tensors, path)
    new: dict[str, tuple[nnx.Variable, np.ndarray]] = {}
    for prefix, layer in names:
        for suffix, variable in _variables(layer):
            name = f"{prefix}.{suffix}"
            if name not in tensors:
                raise InputError(
                    f"weights {path}: no tensor {name}: is this file of another network?"
                )
            new[name] = variable, _convert(tensors[name], variable.shape, name, path)
    left_over = tuple(n for n in tensors if n not in new and not n.endswith("num_batches_tracked"))
    foreign = [name for name in left_over if not name.startswith(rest)]
    if foreign:
        raise InputError(
            f"weights {path}: {len(foreign)} tensors have no place in this encoder, "
            f"such as {foreign[0]}: is this file of another network?"
        )
    for variable, value in new.values():
        variable.set_value(jnp.asarray(value))
    filled = {id(variable) for variable, _ in new.values()}
    missing = tuple(
        "/".join(map(str, layer_path))
        for layer_path, layer in nnx.iter_modules(encoder)
        if any(isinstance(v, nnx.Param) and id(v) not in filled for v in vars(layer).values())
    )
    return Pretrained(path.name, sha256, len(new), missing, left_over)


def _checked_sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    promised = re.search(r"-([0-9a-f]{8})$", path.stem)
    if promised and not digest.startswith(promised[1]):
        raise InputError(
            f"weights {path}: sha256 begins with {digest[:8]}, not {promised[1]} as its name says: "
            "download it again"
        )
    return digest


def _names_of(
    trunk: nnx.Module, tensors: dict[str, np.ndarray], path: Path
) -> tuple[NamedLayers, tuple[str, ...]]:
    """The trunk's layers under the file's names, and the prefixes of the rest of that network."""
    match trunk:
        case ResNet(stem="imagenet"):
            return _resnet_names(trunk), _RESNET_HEAD
        case ResNet():
            raise InputError(
                f"weights {path} need the ImageNet stem, this ResNet has the CIFAR stem: raise "
                "the image size above 64"
            )
        case EfficientNetTrunk():
            timm = "conv_stem.weight" in tensors
            if timm != (trunk.convention == "tensorflow"):
                raise InputError(
                    f"weights {path} are {'timm' if timm else 'torchvision'}'s, which pads and "
                    f"normalises in another way: choose the encoder "
                    f"{'tf_plankton_v2_s' if timm else 'plankton_v2_s'}"
                )
            if timm:
                return _timm_names(trunk), _TIMM_REST
            return _torchvision_names(trunk), _TORCHVISION_REST
    raise InputError(
        f"there are no pretrained weights for {type(trunk).__name__}: leave them out or "
        "choose resnet18, resnet50 or plankton_v2_s"
    )


def _resnet_names(resnet: ResNet) -> NamedLayers:
    yield "conv1", resnet.conv1
    yield "bn1", resnet.bn1
    for stage, blocks in enumerate(resnet.stages, start=1):
        for index, block in enumerate(blocks):
            prefix = f"layer{stage}.{index}"
            for name in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"):
                if hasattr(block, name):
                    yield f"{prefix}.{name}", getattr(block, name)
            if block.downsample is not None:
                yield f"{prefix}.downsample.0", block.downsample.layers[0]
                yield f"{prefix}.downsample.1", block.downsample.layers[1]


def _torchvision_names(trunk: EfficientNetTrunk) -> NamedLayers:
    yield "features.0.0", trunk.stem_conv
    yield "features.0.1", trunk.stem_norm
    for stage, blocks in enumerate(trunk.stages, start=1):
        for index, block in enumerate(blocks):
            for part, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True)):
                yield f"features.{stage}.{index}.block.{part}.0", conv
                yield f"features.{stage}.{index}.block.{part}.1", norm


def _timm_names(trunk: EfficientNetTrunk) -> NamedLayers:
    yield "conv_stem", trunk.stem_conv
    yield "bn1", trunk.stem_norm
    for stage, blocks in enumerate(trunk.stages):
        convs = ("conv",) if stage == 0 else ("conv_exp", "conv_pwl")
        for index, block in enumerate(blocks):
            for part, name in enumerate(convs):
                yield f"blocks.{stage}.{index}.{name}", block.convs[part]
                yield f"blocks.{stage}.{index}.bn{part + 1}", block.norms[part]


def _variables(layer: nnx.Module) -> list[tuple[str, nnx.Variable]]:
    """A layer's variables under torch's names."""
    if isinstance(layer, nnx.BatchNorm):
        return [
            ("weight", layer.scale),
            ("bias", layer.bias),
            ("running_mean", layer.mean),
            ("running_var", layer.var),
        ]
    return [("weight", layer.kernel)]


def _convert(tensor: np.ndarray, shape: tuple[int, ...], name: str, path: Path) -> np.ndarray:
    """torch's layout to flax's, float32."""
    value = tensor.astype(np.float32)
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    if value.shape != shape:
        out, channels = shape[-1], shape[-2:-1]
        if value.shape == (*shape[:2], 3, out) and channels == (1,):
            raise InputError(
                f"weights {path} are for RGB images, this encoder takes grey ones: use 3 channels "
                "(a grey image, repeated, is an RGB image)"
            )
        raise InputError(
            f"weights {path}: {name} is {value.shape} (height, width, in, out), the encoder's is "
            f"{shape}: is this file of another network?"
        )
    if not np.isfinite(value).all():
        raise InputError(f"weights {path}: {name} is not finite: download the file again")
    return value
