"""The optimizers against loops in float64 NumPy and torch, on the tree of a real network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxssl.models import Embedder, ProjectionHead, resnet18
from jaxssl.training.optimizers import is_weight, make_optimizer, make_schedule
from jaxssl.training.state import split

RATES = [0.0, 0.3, 0.6, 0.6, 0.6]  # a warm-up of two steps


@pytest.fixture(scope="module")
def network():
    """The shapes of a ResNet-18's parameters under a head with BatchNorm."""

    def make():
        rngs = nnx.Rngs(0)
        encoder = resnet18(channels=3, stem="cifar", width=2, rngs=rngs)
        return Embedder(encoder, ProjectionHead(encoder.features, kind="mlp-bn", rngs=rngs))

    return jax.eval_shape(lambda: split(make())[0])


@pytest.fixture(scope="module")
def params(network):
    """One of each kind of it, and a bias, filled by NumPy."""
    part = {"conv": network["encoder"]["conv1"], "norm": network["encoder"]["bn1"]}
    part["linear"] = network["head"]["linears"][0]
    part["last"] = {"bias": jax.ShapeDtypeStruct((4,), np.float32)}
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.float32(random.normal(size=x.shape)), part)


def named(tree) -> dict[str, np.ndarray]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}


def trained(optimizer: optax.GradientTransformation, params, steps: int = 5):
    """Parameters after some steps of gradients that are functions of the step and the name."""
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = update(gradients(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return named(params)


def gradients(params, step: int):
    random = np.random.default_rng(100 + step)
    return jax.tree.map(lambda x: np.float32(random.normal(size=x.shape)), params)


def test_weights_are_the_kernels_and_nothing_else(network):
    """By name, which the rule does not look at."""
    mask = named(is_weight(network))
    assert {name for name, chosen in mask.items() if chosen} == {
        name for name in mask if name.endswith("kernel")
    }
    # torchvision's ResNet-18 has 20 convolutions, each with a BatchNorm; the head two and one.
    assert (sum(mask.values()), len(mask)) == (20 + 2, 20 * 3 + 2 + 2)


def reference(name: str, params) -> dict[str, np.ndarray]:
    """Five steps of each rule as its paper writes it, in float64, kernels chosen by name."""
    expected = {key: np.float64(value) for key, value in named(params).items()}
    velocity, second = dict.fromkeys(expected, 0.0), dict.fromkeys(expected, 0.0)
    for step, rate in enumerate(RATES):
        for key, g in named(gradients(params, step)).items():
            w, v, ratio = expected[key], velocity[key], 1.0
            if key.endswith("kernel"):
                g = g + 0.05 * w
                ratio = 0.001 * np.sqrt((w**2).sum()) / np.sqrt((g**2).sum())
            match name:
                case "lars":  # the rate of a step stays in the velocity
                    v = 0.8 * v + rate * ratio * g
                    move = v
                case "sgd":
                    v = 0.8 * v + g
                    move = rate * v
                case "adam":
                    v = 0.9 * v + 0.1 * g
                    second[key] = 0.999 * second[key] + 0.001 * g**2
                    m_hat, v_hat = (
                        v / (1 - 0.9 ** (step + 1)),
                        second[key] / (1 - 0.999 ** (step + 1)),
                    )
                    move = rate * m_hat / (np.sqrt(v_hat) + 1e-8)
            expected[key], velocity[key] = w - move, v
    return expected


@pytest.mark.parametrize("name", ["lars", "sgd", "adam"])
def test_every_optimizer_equals_a_loop_in_numpy(params, name):
    optimizer = make_optimizer(
        name,
        learning_rate=0.6,
        total_steps=9,
        schedule="constant",
        warmup_steps=2,
        weight_decay=0.05,
        momentum=0.8,
    )
    expected = reference(name, params)
    for key, w in trained(optimizer, params).items():
        np.testing.assert_allclose(w, expected[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_the_rate_at_the_corners():
    options = {"learning_rate": 0.8, "total_steps": 100, "warmup_steps": 20}
    cosine, constant = (make_schedule(name, **options) for name in ("cosine", "constant"))
    for rate in (cosine, constant):
        np.testing.assert_allclose(
            [rate(0), rate(1), rate(10), rate(20)], [0, 0.04, 0.4, 0.8], 1e-6
        )
    np.testing.assert_allclose(cosine(40), 0.4 * (1 + np.cos(np.pi / 4)), rtol=1e-6)
    np.testing.assert_allclose([cosine(60), cosine(100), cosine(101)], [0.4, 0, 0], atol=1e-7)
    np.testing.assert_allclose([constant(60), constant(1000)], [0.8, 0.8])
    options["warmup_steps"] = 0
    cosine = make_schedule("cosine", **options)
    np.testing.assert_allclose([cosine(0), cosine(50), cosine(100)], [0.8, 0.4, 0], atol=1e-7)
    assert make_schedule("constant", **options) == 0.8


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rmsprop", {}, "optimizer 'rmsprop': one of adam, sgd, lars"),
        ("adam", {"schedule": "step"}, "schedule 'step': one of constant, cosine"),
        ("adam", {"learning_rate": 0.0}, r"learning_rate 0.0 \(over 0\)"),
        ("adam", {"warmup_steps": 10}, r"total_steps 10 \(at least 11\)"),
        ("adam", {"warmup_steps": -1}, r"warmup_steps -1 \(at least 0\)"),
        ("sgd", {"weight_decay": -0.1}, "got -0.1 and 0.9"),
        ("lars", {"momentum": 1.0}, "got 0.0 and 1.0"),
    ],
)
def test_what_is_out_of_range_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, **({"learning_rate": 0.1, "total_steps": 10} | options))


def test_a_weight_of_zero_or_a_gradient_of_zero_stays_finite():
    params = {"kernel": jnp.zeros((2, 2)), "other": {"kernel": jnp.ones((2, 2))}}
    optimizer = make_optimizer("lars", learning_rate=1.0, total_steps=2, schedule="constant")
    grads = {"kernel": jnp.ones((2, 2)), "other": {"kernel": jnp.zeros((2, 2))}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], -np.ones((2, 2)))  # not stuck at 0
    np.testing.assert_array_equal(updates["other"]["kernel"], np.zeros((2, 2)))
