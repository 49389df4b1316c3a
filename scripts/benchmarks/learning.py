"""Does SimCLR learn here what it learns in PyTorch? The recipe of a run, by torch and torchvision.

On the same images, by the same recipe; each library draws its own numbers, the first weights too:
  `python -m experiments.simclr --preset cifar10-cpu --optimizer sgd --learning-rate .12
  --weight-decay 5e-4 --head mlp-bn --run-dir RUN`
  `python -m experiments.linear_eval RUN --checkpoint last`
  `python scripts/benchmarks/learning.py RUN --seed 0 --json learning.json`

The first is this project's, the last PyTorch's: the same encoder and head, torchvision's views,
SGD on a cosine. Both are judged by `jaxssl.analysis`: linear evaluation and kNN of h on the test
images. It is for networks that a CPU trains; the larger ones are compared layer by layer in the
tests.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_encoders import torch_encoder
from torchvision import transforms

from experiments import finished
from jaxssl.analysis import evaluation
from jaxssl.data import ImageSet
from jaxssl.files import write_json
from jaxssl.training import runs

# What the recipe must be for its twin to be below.
KNOWN = {"head": "mlp-bn", "optimizer": "sgd", "schedule": "cosine", "views": "cifar"}


def main() -> None:
    """Train the twin of a run and judge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = finished.open(options.run)
    config = run.record["recipe"]
    other = {name: config[name] for name, value in KNOWN.items() if config[name] != value}
    if other or config["head"] not in ("mlp2", "mlp-bn"):
        parser.error(
            f"{options.run} has {other}, head {config['head']}: there is a twin of {KNOWN}"
        )
    data = run.load_data()
    sets = {"train": data.train, "val": data.val, "test": data.test}
    pixels = {name: _pixels(images) for name, images in sets.items()}
    model = train(pixels["train"], config, seed=options.seed)
    features = {name: _features(model[0], x) for name, x in pixels.items()}
    row, _ = evaluation.evaluate(features, {name: images.labels for name, images in sets.items()})
    print(f"PyTorch {torch.__version__}: linear {row['linear']['top']}, kNN {row['knn']['top']}")
    if options.json:
        versions = {"torch": torch.__version__, "threads": options.threads, "seed": options.seed}
        images = {name: len(x) for name, x in pixels.items()}
        found = {"recipe": config, "images": images, **versions, "row": row, **runs.provenance()}
        write_json(options.json, found)


def train(pixels: np.ndarray, config: dict[str, Any], *, seed: int) -> nn.Sequential:
    """Train f and g by NT-Xent on two views of each of uint8 [n, h, w, 3] images."""
    torch.manual_seed(seed)
    order, size = np.random.default_rng(seed), config["batch_size"]
    encoder = torch_encoder(config["encoder"], config["image_size"])
    h = len(encoder(torch.zeros(2, 3, *pixels.shape[1:3]))[0])
    head = [nn.Linear(h, h, bias=False), nn.BatchNorm1d(h), nn.ReLU()]
    model = nn.Sequential(
        encoder, nn.Sequential(*head, nn.Linear(h, config["features"], bias=False))
    )
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    decay = config["weight_decay"]
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0}]
    optimizer = torch.optim.SGD(groups, lr=config["learning_rate"], momentum=0.9)
    steps = len(pixels) // size
    total = steps * config["epochs"]
    warm = round(config["warmup"] * total)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: (
            k / warm if k < warm else (1 + math.cos(math.pi * (k - warm) / (total - warm))) / 2
        ),
    )
    # SimCLR's for CIFAR-10: strength .5, no blur.
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    view = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomResizedCrop(pixels.shape[1]),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
        ]
    )
    positives = torch.arange(2 * size).roll(size)
    diagonal = torch.eye(2 * size, dtype=torch.bool)
    for epoch in range(config["epochs"]):
        losses = []
        for batch in order.permutation(len(pixels))[: steps * size].reshape(steps, size):
            views = torch.stack([view(pixels[i]) for _ in range(2) for i in batch])
            z = nn.functional.normalize(model(views), dim=1)
            logits = (z @ z.T / config["temperature"]).masked_fill(diagonal, float("-inf"))
            loss = nn.functional.cross_entropy(logits, positives)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: train loss {np.mean(losses):.3f}", flush=True)
    return model


def _pixels(images: ImageSet) -> np.ndarray:
    return np.stack([images.load(i) for i in range(len(images))])


def _features(encoder: nn.Module, pixels: np.ndarray) -> np.ndarray:
    encoder.eval()
    with torch.inference_mode():
        parts = [
            encoder(torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255).numpy()
            for part in np.array_split(pixels, max(1, len(pixels) // 250))
        ]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
