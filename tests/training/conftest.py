"""A small model with all that a state can hold, and a run of it that the tests stop and break."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.devices import Placement
from jaxssl.training.loop import Work, fit
from jaxssl.training.method import Method
from jaxssl.training.plan import Plan
from jaxssl.training.runs import RunFolder
from jaxssl.training.state import create_state
from jaxssl.training.step import make_train_step

BATCH = 16
# What a program notes of its run, without which a folder is none.
FACTS = {"study": "Net", "dataset": "noise", "recipe": {}}


class Net(nnx.Module):
    """Convolution, BatchNorm (statistics) and dropout (random counters), then a list of layers."""

    def __init__(self, rngs: nnx.Rngs, classes: int = 4):
        self.conv = nnx.Conv(1, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.List([nnx.Linear(8, classes, rngs=rngs)])

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(images)))
        return self.head[0](self.drop(x.mean((1, 2))))


def classify(model, batch, key, step):
    """A loss with noise from the step's key: a wrong key or order changes every number."""
    images = batch["image"] + 0.1 * jax.random.normal(key, batch["image"].shape)
    losses = optax.softmax_cross_entropy_with_integer_labels(model(images), batch["label"])
    return losses.mean(), {"brightness": images.mean()}


def batch_at(step: int) -> dict[str, np.ndarray]:
    """The batch of a step, a function of the step as the data room's stream is."""
    random = np.random.default_rng(step)
    images = random.uniform(size=(BATCH, 8, 8, 1)).astype(np.float32)
    return {"image": images, "label": (images.mean((1, 2, 3)) > 0.5).astype(np.int32)}


def stream(step: int):
    while True:
        yield batch_at(step)
        step += 1


def placement(devices: int) -> Placement:
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    return Placement(
        NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    )


def method_of(loss=None, *, model=None, optimizer=None, **options) -> Method:
    """A method of `Net` and Adam, or of what is given."""
    optimizer = optimizer or optax.adam(1e-2)
    return Method("Net", model or Net(nnx.Rngs(0)), loss or classify, optimizer, **options)


@functools.cache
def compiled(devices: int, loss, optimizer=None):
    """One compilation a loss and device count, for all tests."""
    method, where = method_of(loss, optimizer=optimizer), placement(devices)
    return method, where, make_train_step(method, where)


@dataclasses.dataclass
class Training:
    """A whole run in a folder, started as often as a test likes."""

    path: Path
    devices: int = 1
    total: int = 12
    evaluate_every: int = 4
    patience: int | None = None
    save_seconds: float = 1e9
    log_every: int = 2
    steps_per_dispatch: int = 1
    stream: object = staticmethod(stream)
    loss: object = staticmethod(classify)
    evaluate: object = None
    optimizer: object = None
    best: tuple = ("loss", "min")

    def __call__(self):
        method, where, train_step = compiled(self.devices, self.loss, self.optimizer)
        method = dataclasses.replace(method, best=self.best)
        plan = Plan(
            self.total,
            4,
            self.evaluate_every,
            self.log_every,
            self.save_seconds,
            patience=self.patience,
            steps_per_dispatch=self.steps_per_dispatch,
        )
        evaluate = self.evaluate or (lambda state: {"loss": float(state.step) + 1})
        with (
            RunFolder(self.path, {"seed": 0}, facts=FACTS) as run,
            Checkpoints(run.path / "checkpoints") as checkpoints,
        ):
            return fit(
                where.replicate(create_state(method)),
                Work(train_step, self.stream, evaluate, jax.random.key(7), method.score),
                plan=plan,
                placement=where,
                run=run,
                checkpoints=checkpoints,
            )


@pytest.fixture
def training(tmp_path):
    return Training(tmp_path / "run")


def leaves(state) -> list[np.ndarray]:
    """Every array of a state, random keys as their data."""
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(state)
    ]


def same(a, b) -> bool:
    """Bit for bit."""
    return all(x.tobytes() == y.tobytes() for x, y in zip(leaves(a), leaves(b), strict=True))
