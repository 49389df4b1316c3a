"""h beside h of the start: what is learnt, what stands, what is held once."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxssl.models import BesideStart, ConvNet, Embedder, Frozen, ProjectionHead, freeze


def made(until=None):
    encoder = ConvNet(widths=(4, 6, 8), channels=1, rngs=nnx.Rngs(0))
    if until is not None:
        freeze(encoder, until=until)
    model = Embedder(encoder, ProjectionHead(8, kind="linear", rngs=nnx.Rngs(1)))
    plain = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    model.joined = BesideStart(model.encoder)
    return model, plain


def test_the_second_half_stands_while_the_encoder_learns():
    model, plain = made()
    assert [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))] == plain
    images = jax.random.uniform(jax.random.key(0), (5, 16, 16, 1))
    model.eval()
    before = model.joined(images)
    assert before.shape == (5, model.joined.features) == (5, 16)
    rows = model.encoder(images)
    halves = np.asarray(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(before, np.concatenate([halves, halves], 1), atol=1e-5)
    # A step as `training` takes it: split once, merged, a gradient of the trainable, updated.
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        merged = nnx.merge(graphdef, params, rest, copy=True)
        return (merged(images)[1] ** 2).sum(), nnx.split(merged, nnx.Param, ...)[2]

    gradient, rest = jax.grad(loss, has_aux=True)(params)
    model = nnx.merge(graphdef, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), rest)
    model.eval()
    after = model.joined(images)
    assert jnp.abs(after[:, :8] - before[:, :8]).max() > 1e-3
    np.testing.assert_array_equal(after[:, 8:], before[:, 8:])


def test_frozen_blocks_are_held_once():
    alone, shared = (made(until=until)[0] for until in (None, 2))
    kernels = [conv.kernel for conv in shared.joined.start.convs]
    assert [a.kernel is b for a, b in zip(shared.encoder.convs, kernels, strict=True)] == [
        *(True, True, False)
    ]
    assert shared.joined.start.norms[0].mean is shared.encoder.norms[0].mean
    assert shared.joined.start.norms[2].mean is not shared.encoder.norms[2].mean

    def count(model):
        state = nnx.state(model, (nnx.Param, Frozen, nnx.BatchStat))
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    twice = sum(count(part) for block in alone.encoder.blocks_list()[:2] for part in block[1])
    assert count(alone) - count(shared) == twice
