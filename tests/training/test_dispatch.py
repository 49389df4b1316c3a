"""Several steps in one dispatch, and images on the devices, against one streamed step at a time."""

import dataclasses
import functools
import itertools
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxssl.errors import Stopped
from jaxssl.files import read_lines as read_metrics
from jaxssl.training.plan import Plan
from jaxssl.training.state import create_state
from jaxssl.training.step import make_train_step

from .conftest import batch_at, classify, leaves, method_of, placement, same

KEY = jax.random.key(7)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
LABELS = (IMAGES.mean((1, 2, 3)) > 127.5).astype(np.int32)


class Small(nnx.Module):
    """Statistics, random counters and parameters, and little to compile."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(self.drop(self.norm(images).reshape(-1, 64)))


def of_bytes(model, batch, key, step):
    """A loss on uint8 images, with losses weighed by the step's key, and bad in step 5."""
    assert batch["image"].dtype == jnp.uint8
    logits = model(batch["image"] / jnp.float32(255))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    loss = (losses * jax.random.uniform(key, losses.shape)).mean()
    return loss + jnp.where(step == 5, jnp.nan, 0.0), {"largest": logits.max()}


def positions(step: int) -> dict[str, np.ndarray]:
    index = np.random.default_rng(step).integers(0, 40, 16, np.int32)
    return {"label": LABELS[index], "index": index}


def pixels(step: int) -> dict[str, np.ndarray]:
    batch = positions(step)
    return batch | {"image": IMAGES[batch["index"]]}


@functools.cache
def made(*, resident: bool):
    """Method, placement over eight devices, and the step."""
    method = method_of(of_bytes, model=Small(nnx.Rngs(0)), optimizer=optax.sgd(0.1, 0.9))
    where = placement(8)
    images = where.reside(IMAGES.shape, lambda: IMAGES) if resident else None
    return method, where, make_train_step(method, where, images=images)


def run(dispatches: list[int], *, resident: bool = True):
    """The state after dispatches of these lengths, and the metrics of each one's last step."""
    method, where, step = made(resident=resident)
    batches = positions if resident else pixels
    state, seen, done = where.replicate(create_state(method)), [], 0
    for count in dispatches:
        if count == 1:
            state, metrics = step(state, where.put(batches(done)), KEY)
        else:
            stacked = where.put_stacked([batches(done + i) for i in range(count)])
            state, metrics = step.several(state, stacked, KEY)
        done += count
        seen.append({name: float(value) for name, value in metrics.items()})
    return state, seen


def test_resident_images_equal_streamed_ones():
    streamed = run([1] * 3, resident=False)
    gathered = run([1] * 3)
    assert same(gathered[0], streamed[0])
    assert gathered[1] == streamed[1]


def test_several_steps_equal_as_many_single_ones():
    state, seen = run([1] * 5)
    together, last = run([2, 1, 2])
    assert int(together.step) == 5
    for a, b in zip(leaves(together), leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    for mine, theirs in zip(last, (seen[1], seen[2], seen[4]), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_the_state_is_donated_and_the_images_are_not():
    method, where, step = made(resident=True)
    before = where.replicate(create_state(method))
    after, _ = step.several(before, where.put_stacked([positions(0), positions(1)]), KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state)))
    step.several(after, where.put_stacked([positions(2), positions(3)]), KEY)


def test_a_bad_step_in_a_dispatch_freezes_all_after_it():
    good, _ = run([2, 2, 1])
    bad, _ = run([2, 2, 1, 2])
    assert (int(bad.first_bad_step), int(bad.step)) == (5, 5)
    assert same((bad.params, bad.rest, bad.opt_state), (good.params, good.rest, good.opt_state))


def test_a_dispatch_never_goes_past_a_step_at_which_something_happens():
    random = np.random.default_rng(0)
    for _ in range(300):
        total, evaluate, log, k = (int(x) for x in random.integers(1, 30, 4))
        plan = Plan(total, 4, evaluate, log, steps_per_dispatch=k)
        step, ends = 0, [0]
        while step < total:
            count = plan.next_dispatch(step)
            assert count in (1, k)
            step += count
            ends.append(step)
        happens = {s for s in range(1, total + 1) if s % evaluate == 0 or s % log == 0} | {total}
        assert happens <= set(ends)
        # As few as that allows: single steps lie only before a boundary closer than k.
        for begin, end in itertools.pairwise(ends):
            if end - begin < k:
                assert any(begin < s < begin + k for s in happens)


@dataclasses.dataclass
class Stop:
    """`batch_at` as a stream, with a signal to this process while batch `step` is fetched."""

    step: int
    number: int | None = None

    def __call__(self, start: int):
        while True:
            if start == self.step:
                os.kill(os.getpid(), self.number)
            yield batch_at(start)
            start += 1


def rows(training):
    found = read_metrics(training.path / "metrics.jsonl")
    return [
        {name: value for name, value in row.items() if name not in ("time", "input_wait")}
        for row in found
    ]


def test_a_stopped_run_ends_bit_for_bit_and_compiles_no_more(tmp_path, training):
    """Dispatches end at 3 6 7 8 11 14: a stop while one is fetched waits for its end."""
    traces = []

    def counted(*arguments):
        traces.append(1)
        return classify(*arguments)

    whole = dataclasses.replace(
        training,
        loss=counted,
        total=14,
        evaluate_every=8,
        log_every=7,
        steps_per_dispatch=3,
    )
    state, facts = whole()
    after_first = len(traces)
    broken = dataclasses.replace(whole, path=tmp_path / "broken")
    for step, number, end in [
        (1, signal.SIGTERM, 3),
        (7, signal.SIGINT, 8),
        (9, signal.SIGTERM, 11),
    ]:
        with pytest.raises(Stopped, match=f"after step {end} of 14"):
            dataclasses.replace(broken, stream=Stop(step, number))()
    again, broken_facts = broken()
    assert same(again, state)
    assert rows(broken) == rows(whole)
    assert broken_facts["steps"] == facts["steps"] == int(again.step) == 14
    assert len(traces) == after_first

    plain = dataclasses.replace(whole, path=tmp_path / "plain", steps_per_dispatch=1)
    one, _ = plain()
    for a, b in zip(leaves(state), leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert [(row["step"], row["split"]) for row in rows(whole)] == [
        *((7, "train"), (8, "val"), (14, "train"), (14, "val"))
    ]
    for mine, theirs in zip(rows(whole), rows(plain), strict=True):
        assert (mine.pop("split"), mine) == (theirs.pop("split"), pytest.approx(theirs, rel=1e-4))


FAR_AHEAD = """
import sys, types
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jaxssl.training.devices import data_placement
from jaxssl.training.dispatch import TrainStep
from jaxssl.training.step import make_eval_step

placement = data_placement(8)
state, key = placement.replicate((jnp.zeros(()), jax.random.key(0)))
batch = placement.put({"x": np.ones((8, 100), np.float32)})
if sys.argv[1] == "train":
    step = TrainStep(lambda s, b, k: (s + b["x"].sum(), {"most": b["x"].max()}), placement)
    for _ in range(3_000):
        state, metrics = step(state, batch, key)
else:
    model = nnx.Linear(100, 1, rngs=nnx.Rngs(0))
    params, rest = placement.replicate(nnx.split(model, nnx.Param, ...)[1:])
    evaluate = make_eval_step(model, lambda m, b, k, s: b["x"].sum() + s, placement)
    for _ in range(3_000):
        now = types.SimpleNamespace(params=params, rest=rest, step=state)
        state = evaluate(now, batch, key)
print(float(state))
"""


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("what", ["train", "evaluate"])
def test_a_host_far_ahead_of_several_cpu_devices_does_not_stop_them(what, count):
    """Without `Pace` some hundred steps were made, and then none ever again."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "PJRT_"))}
    ran = subprocess.run(
        [sys.executable, "-c", FAR_AHEAD, what],
        env=environment | {"JAX_NUM_CPU_DEVICES": str(count)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) == 3_000 * 800
