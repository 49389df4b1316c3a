"""PyTorch's training of `scripts/benchmarks/learning.py`: an oracle, and so held to others itself.

Its views are compared with Pillow and `jaxssl.augment` image by image; its steps of SimCLR with
ours, from the same weights and views.
"""

import copy
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from jaxssl import augment, training

FOLDER = Path(__file__).parent.parent / "scripts" / "benchmarks"
torch = pytest.importorskip("torch", reason="PyTorch's side of the comparison")


@pytest.fixture
def twin(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import torch_simclr

    torch.manual_seed(0)
    return torch_simclr


def test_views_of_a_batch_are_those_of_one_image_after_the_other(twin):
    images = np.random.default_rng(0).random((40, 32, 32, 3), np.float32)
    draws = twin.draw(len(images), 32)
    assert 0.3 < draws.jitters.float().mean() < 1  # so that both are among them
    views = twin.views(torch.from_numpy(images).permute(0, 3, 1, 2), draws)

    adjust = (
        augment.adjust_brightness,
        augment.adjust_contrast,
        augment.adjust_saturation,
        augment.adjust_hue,
    )
    for i, image in enumerate(images):
        top, left, height, width = draws.window[i].tolist()
        cut = image[top : top + height, left : left + width]
        stretched = [
            Image.fromarray(cut[:, :, channel]).resize((32, 32), Image.Resampling.BILINEAR)
            for channel in range(3)
        ]
        expected = np.stack(stretched, 2)
        expected = expected[:, ::-1] if draws.flips[i] else expected
        for op in draws.order[i].tolist() if draws.jitters[i] else ():
            expected = adjust[op](jnp.asarray(expected), draws.factors[i, op].item())
        expected = augment.to_grey(jnp.asarray(expected)) if draws.greys[i] else expected
        np.testing.assert_allclose(views[i].permute(1, 2, 0), expected, atol=5e-4)


def test_draws_follow_the_laws(twin):
    many = 20_000
    draws = twin.draw(many, 32)
    top, left, height, width = draws.window.double().T
    assert ((top >= 0) & (top + height <= 32) & (left >= 0) & (left + width <= 32)).all()
    ours = jax.vmap(
        lambda key: augment.geometry.random_window(
            key, shape=(32, 32), area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)
        )
    )(jax.random.split(jax.random.key(0), many))
    for theirs, our in ((top, ours.top), (height, ours.height), (width, ours.width)):
        for moment in (1, 2):
            a, b = (theirs**moment).numpy(), np.asarray(our, np.float64) ** moment
            assert abs(a.mean() - b.mean()) < 4 * np.hypot(a.std(), b.std()) / many**0.5
    for chance, p in ((draws.flips, 0.5), (draws.jitters, 0.8), (draws.greys, 0.2)):
        assert abs(chance.double().mean() - p) < 4 * (p * (1 - p) / many) ** 0.5
    assert sorted(torch.unique(draws.order[:, 0]).tolist()) == [0, 1, 2, 3]
    for op, (low, high) in enumerate([(0.6, 1.4)] * 3 + [(-0.1, 0.1)]):
        factors = draws.factors[:, op]
        assert low <= factors.min() < low + 0.01 < high - 0.01 < factors.max() <= high


@pytest.mark.parametrize(
    ("norm_of_z", "as_lightly", "seed", "precision"),
    [
        (False, False, 1, "highest"),
        (True, False, 1, "highest"),
        (True, True, 5, "highest"),  # views whose first step turns no ReLU by rounding
        (True, False, 1, "default"),
    ],
)
def test_steps_of_simclr_are_those_of_pytorch(twin, norm_of_z, as_lightly, seed, precision):
    """Three steps of a ResNet-18 by SGD: no further from float64 than PyTorch's own float32 is.

    By default convolutions are in tiles, whose rounding is larger; the steps, of 16 images and a
    high rate, multiply any by thousands.
    """
    import jax_simclr

    rows, steps, rate, decay = 8, 3, 0.05, 0.05
    recipe = dataclasses.replace(
        twin.LIGHTLY,
        image_size=16,
        epochs=1,
        learning_rate=rate,
        weight_decay=decay,
        features=16,
        bfloat16=False,
        norm_of_z=norm_of_z,
        decays_all=as_lightly,
        views_apart=as_lightly,
        normalizes=as_lightly,
    )
    views = np.random.default_rng(seed).random((steps, 2 * rows, 16, 16, 3), np.float32)
    net = twin.network(recipe)

    model = jax_simclr.model_of(recipe, net)
    method = jax_simclr.method_of(recipe, model, steps, views=lambda key, images: images)
    placement = training.devices.placement_over(jax.devices()[:1], rows)
    step = training.make_train_step(method, placement)
    state = placement.replicate(training.create_state(method))
    start, exact = jax_simclr.weights(net), copy.deepcopy(net).double()
    trainings = [(n, *twin.optimizer_of(n, recipe, steps)) for n in (exact, net)]
    for both in views:
        batch = {"image": both.reshape(2, rows, *both.shape[1:])}
        with jax.default_matmul_precision(precision):
            state, metrics = step(state, batch, jax.random.key(0))
        for network, optimizer, schedule in trainings:
            x = torch.from_numpy(both).permute(0, 3, 1, 2)
            theirs = twin.loss_of(network, x.to(next(network.parameters()).dtype), recipe)
            optimizer.zero_grad()
            theirs.backward()
            optimizer.step()
            schedule.step()
            if network is exact:
                rel = 2e-3 if precision == "highest" else 2e-2
                assert metrics["loss"] == pytest.approx(theirs.item(), rel=rel)

    nnx.update(model, state.params)
    for ours, e, n, before in zip(
        jax_simclr.kernels(model),
        jax_simclr.weights(exact),
        jax_simclr.weights(net),
        start,
        strict=True,
    ):
        moved, off = np.linalg.norm(e - before), np.linalg.norm(ours[...] - e)
        if precision == "highest":
            assert off < min(0.02 * moved, np.linalg.norm(n - e)), ours.shape
        assert off < 0.2 * moved, ours.shape
