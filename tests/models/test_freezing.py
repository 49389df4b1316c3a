import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models import (
    ConvNet,
    Embedder,
    Frozen,
    ProjectionHead,
    freeze,
    keep_statistics,
    learning_rate_scales,
)
from jaxssl.models.layers import BatchNorm, Dropout


class Branch(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.parts = nnx.List([nnx.Linear(3, 3, rngs=rngs), BatchNorm(3, rngs=rngs)])
        self.depth = Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for part in self.parts:
            x = part(x)
        return self.depth(x)


def test_a_frozen_module_is_a_fixed_function_in_training():
    branch, x = Branch(), jax.random.normal(jax.random.key(0), (6, 2, 2, 3))
    branch.parts[1].mean.set_value(jnp.array([0.1, 0.2, 0.3]))
    fixed = nnx.view(branch, use_running_average=True, deterministic=True)(x)
    assert (branch(x) != fixed).any()
    branch.parts[1].mean.set_value(jnp.array([0.1, 0.2, 0.3]))
    branch.parts[1].var.set_value(jnp.ones(3))
    freeze(branch)
    branch.train()
    np.testing.assert_array_equal(branch(x), fixed)
    view = nnx.view(branch, use_running_average=False, deterministic=False)
    np.testing.assert_array_equal(view(x), fixed)
    np.testing.assert_allclose(branch.parts[1].mean[...], [0.1, 0.2, 0.3])


def test_frozen_parameters_are_no_parameters_and_still_state():
    branch = Branch()
    before = nnx.to_pure_dict(nnx.state(branch, nnx.Param))
    freeze(branch.parts[0])
    assert set(nnx.to_pure_dict(nnx.state(branch, nnx.Param))["parts"]) == {1}
    frozen = nnx.to_pure_dict(nnx.state(branch, Frozen))["parts"][0]
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(frozen[name], before["parts"][0][name])
    assert not branch.parts[1].frozen


def net() -> ConvNet:
    return ConvNet(widths=(2, 3, 4), channels=1, rngs=nnx.Rngs(0))


def frozen_blocks(encoder) -> list[bool]:
    return [
        not jax.tree.leaves(nnx.state(kernel, nnx.Param)) and norm.frozen
        for _, (kernel, norm) in encoder.blocks_list()
    ]


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("block0", [True, False, False]),
        ("block2", [True, True, True]),
        (2, [True, True, False]),
        (0, [False, False, False]),
        (-1, [True, True, False]),
    ],
)
def test_freezing_by_depth(until, expected):
    encoder = nnx.eval_shape(net)
    freeze(encoder, until=until)
    assert frozen_blocks(encoder) == expected


@pytest.mark.parametrize("until", ["block3", "trunk", 4, -3])
def test_a_block_that_is_not_there_is_named(until):
    encoder = nnx.eval_shape(net)
    with pytest.raises(InputError, match=r"freeze until .* has 3 blocks: block0, block1, block2"):
        freeze(encoder, until=until)
    assert frozen_blocks(encoder) == [False, False, False]


def test_frozen_parameters_may_see_new_statistics():
    branch, x = Branch(), jnp.linspace(0, 5, 12).reshape(4, 3)
    freeze(branch, adapt_statistics=True)
    assert not jax.tree.leaves(nnx.state(branch, nnx.Param))
    branch(x)
    assert (branch.parts[1].mean[...] != 0).all()
    encoder = nnx.eval_shape(net)
    freeze(encoder, until=2, adapt_statistics=True)
    assert not any(norm.frozen for norm in encoder.norms)


def test_kept_statistics_stand_while_scales_and_offsets_learn():
    norm, x = BatchNorm(3, rngs=nnx.Rngs(0)), jnp.linspace(-1, 5, 12).reshape(4, 3)
    norm.mean.set_value(jnp.array([0.1, 0.2, 0.3]))
    norm.var.set_value(jnp.array([4.0, 1.0, 0.25]))
    keep_statistics(norm)
    norm.train()
    y = norm(x)
    np.testing.assert_allclose(
        y, (x - np.array([[0.1, 0.2, 0.3]])) / np.sqrt([[4, 1, 0.25]]), rtol=1e-4
    )
    np.testing.assert_allclose(norm.mean[...], [0.1, 0.2, 0.3])
    graphdef, params, rest = nnx.split(norm, nnx.Param, ...)
    gradient = jax.grad(lambda p: nnx.merge(graphdef, p, rest)(x).sum())(params)
    np.testing.assert_allclose(gradient["scale"][...], y.sum(0), rtol=1e-5)
    np.testing.assert_allclose(gradient["bias"][...], [4, 4, 4])


def test_learning_rates_fall_towards_the_images():
    def make():
        return Embedder(net(), ProjectionHead(4, kind="linear", rngs=nnx.Rngs(0)))

    model = nnx.eval_shape(make)
    freeze(model.encoder, until=1)
    scales = learning_rate_scales(model, model.encoder, 0.5)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    assert jax.tree.structure(scales) == jax.tree.structure(params)
    convs, norms = scales["encoder"]["convs"], scales["encoder"]["norms"]
    assert [convs[i]["kernel"] for i in (1, 2)] == [norms[i]["scale"] for i in (1, 2)] == [0.5, 1]
    assert set(jax.tree.leaves(scales["head"])) == {1.0}
    for decay in (0, 1.1):
        with pytest.raises(ValueError, match=r"in \(0, 1\]"):
            learning_rate_scales(model, model.encoder, decay)
