"""The encoders of `encoders.py` in PyTorch: the same layers, widths and strides."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from jaxssl.models import efficientnet, efficientnet_lite


class Residual(nn.Module):
    """The sum of a block and its shortcut."""

    def __init__(self, main: nn.Module, shortcut: nn.Module, after: nn.Module):
        super().__init__()
        self.main, self.shortcut, self.after = main, shortcut, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [b, c, h, w] to maps."""
        return self.after(self.main(x) + self.shortcut(x))


class Transformer(nn.Module):
    """DINOv2's, without its layer scale, which costs next to nothing."""

    def __init__(self, width: int, heads: int, size: int):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 14, 14)
        self.positions = nn.Parameter(torch.randn(1, 1 + (size // 14) ** 2, width))
        options = {"dropout": 0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, **options)
        self.blocks = nn.TransformerEncoder(
            layer, 12, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [b, 3, h, w] to the class token [b, width]."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.blocks(nn.functional.pad(x, (0, 0, 1, 0)) + self.positions)[:, 0]


def torch_encoder(name: str, size: int) -> nn.Module:
    """Make an encoder of RGB images by its name in `jaxssl.models.ENCODERS`."""
    if name.startswith("dinov2"):
        width = {"s": 384, "b": 768}[name[-1]]
        return Transformer(width, width // 64, size)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if name == "convnet":
        pairs = [(3, 32), (32, 64), (64, 128), (128, 256)]
        return nn.Sequential(*(_unit(i, o, 3, 2, act=nn.ReLU) for i, o in pairs), *pool)
    if name.startswith("resnet"):
        return nn.Sequential(*_resnet(name, size), *pool)
    if name.startswith("efficientnet_lite"):
        return nn.Sequential(*_lite(name), *pool)
    if name.endswith("plankton_v2_s"):
        return nn.Sequential(*_plankton(size))
    raise NotImplementedError(f"{name} has no twin in PyTorch here")


def folded(network: nn.Module) -> nn.Module:
    """Return the network in evaluation mode, every BatchNorm in the convolution before it."""
    network.eval()
    for part in list(network.modules()):
        if (
            isinstance(part, nn.Sequential)
            and len(part) > 1
            and isinstance(part[1], nn.BatchNorm2d)
        ):
            part[0] = nn.utils.fusion.fuse_conv_bn_eval(part[0], part[1])
            part[1] = nn.Identity()
    return network


def _unit(i: int, o: int, k: int, s: int = 1, *, groups: int = 1, act: Any = None) -> nn.Sequential:
    conv = nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), *([act()] if act else []))


def _resnet(name: str, size: int) -> list[nn.Module]:
    expansion, depths = {"resnet18": (1, (2, 2, 2, 2)), "resnet50": (4, (3, 4, 6, 3))}[name]
    stem = [_unit(3, 64, 3, act=nn.ReLU)]
    if size > 64:
        stem = [_unit(3, 64, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    blocks, i = [], 64
    for stage, depth in enumerate(depths):
        for index in range(depth):
            w, s = 64 * 2**stage, 2 if stage and not index else 1
            o = expansion * w
            shapes = [(i, w, 3, s), (w, w, 3, 1)]
            if expansion == 4:
                shapes = [(i, w, 1, 1), (w, w, 3, s), (w, o, 1, 1)]
            main = [_unit(*shape, act=nn.ReLU) for shape in shapes[:-1]] + [_unit(*shapes[-1])]
            shortcut = nn.Identity() if (i, s) == (o, 1) else _unit(i, o, 1, s)
            blocks.append(Residual(nn.Sequential(*main), shortcut, nn.ReLU()))
            i = o
    return [*stem, *blocks]


def _lite(name: str) -> list[nn.Module]:
    """Build up to the block that h is taken from by default: the last but one."""
    factors = {"0": (1.0, 1.0), "1": (1.0, 1.1), "2": (1.1, 1.2)}[name[-1]]
    layers: list[nn.Module] = [_unit(3, efficientnet_lite.STEM, 3, 2, act=nn.ReLU6)]
    for i, o, (k, s, expansion) in efficientnet_lite._blocks(*factors)[:-1]:
        wide = expansion * i
        units = [_unit(i, wide, 1, act=nn.ReLU6)] if expansion > 1 else []
        units += [_unit(wide, wide, k, s, groups=wide, act=nn.ReLU6), _unit(wide, o, 1)]
        block = nn.Sequential(*units)
        same = s == 1 and i == o
        layers.append(Residual(block, nn.Identity(), nn.Identity()) if same else block)
    return layers


def _plankton(size: int) -> list[nn.Module]:
    layers: list[nn.Module] = [_unit(3, efficientnet.STAGES[0][1], 3, 2, act=nn.SiLU)]
    i = efficientnet.STAGES[0][1]
    for expansion, o, first, count in efficientnet.STAGES:
        for index in range(count):
            s = 1 if index else first
            units = [_unit(i, o, 3, s, act=nn.SiLU)]
            if expansion > 1:
                units = [_unit(i, expansion * i, 3, s, act=nn.SiLU), _unit(expansion * i, o, 1)]
            block = nn.Sequential(*units)
            same = s == 1 and i == o
            layers.append(Residual(block, nn.Identity(), nn.Identity()) if same else block)
            i = o
    added = [_unit(i, i, 3, act=nn.ReLU), _unit(i, i, 3, act=nn.ReLU), nn.MaxPool2d(2)]
    side = -(-size // 8) // 2
    return [*layers, *added, nn.Flatten(), nn.Linear(side * side * i, 128), nn.ReLU()]
