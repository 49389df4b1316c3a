"""MoCo with its queue in the state: filled on the devices, saved, restored, gone on with."""

import jax
import numpy as np
from flax import nnx

from jaxssl import losses, models
from jaxssl.training.checkpoint import Checkpoints
from jaxssl.training.state import create_state
from jaxssl.training.step import make_train_step

from .conftest import BATCH, batch_at, leaves, method_of, placement, same

SIZE = 24  # not a multiple of the batch: the second push wraps around


class MoCo(nnx.Module):
    """A linear encoder, its slow copy, and the keys of past batches."""

    def __init__(self, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(64, 5, rngs=rngs)
        self.teacher = nnx.clone(self.encoder)
        models.freeze(self.teacher)
        self.queue = nnx.Variable(losses.Queue.empty(SIZE, 5))


def moco(model, batch, key, step):
    images = batch["image"].reshape(BATCH, 64)
    z, keys = model.encoder(images), model.teacher(images[:, ::-1])
    queue = model.queue.get_value()
    loss = losses.info_nce(
        z, keys, temperature=0.3, symmetric=False, references=queue, negatives="references"
    )
    model.queue.set_value(queue.push(keys))
    models.follow(model.teacher, model.encoder, 0.9)
    return loss, {"held": queue.where.sum()}


def advance(state, step, where, numbers):
    for number in numbers:
        state, metrics = step(state, where.put(batch_at(number)), jax.random.key(0))
    return state, int(metrics["held"])


def test_a_queue_is_saved_with_the_model_and_goes_on_where_it_stopped(tmp_path):
    method = method_of(moco, model=MoCo(nnx.Rngs(0)))
    ended = {}
    for where in (placement(8), placement(1)):
        step = make_train_step(method, where)
        folder = tmp_path / str(where.device_count)

        def start(where=where):
            return where.replicate(create_state(method))

        half, held = advance(start(), step, where, (0, 1))
        assert held == BATCH  # before the second push, which wraps around
        with Checkpoints(folder) as checkpoints:
            checkpoints.save(2, half, {})
        with Checkpoints(folder) as checkpoints:
            half, _ = checkpoints.restore(start())
        queue = jax.tree.map(np.asarray, half.rest["queue"])
        whole, held = advance(start(), step, where, (0, 1, 2))
        assert held == SIZE
        assert same(advance(half, step, where, (2,))[0], whole)
        ended[where.device_count] = whole
    for a, b in zip(*map(leaves, ended.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    # After two pushes of 16 into 24 places the first 8 hold the second batch's last rows: a slow
    # copy that has not moved yet made the first batch's keys.
    first = batch_at(0)["image"].reshape(BATCH, 64)[:, ::-1]
    keys = first @ np.asarray(MoCo(nnx.Rngs(0)).encoder.kernel[...], np.float64)
    np.testing.assert_allclose(queue.rows[8:16], keys[8:], rtol=1e-4)
    assert int(queue.next) == 2 * BATCH - SIZE
