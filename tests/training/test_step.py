"""The step against one written out by hand, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxssl.training.state import create_state, split
from jaxssl.training.step import make_eval_step, make_train_step

from .conftest import Net, batch_at, classify, compiled, leaves, method_of, placement, same


def run(devices: int, steps: int, loss=classify):
    method, where, step = compiled(devices, loss)
    state = where.replicate(create_state(method))
    losses = []
    for i in range(steps):
        state, metrics = step(state, where.put(batch_at(i)), jax.random.key(7))
        losses.append(float(metrics["loss"]))
    return state, losses


def test_step_equals_nnx_written_out_by_hand():
    """Against flax's own object style: nnx.value_and_grad and nnx.Optimizer, no split or merge."""
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    expected = []

    @nnx.jit
    def by_hand(model, optimizer, batch, key):
        loss, grads = nnx.value_and_grad(lambda m: classify(m, batch, key, 0)[0])(model)
        optimizer.update(model, grads)
        return loss

    for i in range(3):
        key = jax.random.fold_in(jax.random.key(7), i)
        expected.append(float(by_hand(model, optimizer, batch_at(i), key)))
    state, losses = run(1, 3)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    for mine, theirs in zip(
        jax.tree.leaves((state.params, state.rest)), jax.tree.leaves(split(model)), strict=True
    ):
        if not jnp.issubdtype(mine.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("devices", [2, 8])
def test_many_devices_equal_one(devices):
    """Global BatchNorm and a global mean: per-device statistics would differ in the first loss."""
    state, losses = run(1, 4)
    sharded, sharded_losses = run(devices, 4)
    np.testing.assert_allclose(sharded_losses, losses, rtol=2e-6)
    for a, b in zip(leaves(sharded), leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_compiles_once():
    traces = []
    run(2, 4, lambda *arguments: traces.append(1) or classify(*arguments))
    assert len(traces) == 1


def test_state_is_donated():
    method, where, step = compiled(1, classify)
    before = where.replicate(create_state(method))
    step(before, where.put(batch_at(0)), jax.random.key(7))
    assert jax.tree.leaves(before.params)[0].is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(split(method.model)))  # copied out


@pytest.mark.parametrize("where_bad", ["loss", "gradient"])
def test_a_bad_step_freezes_everything(where_bad):
    def sometimes_bad(model, batch, key, step):
        loss, metrics = classify(model, batch, key, step)
        if where_bad == "loss":
            return loss + jnp.where(step == 2, jnp.nan, 0.0), metrics
        # Finite value, infinite gradient: sqrt at 0 in step 2, at 1 elsewhere.
        bias = model.head[0].bias.sum()
        zero = bias - jax.lax.stop_gradient(bias)
        return loss + jnp.sqrt(zero + jnp.where(step == 2, 0.0, 1.0)), metrics

    good, _ = run(1, 2, sometimes_bad)
    bad, _ = run(1, 5, sometimes_bad)
    assert int(bad.first_bad_step) == 2
    assert int(bad.step) == 2
    assert same(bad.rest, good.rest)  # BatchNorm's statistics and random counters too
    assert same(bad.opt_state, good.opt_state)
    assert same(bad.params, good.params)


def test_only_the_trainable_part_moves():
    model, where = Net(nnx.Rngs(0)), placement(1)
    model.conv.kernel = nnx.Variable(model.conv.kernel[...])  # no longer a Param
    method = method_of(model=model, optimizer=optax.sgd(0.1))
    state = where.replicate(create_state(method))
    kernel = np.asarray(state.rest["conv"]["kernel"])
    step = make_train_step(method, where)
    state, _ = step(state, where.put(batch_at(0)), jax.random.key(7))
    np.testing.assert_array_equal(state.rest["conv"]["kernel"], kernel)
    assert "conv" not in state.params


def test_rows_stay_on_the_devices_that_made_them():
    """No device waits for another before the host fetches; what is fetched is the same."""
    state, _ = run(1, 1)
    model, where = Net(nnx.Rngs(0)), placement(8)
    batch, key = where.put(batch_at(0)), jax.random.key(0)
    state = where.replicate(jax.device_get(state))
    whole, rows = (
        make_eval_step(model, lambda m, b, k, step: m(b["image"]), where, by_image=rows)(
            state, batch, key
        )
        for rows in (False, True)
    )
    assert whole.sharding.is_fully_replicated
    assert [shard.data.shape[0] for shard in rows.addressable_shards] == [len(rows) // 8] * 8
    np.testing.assert_array_equal(rows, whole)


def test_evaluation_uses_running_statistics_and_drops_nothing():
    state, _ = run(1, 3)
    where = placement(1)
    model = Net(nnx.Rngs(0))
    evaluate = make_eval_step(model, lambda m, b, k, step: m(b["image"]), where)
    batch = where.put(batch_at(0))
    one = evaluate(state, batch, jax.random.key(0))
    alone = evaluate(state, where.put({"image": batch_at(0)["image"][:1]}), jax.random.key(1))
    np.testing.assert_allclose(one[:1], alone, rtol=1e-5, atol=1e-6)  # an image's output is its own
    x = jax.nn.relu(
        (
            jax.lax.conv_general_dilated(
                batch_at(0)["image"],
                state.params["conv"]["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            - state.rest["norm"]["mean"].reshape(1, 1, 1, -1)
        )
        / jnp.sqrt(state.rest["norm"]["var"] + 1e-5).reshape(1, 1, 1, -1)
        * state.params["norm"]["scale"].reshape(1, 1, 1, -1)
        + state.params["norm"]["bias"].reshape(1, 1, 1, -1)
    ).mean((1, 2))
    head = state.params["head"][0]
    np.testing.assert_allclose(one, x @ head["kernel"] + head["bias"].reshape(1, -1), atol=1e-5)


def test_an_optimizer_may_follow_the_loss():
    """optax's plateau, told the loss of each step, lowers the rate as it does by hand."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.1, patience=2, accumulation_size=2)
    values = jnp.array([1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0])

    def given(model, batch, key, step):
        loss, metrics = classify(model, batch, key, step)
        return loss + jax.lax.stop_gradient(values[step] - loss), metrics

    method, where = method_of(given, optimizer=optax.chain(optax.sgd(0.1), plateau)), placement(1)
    state = where.replicate(create_state(method))
    step = make_train_step(method, where)
    scales = []
    for i in range(len(values)):
        state, metrics = step(state, where.put(batch_at(i)), jax.random.key(7))
        assert float(metrics["loss"]) == values[i]
        scales.append(float(state.opt_state[1].scale))
    np.testing.assert_allclose(scales, [1, 1, 1, 1, 1, 0.1, 0.1])


class WithTeacher(nnx.Module):
    """A network, and a slow copy of it that the loss moves: state that no gradient sees."""

    def __init__(self):
        self.student = nnx.Linear(64, 4, rngs=nnx.Rngs(0))
        self.teacher = nnx.Variable(self.student.kernel[...])


def test_what_the_loss_moves_beside_the_gradient_is_kept():
    """Against NumPy: the teacher is the mean of the students before it; validation moves none."""

    def loss(model, batch, key, step):
        model.teacher[...] = (model.teacher[...] + model.student.kernel[...]) / 2
        out = model.student(batch["image"].reshape(-1, 64))
        # A schedule: the step is known, in validation too.
        return (out**2).mean() * (1 + step), {"step": step}

    method, where = method_of(loss, model=WithTeacher(), optimizer=optax.sgd(0.1)), placement(8)
    step = make_train_step(method, where)
    evaluate = make_eval_step(method.model, method.loss, where)
    state, key = where.replicate(create_state(method)), jax.random.key(0)
    expected = np.asarray(state.rest["teacher"])
    for i in range(3):
        expected = (expected + np.asarray(state.params["student"]["kernel"])) / 2
        state, metrics = step(state, where.put(batch_at(i)), key)
        assert int(metrics["step"]) == i
        np.testing.assert_allclose(state.rest["teacher"], expected, rtol=1e-6)
    value, metrics = evaluate(state, where.put(batch_at(0)), key)
    again, _ = evaluate(state, where.put(batch_at(0)), key)
    assert (int(metrics["step"]), float(value)) == (3, float(again))
    np.testing.assert_allclose(state.rest["teacher"], expected, rtol=1e-6)
