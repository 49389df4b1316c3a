"""The newer losses in value and gradient, each beside its best peer's formula in PyTorch.

  `python scripts/benchmarks/contrastive.py --json contrastive.json`

Rows of 128 numbers, as many of each tower or view. The peers' formulas are written
anew from their descriptions, as one would with PyTorch: absent unless it is installed.

  info_nce, siglip    open_clip's ClipLoss and SigLipLoss, on one device
  dcl                 lightly's DCLLoss
  vicreg, barlow      solo-learn's and lightly's, with the terms weighted as here
  byol, dino          lightly's NegativeCosineSimilarity (plus 1, times 2) and DINOLoss
  sup_con, queue      pytorch-metric-learning's CrossBatchMemory around SupConLoss, dense: the batch
                      against itself and 16,384 rows of a queue

  here                as the loss chooses
  here, HIGH, here, bfloat16
                      with `precision=`; on a CPU HIGH is HIGHEST
  torch               the peer's formula

The value is printed too: contenders of one question agree, and that of "bfloat16" says its error.
How it is measured: `_measure.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import _measure
import jax
import jax.numpy as jnp
import numpy as np

from jaxssl import losses

TEMPERATURE = 0.1
ROWS = (256, 1024, 4096)
QUEUE = 16384


def arrays(rows: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two views that resemble one another, and the rows of a queue."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(rows, d))
    b, queue = a + 0.5 * rng.normal(size=(rows, d)), rng.normal(size=(QUEUE, d))
    return a.astype(np.float32), b.astype(np.float32), queue.astype(np.float32)


def labels_of(rows: int) -> np.ndarray:
    """Classes of eight rows."""
    return np.arange(rows) // 8


def here(loss: str, rows: int, d: int, precision: str = "highest") -> _measure.Run:
    """This library."""
    a, b, queue = map(jnp.asarray, arrays(rows, d))
    options: dict[str, Any] = {"precision": precision}
    if loss == "sup_con, queue":
        old = losses.References(queue, jnp.asarray(labels_of(QUEUE)))
        options |= {"labels": jnp.asarray(labels_of(rows)), "references": old}
        return _measure.value_and_grad(losses.sup_con, a, temperature=TEMPERATURE, **options)
    if loss == "dino":
        views = jnp.stack([a, b])
        centre = jnp.zeros(d)
        return _measure.value_and_grad(
            lambda student: losses.dino(student, jax.lax.stop_gradient(views), centre, **options),
            views,
        )
    if loss in ("info_nce", "siglip", "dcl"):
        options["temperature"] = TEMPERATURE
    of = {"barlow": losses.barlow_twins}.get(loss) or getattr(losses, loss)
    return _measure.value_and_grad(of, a, b, argnums=(0, 1), **options)


def high(loss: str, rows: int, d: int) -> _measure.Run:
    """Three passes of bfloat16 where the device has them."""
    return here(loss, rows, d, "high")


def bfloat16(loss: str, rows: int, d: int) -> _measure.Run:
    """Factors rounded to bfloat16."""
    return here(loss, rows, d, "bfloat16")


def peer(loss: str, rows: int, d: int) -> _measure.Run:
    """The peer's formula in PyTorch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b, queue = (torch.tensor(x, device=device) for x in arrays(rows, d))
    a.requires_grad_()
    b.requires_grad_()
    formula = _formulas(torch, rows, queue)[loss]

    def run() -> float:
        a.grad = b.grad = None
        value = formula(a, b)
        value.backward()
        return value.item()

    return run


def _formulas(torch: Any, rows: int, queue: Any) -> dict[str, Callable[[Any, Any], Any]]:
    functional, device = torch.nn.functional, queue.device
    unit = lambda x: functional.normalize(x, dim=1)  # noqa: E731
    numbers = torch.arange(rows, device=device)

    def info_nce(a: Any, b: Any) -> Any:
        logits = unit(a) @ unit(b).T / TEMPERATURE
        both = functional.cross_entropy(logits, numbers) + functional.cross_entropy(
            logits.T, numbers
        )
        return both / 2

    def siglip(a: Any, b: Any) -> Any:
        logits = unit(a) @ unit(b).T / TEMPERATURE - 10.0
        signs = 2 * torch.eye(rows, device=device) - 1
        return -functional.logsigmoid(signs * logits).sum() / rows

    def dcl(a: Any, b: Any) -> Any:
        a, b = unit(a), unit(b)
        own = torch.eye(rows, dtype=torch.bool, device=device)
        within = [(x @ x.T / TEMPERATURE).masked_fill(own, -torch.inf) for x in (a, b)]
        across = a @ b.T / TEMPERATURE
        others = across.masked_fill(own, -torch.inf)
        sums = [
            torch.logsumexp(torch.cat(pair, dim=1), dim=1)
            for pair in ((within[0], others), (within[1], others.T))
        ]
        return (sums[0] + sums[1]).mean() / 2 - across.diagonal().mean()

    def vicreg(a: Any, b: Any) -> Any:
        loss = 25.0 * functional.mse_loss(a, b)
        for z in (a, b):
            z = z - z.mean(0)
            spread = torch.sqrt(z.var(0) + 1e-4)
            cov = z.T @ z / (rows - 1)
            mixed = cov.pow(2).sum() - cov.diagonal().pow(2).sum()
            loss = loss + 25.0 * functional.relu(1 - spread).mean() + mixed / z.shape[1]
        return loss

    def barlow(a: Any, b: Any) -> Any:
        a, b = ((z - z.mean(0)) / z.std(0, unbiased=False) for z in (a, b))
        c = a.T @ b / rows
        own = c.diagonal()
        return (1 - own).pow(2).sum() + 5e-3 * (c.pow(2).sum() - own.pow(2).sum())

    def byol(a: Any, b: Any) -> Any:
        return (2 - 2 * functional.cosine_similarity(a, b.detach())).mean()

    def dino(a: Any, b: Any) -> Any:
        targets = [torch.softmax(z.detach() / 0.04, dim=1) for z in (a, b)]
        logs = [torch.log_softmax(z / 0.1, dim=1) for z in (a, b)]
        pairs = ((targets[0], logs[1]), (targets[1], logs[0]))
        return sum(-(t * p).sum(1).mean() for t, p in pairs) / 2

    def queued(a: Any, b: Any) -> Any:
        labels, old = torch.tensor(labels_of(rows)), torch.tensor(labels_of(QUEUE))
        columns = torch.cat([unit(a), unit(queue)])
        logits = unit(a) @ columns.T / TEMPERATURE
        own = torch.zeros_like(logits, dtype=torch.bool)
        own[:, :rows].fill_diagonal_(True)
        same = (labels[:, None] == torch.cat([labels, old])[None]).to(device) & ~own
        log = torch.logsumexp(logits.masked_fill(own, -torch.inf), dim=1)
        return (log - (logits * same).sum(1) / same.sum(1)).mean()

    table = {"info_nce": info_nce, "siglip": siglip, "dcl": dcl, "vicreg": vicreg}
    return table | {"barlow": barlow, "byol": byol, "dino": dino, "sup_con, queue": queued}


LOSSES = ("info_nce", "siglip", "dcl", "vicreg", "barlow", "byol", "dino", "sup_con, queue")
CONTENDERS = {"here": here, "here, HIGH": high, "here, bfloat16": bfloat16, "torch": peer}
LIBRARIES = {"torch": ["torch"]}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="of each view or tower")
    parser.add_argument("--d", type=int, default=128, help="numbers of a row")
    parser.add_argument("--losses", nargs="+", default=LOSSES, choices=LOSSES)
    _measure.add_flags(parser)
    options = parser.parse_args(arguments)
    results = []
    for loss in options.losses:
        # Where nothing is multiplied, precision changes nothing.
        names = [n for n in CONTENDERS if loss not in ("byol", "dino") or n in ("here", "torch")]
        for rows in options.rows[:1] if options.quick else options.rows:
            case = {"loss": loss, "rows": rows, "d": options.d}
            results += _measure.measure(__file__, names, case, options)
    _measure.print_table(results, reference="here")
    _measure.write_json(options.json, options, results, reference="here")


if __name__ == "__main__":
    main()
