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

from jaxssl import augment, losses, training
from jaxssl.models import Embedder, ProjectionHead, resnet18

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
    ("head", "precision"), [("mlp-bn", "highest"), ("mlp-bn2", "highest"), ("mlp-bn2", "default")]
)
def test_steps_of_simclr_are_those_of_pytorch(twin, head, precision):
    """Three steps of a ResNet-18 by SGD: no further from float64 than PyTorch's own float32 is.

    By default convolutions are in tiles, whose rounding is larger; the steps, of 16 images and a
    high rate, multiply any by thousands.
    """
    rows, steps, rate, decay = 8, 3, 0.05, 0.05
    recipe = dataclasses.replace(
        twin.LIGHTLY,
        image_size=16,
        epochs=1,
        learning_rate=rate,
        weight_decay=decay,
        features=16,
        bfloat16=False,
        norm_of_z=head == "mlp-bn2",
        decays_all=False,
        views_apart=False,
        normalizes=False,
    )
    views = np.random.default_rng(1).random((steps, 2 * rows, 16, 16, 3), np.float32)
    net = twin.network(recipe)

    rngs = nnx.Rngs(0)
    encoder = resnet18(channels=3, stem="cifar", rngs=rngs)
    model = Embedder(encoder, ProjectionHead(512, kind=head, out_features=16, rngs=rngs))
    for ours, theirs in zip(kernels(model), weights(net), strict=True):
        ours.set_value(jnp.asarray(theirs))

    def loss(model, batch, key, step):
        z_a, z_b = model.project(batch["image"])
        return losses.nt_xent(z_a, z_b, temperature=recipe.temperature), {}

    sgd = training.make_optimizer(
        "sgd", learning_rate=rate, total_steps=steps, schedule="cosine", weight_decay=decay
    )
    method = training.Method("SimCLR", model, loss, sgd)
    placement = training.devices.placement_over(jax.devices()[:1], rows)
    step = training.make_train_step(method, placement)
    state = placement.replicate(training.create_state(method))
    start, exact = weights(net), copy.deepcopy(net).double()
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
    for ours, e, n, before in zip(kernels(model), weights(exact), weights(net), start, strict=True):
        moved, off = np.linalg.norm(e - before), np.linalg.norm(ours[...] - e)
        if precision == "highest":
            assert off < min(0.02 * moved, np.linalg.norm(n - e)), ours.shape
        assert off < 0.2 * moved, ours.shape


def kernels(model: Embedder) -> list[nnx.Param]:
    """Kernels of our ResNet and head, in the order of the images' way."""
    encoder = model.encoder
    found = [encoder.conv1]
    for stage in encoder.stages:
        for block in stage:
            found += [block.conv1, block.conv2]
            found += [] if block.downsample is None else [block.downsample.layers[0]]
    return [layer.kernel for layer in (*found, *model.head.linears)]


def weights(net) -> list[np.ndarray]:
    """The twin's, as ours lie: h, w, in, out and in, out."""
    arrays = [p.detach().numpy().astype(np.float32) for p in net.parameters() if p.ndim > 1]
    return [a.transpose((2, 3, 1, 0) if a.ndim == 4 else (1, 0)) for a in arrays]
