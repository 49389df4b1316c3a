"""The benchmark's own arithmetic: work, parameters, ratios; its programs take long to compile."""

import importlib.util
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx

from jaxssl.models import Embedder, ProjectionHead, resnet18

FOLDER = Path(__file__).parent.parent / "scripts" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")  # the script sets it: put back after
    spec = importlib.util.spec_from_file_location("simclr_step", FOLDER / "simclr_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("torch_resnet")


def products(side: int, kernel: int, stride: int) -> int:
    """Multiplications of a padded convolution of one channel along one axis, counted one by one."""
    return sum(
        0 <= place + offset - kernel // 2 < side
        for place in range(0, side, stride)
        for offset in range(kernel)
    )


def test_work_and_parameters_are_those_of_the_layers(benchmark):
    layers = [(3, 16, 3, 1, 32)]  # in, out, kernel, stride, side
    features, side = 16, 32
    for stage in range(4):
        out = 16 * 2**stage
        if stage:
            layers += [(features, out, 3, 2, side), (features, out, 1, 2, side)]
            side //= 2
            layers += [(out, out, 3, 1, side)]
        else:
            layers += [(out, out, 3, 1, side)] * 2
        layers += [(out, out, 3, 1, side)] * 2
        features = out
    forward = [2 * i * o * products(n, k, s) ** 2 for i, o, k, s, n in layers]
    forward += [2 * 128 * 128, 2 * 128 * 64]
    # Backward: by the weights and by the input, but for the images themselves.
    expected = 2 * (3 * sum(forward) - forward[0])

    def make():
        rngs = nnx.Rngs(0)
        encoder = resnet18(channels=3, stem="cifar", width=16, rngs=rngs)
        return Embedder(encoder, ProjectionHead(128, kind="mlp2", out_features=64, rngs=rngs))

    flops, parameters = benchmark.work_of_an_image(nnx.eval_shape(make), 32)
    assert expected < flops < 1.05 * expected  # BatchNorm, ReLU, sums beside the products
    norms = sum(2 * o for _, o, *_ in layers)
    weights = sum(i * o * k * k for i, o, k, _, _ in layers) + 128 * 128 + 128 * 64
    assert parameters == weights + norms


def test_ratios_are_taken_inside_a_round(benchmark):
    row = benchmark.row("a", [10.0, 20.0, 90.0], [5.0, 40.0, 30.0], work=2.0, peak=160.0)
    assert row["images_per_second"] == 20
    assert (row["ratio_lowest"], row["ratio"], row["ratio_highest"]) == (0.5, 2.0, 3.0)
    assert row["share_of_peak"] == 0.25
    assert benchmark.row("a", [10.0], None, work=1.0, peak=1.0)["ratio"] is None


def test_pytorch_has_the_same_network(benchmark):
    pytest.importorskip("torch", reason="parity with PyTorch")
    step = benchmark.torch_step(width=2, size=8, batch=2, features=4, temperature=0.5)
    step.burst(1)

    def make():
        rngs = nnx.Rngs(0)
        encoder = resnet18(channels=3, stem="cifar", width=2, rngs=rngs)
        return Embedder(encoder, ProjectionHead(16, kind="mlp2", out_features=4, rngs=rngs))

    leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param))
    assert step.parameters == sum(p.size for p in leaves)
