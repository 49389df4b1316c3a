"""Steps, state and files of a training run; this room does not know which loss it trains.

- What is trained: `Method`, and `make_optimizer` for most of them
- One step, on one device or many: `data_placement`, `create_state`, `make_train_step`,
  `make_eval_step`
- A run: `fit` does its `Work` by its `Plan`, in a `RunFolder` with `Checkpoints`
- Several processes: `jaxssl.training.processes`
- Whether two views' projections are alive: `pair_health`; rows of length 1: `unit_rows`
"""

from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.devices import Placement, data_placement
from jaxssl.training.geometry import chance_loss, pair_health, unit_rows
from jaxssl.training.loop import Work, fit
from jaxssl.training.method import Batch, Loss, Method, Metrics
from jaxssl.training.optimizers import make_optimizer
from jaxssl.training.plan import Plan
from jaxssl.training.runs import RunFolder
from jaxssl.training.state import TrainState, create_state
from jaxssl.training.step import make_eval_step, make_train_step

__all__ = [
    "Batch",
    "Checkpoints",
    "Loss",
    "Method",
    "Metrics",
    "Placement",
    "Plan",
    "RunFolder",
    "TrainState",
    "Work",
    "chance_loss",
    "create_state",
    "data_placement",
    "fit",
    "make_eval_step",
    "make_optimizer",
    "make_train_step",
    "pair_health",
    "unit_rows",
]
