"""SimCLR in PyTorch, for `learning.py`: views of a batch, network, loss and SGD, on one device.

The views are torchvision's, whose transforms take one image after the other on the processor: the
same draws and formulas over a batch, on a GPU or not. `views` is held to torchvision's functions
image by image in tests/test_learning.py.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_encoders import torch_encoder

from jaxssl.models.layers import IMAGENET_MEAN, IMAGENET_STD

# SimCLR's for CIFAR-10: strength .5, no blur.
JITTER, HUE = 0.4, 0.1
TRIES = 10  # of RandomResizedCrop, for a window that fits
# Applied to a float image [b, 3, h, w] and a factor a row.
Op = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """What is trained and how.

    Attributes:
      encoder: its name in `torch_encoders`.
      image_size: of the images, which are square.
      batch_size: images a step, two views each.
      epochs: passes over the images.
      learning_rate: SGD's, with momentum .9, on half a cosine.
      weight_decay: of weights, and where `decays_all` of biases and BatchNorm too.
      warmup: share of the steps in which the rate rises from 0.
      temperature: NT-Xent's.
      features: d of z.
      bfloat16: autocast of the network.
      decays_all: as torch's SGD does unless told otherwise.
      norm_of_z: a BatchNorm after the head's last layer too.
      views_apart: each of the two views by the statistics of its own batch.
      normalizes: views by ImageNet's mean and deviation.
    """

    encoder: str
    image_size: int
    batch_size: int
    epochs: int
    learning_rate: float
    weight_decay: float
    warmup: float
    temperature: float
    features: int
    bfloat16: bool
    decays_all: bool = False
    norm_of_z: bool = False
    views_apart: bool = False
    normalizes: bool = False


# lightly's benchmark of CIFAR-10, row SimCLR of 512 images and 200 epochs
# (docs/source/getting_started/benchmarks/cifar10_benchmark.py there).
LIGHTLY = Recipe(
    encoder="resnet18",
    image_size=32,
    batch_size=512,
    epochs=200,
    learning_rate=0.24,
    weight_decay=5e-4,
    warmup=0.0,
    temperature=0.5,
    features=128,
    bfloat16=True,
    decays_all=True,
    norm_of_z=True,
    views_apart=True,
    normalizes=True,
)


@dataclass(frozen=True)
class Draws:
    """What chance says of a view of each of b images.

    Attributes:
      window: int64 [b, 4]: top, left, height and width.
      flips: bool [b].
      jitters: bool [b].
      order: int64 [b, 4]: the operations' turns; 0 is brightness, then contrast, saturation, hue.
      factors: [b, 4]: of each operation, hue's in turns.
      greys: bool [b].
    """

    window: torch.Tensor
    flips: torch.Tensor
    jitters: torch.Tensor
    order: torch.Tensor
    factors: torch.Tensor
    greys: torch.Tensor


def draw(count: int, size: int, device: torch.device | str = "cpu") -> Draws:
    """Draw by the laws of RandomResizedCrop, RandomHorizontalFlip, ColorJitter, RandomGrayscale."""

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, device=device)

    area = size * size * (0.08 + 0.92 * uniform(count, TRIES))
    ratio = torch.exp(math.log(4 / 3) * (2 * uniform(count, TRIES) - 1))
    width = torch.round(torch.sqrt(area * ratio)).long()
    height = torch.round(torch.sqrt(area / ratio)).long()
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    first = fits.int().argmax(1, keepdim=True)
    none = ~fits.any(1, keepdim=True)  # then the whole image: it is square
    width, height = (torch.where(none, size, x.gather(1, first)) for x in (width, height))
    top = (uniform(count, 1) * (size - height + 1)).long()
    left = (uniform(count, 1) * (size - width + 1)).long()
    factors = 1 + JITTER * (2 * uniform(count, 3) - 1)
    return Draws(
        window=torch.cat([top, left, height, width], 1),
        flips=uniform(count) < 0.5,
        jitters=uniform(count) < 0.8,
        order=uniform(count, 4).argsort(1),
        factors=torch.cat([factors, HUE * (2 * uniform(count, 1) - 1)], 1),
        greys=uniform(count) < 0.2,
    )


def views(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Make one view of each of float [b, 3, s, s] in [0, 1]: crop, flip, jitter, grey."""
    top, left, height, width = draws.window.T
    rows = _reads(top, height, images.shape[-1])
    columns = _reads(left, width, images.shape[-1])
    columns = torch.where(draws.flips[:, None, None], columns.flip(1), columns)
    x = torch.einsum("boy,bcyx,bpx->bcop", rows, images, columns)
    jittered = x
    for turn in range(4):
        op = draws.order[:, turn].view(-1, 1, 1, 1)
        factor = draws.factors.gather(1, draws.order[:, turn : turn + 1]).view(-1, 1, 1, 1)
        made = [adjust(jittered, factor) for adjust in (_brightness, _contrast, _saturation, _hue)]
        for which, image in enumerate(made):
            jittered = torch.where(op == which, image, jittered)
    x = torch.where(draws.jitters.view(-1, 1, 1, 1), jittered, x)
    return torch.where(draws.greys.view(-1, 1, 1, 1), _grey(x).expand_as(x), x)


def _reads(start: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """Make the matrices [b, size, size] that stretch a window of a line to `size`, bilinearly."""
    start, length = start.view(-1, 1), length.view(-1, 1)
    place = (torch.arange(size, device=start.device) + 0.5) * length / size - 0.5
    place = start + torch.minimum(place.clamp(min=0), length - 1)
    distance = (place[:, :, None] - torch.arange(size, device=start.device)).abs()
    return (1 - distance).clamp(min=0)


def _grey(x: torch.Tensor) -> torch.Tensor:
    red, green, blue = x.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def _blend(x: torch.Tensor, other: torch.Tensor | float, factor: torch.Tensor) -> torch.Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def _brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(x, 0.0, factor)


def _contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(x, _grey(x).mean((1, 2, 3), keepdim=True), factor)


def _saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(x, _grey(x), factor)


def _hue(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    red, green, blue = x.split(1, 1)
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = value - least
    unit = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(
        value == red,
        (green - blue) / unit,
        torch.where(value == green, 2 + (blue - red) / unit, 4 + (red - green) / unit),
    )
    k = sixths + 6 * turns + torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = k - 6 * torch.floor(k / 6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def network(recipe: Recipe) -> nn.Sequential:
    """Make the encoder f and the head g, one after the other."""
    encoder = torch_encoder(recipe.encoder, recipe.image_size)
    with torch.no_grad():
        images = torch.zeros(2, 3, recipe.image_size, recipe.image_size)
        h = encoder.eval()(images).shape[1]
    head = [nn.Linear(h, h, bias=False), nn.BatchNorm1d(h), nn.ReLU()]
    head += [nn.Linear(h, recipe.features, bias=False)]
    head += [nn.BatchNorm1d(recipe.features)] if recipe.norm_of_z else []
    return nn.Sequential(encoder, nn.Sequential(*head)).train()


def loss_of(model: nn.Module, both: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Compute the loss of 2 b views: the i-th and the b + i-th are of one image."""
    both = _normalized(both, recipe)
    parts = both.chunk(2) if recipe.views_apart else (both,)
    kind = both.device.type
    low = torch.autocast(kind, torch.bfloat16) if recipe.bfloat16 else contextlib.nullcontext()
    with low:
        z = torch.cat([model(part.to(memory_format=torch.channels_last)) for part in parts])
    return nt_xent(z.float() if recipe.bfloat16 else z, recipe.temperature)


def nt_xent(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute NT-Xent of [2 b, d]: rows i and b + i are of one image."""
    z = nn.functional.normalize(z, dim=1)
    diagonal = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(diagonal, float("-inf"))
    positives = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return nn.functional.cross_entropy(logits, positives)


def _normalized(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    if not recipe.normalizes:
        return images
    mean, std = (
        torch.tensor(x, device=images.device).view(1, 3, 1, 1)
        for x in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / std


def optimizer_of(model: nn.Module, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """Make SGD and its schedule."""
    decay = recipe.weight_decay
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": decay},
        {"params": others, "weight_decay": decay if recipe.decays_all else 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9)
    warm = round(recipe.warmup * steps)

    def rate(k: int) -> float:
        return k / warm if k < warm else (1 + math.cos(math.pi * (k - warm) / (steps - warm))) / 2

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def train(
    pixels: np.ndarray,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    after: Mapping[int, Callable[[nn.Module], None]] | None = None,
) -> tuple[nn.Sequential, list[dict[str, float]]]:
    """Train f and g on two views of each of uint8 [n, s, s, 3] images.

    Args:
      pixels: the images; they stay on the device.
      recipe: what and how.
      seed: of weights, order and views.
      device: "cpu" or "cuda"; on a GPU the step is compiled.
      after: called with the network after so many epochs.

    Returns:
      The network, and loss and seconds of every epoch.
    """
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    order, size = np.random.default_rng(seed), recipe.batch_size
    model = network(recipe).to(device, memory_format=torch.channels_last)
    steps = len(pixels) // size
    optimizer, schedule = optimizer_of(model, recipe, steps * recipe.epochs)
    resident = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()

    def make_views(rows: torch.Tensor) -> torch.Tensor:
        images = resident[rows].float() / 255
        count, side = len(images), images.shape[-1]
        return torch.cat([views(images, draw(count, side, images.device)) for _ in range(2)])

    def loss_on(both: torch.Tensor) -> torch.Tensor:
        return loss_of(model, both, recipe)

    if device == "cuda":
        make_views, loss_on = torch.compile(make_views), torch.compile(loss_on)
    epochs = []
    for epoch in range(1, recipe.epochs + 1):
        begin, losses = time.perf_counter(), torch.zeros((), device=device)
        rows = torch.from_numpy(order.permutation(len(pixels))[: steps * size]).to(device)
        for batch in rows.view(steps, size):
            loss = loss_on(make_views(batch))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses += loss.detach()
        mean = losses.item() / steps
        epochs.append({"epoch": epoch, "loss": mean, "seconds": time.perf_counter() - begin})
        print(f"epoch {epoch}: loss {mean:.3f}, {epochs[-1]['seconds']:.1f} s", flush=True)
        if after and epoch in after:
            after[epoch](model)
    return model, epochs


@torch.inference_mode()
def features(model: nn.Sequential, pixels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Compute h of uint8 [n, s, s, 3] images, in float32."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for part in np.array_split(pixels, max(1, len(pixels) // 500)):
        x = torch.from_numpy(part).to(device).permute(0, 3, 1, 2).float() / 255
        x = _normalized(x, recipe)
        parts.append(model[0](x.to(memory_format=torch.channels_last)).float().cpu().numpy())
    model.train()
    return np.concatenate(parts)


def save(model: nn.Sequential, path: Path) -> None:
    """Save the network's variables."""
    torch.save(model.state_dict(), path)
