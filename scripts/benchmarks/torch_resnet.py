"""The step of `simclr_step.py` in PyTorch: the same ResNet-18, head, loss and SGD."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TorchStep:
    """A step ready to be timed.

    Attributes:
      burst: makes so many steps and waits for the last.
      parameters: of network and head.
    """

    burst: Callable[[int], None]
    parameters: int


def torch_step(width: int, size: int, batch: int, features: int, temperature: float) -> TorchStep:
    """Run SimCLR on two batches of views that are ready on the device."""
    import torch
    from torch_simclr import nt_xent

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    network = _network(width, features).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    views = torch.rand(2 * batch, 3, size, size, device=device)
    views = views.to(memory_format=torch.channels_last)

    def loss_of(views: torch.Tensor) -> torch.Tensor:
        return nt_xent(network(views).float(), temperature)

    compiled = torch.compile(loss_of) if gpu else loss_of

    def burst(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16) if gpu else contextlib.nullcontext():
                loss = compiled(views)
            loss.backward()
            optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return TorchStep(burst, parameters)


def _network(width: int, features: int):
    """Make ResNet-18 with the CIFAR stem under z = W2 relu(W1 h)."""
    from torch import nn

    def conv(i: int, o: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o)]

    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int):
            super().__init__()
            self.main = nn.Sequential(*conv(i, o, 3, stride), nn.ReLU(), *conv(o, o, 3))
            same = stride == 1 and i == o
            self.shortcut = nn.Identity() if same else nn.Sequential(*conv(i, o, 1, stride))

        def forward(self, x):
            return nn.functional.relu(self.main(x) + self.shortcut(x))

    widths = [width * 2**stage for stage in range(4)]
    blocks, i = [], width
    for stage, o in enumerate(widths):
        blocks += [Block(i, o, 2 if stage else 1), Block(o, o, 1)]
        i = o
    head = [nn.Linear(i, i, bias=False), nn.ReLU(), nn.Linear(i, features, bias=False)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*conv(3, width, 3), nn.ReLU(), *blocks, *pool, *head)
