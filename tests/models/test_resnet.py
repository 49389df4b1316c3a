import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.models import Classifier, ResNet, describe, load_pretrained, resnet18, resnet50
from jaxssl.models.resnet import BasicBlock

DEPTHS = {resnet18: (2, 2, 2, 2), resnet50: (3, 4, 6, 3)}


def count(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(("make", "total"), [(resnet18, 11_689_512), (resnet50, 25_557_032)])
def test_parameters_as_torchvision_counts_them(make, total):
    encoder = nnx.eval_shape(lambda: make(channels=3, stem="imagenet", rngs=nnx.Rngs(0)))
    head = nnx.eval_shape(lambda: Classifier(encoder.features, 1000, rngs=nnx.Rngs(0)))
    assert count(encoder) + count(head) == total


@pytest.mark.parametrize(("stem", "side"), [("cifar", 8), ("imagenet", 32)])
def test_the_smallest_image_ends_as_one_pixel(stem, side):
    encoder = nnx.eval_shape(lambda: resnet18(channels=1, stem=stem, width=2, rngs=nnx.Rngs(0)))
    assert encoder.min_size == side
    layers = describe(encoder, (side, side, 1)).split("\n\n")[0].splitlines()
    assert "[1, 1, 16]" in layers[-1]
    assert "[2, 2, 8]" in layers[-11]


def test_zero_init_residual_starts_blocks_as_the_identity():
    options = {"channels": 1, "stem": "cifar", "width": 2, "rngs": nnx.Rngs(0)}
    x = jnp.abs(jnp.sin(jnp.arange(2 * 4 * 4 * 2.0))).reshape(2, 4, 4, 2)
    block = ResNet(BasicBlock, (1,), zero_init_residual=True, **options).stages[0][0]
    np.testing.assert_array_equal(block(x), x)
    block = ResNet(BasicBlock, (1,), **options).stages[0][0]
    assert jnp.abs(block(x) - x).max() > 0.1


def test_an_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="stem 'vgg': one of cifar, imagenet"):
        resnet18(channels=3, stem="vgg", rngs=nnx.Rngs(0))


def torch_resnet(make, width: int):
    """He et al.'s network written in torch, with torchvision's names; its features and logits."""
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    expansion = 1 if make is resnet18 else 4

    def conv(i, o, k, s=1):
        return torch.nn.Conv2d(i, o, k, s, k // 2, bias=False)

    class Block(torch.nn.Module):
        def __init__(self, i, w, s):
            super().__init__()
            o = w * expansion
            shapes = (
                [(i, w, 3, s), (w, w, 3)]
                if expansion == 1
                else [(i, w, 1), (w, w, 3, s), (w, o, 1)]
            )
            self.depth = len(shapes)
            for n, shape in enumerate(shapes, start=1):
                setattr(self, f"conv{n}", conv(*shape))
                setattr(self, f"bn{n}", torch.nn.BatchNorm2d(shape[1]))
            self.downsample = None
            if s != 1 or i != o:
                self.downsample = torch.nn.Sequential(conv(i, o, 1, s), torch.nn.BatchNorm2d(o))

        def forward(self, x):
            y = x
            for n in range(1, self.depth + 1):
                y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
                if n < self.depth:
                    y = torch.relu(y)
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = conv(3, width, 7, 2), torch.nn.BatchNorm2d(width)
            i = width
            for stage, depth in enumerate(DEPTHS[make]):
                blocks = []
                for index in range(depth):
                    w = width * 2**stage
                    blocks.append(Block(i, w, 2 if stage and not index else 1))
                    i = w * expansion
                setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*blocks))
            self.fc = torch.nn.Linear(i, 10)

        def forward(self, x):
            mean = torch.tensor([0.485, 0.456, 0.406])
            std = torch.tensor([0.229, 0.224, 0.225])
            x = ((x - mean) / std).permute(0, 3, 1, 2)
            x = torch.nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                torch.nn.init.normal_(tensor, 0, 0.1)
    return net


@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_logits_equal_torch_with_its_weights_converted(make, build, tmp_path: Path):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    net = torch_resnet(make, width=8)
    path = tmp_path / "net.pth"
    torch.save(net.state_dict(), path)
    path = path.rename(path.with_stem(f"net-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"))
    encoder = build(lambda: make(channels=3, stem="imagenet", width=8, rngs=nnx.Rngs(0)))

    report = load_pretrained(encoder, path)

    assert report.missing == ()
    assert report.left_over == ("fc.weight", "fc.bias")
    assert report.loaded == len([k for k in net.state_dict() if "num_batches" not in k]) - 2
    weight, bias = (p.detach().numpy() for p in net.fc.parameters())
    images = np.random.default_rng(1).random((6, 71, 64, 3), np.float32)

    @jax.jit
    def representations(state):
        views = [nnx.view(encoder, use_running_average=flag) for flag in (True, False)]
        return [nnx.merge(nnx.graphdef(v), state, copy=True)(images) for v in views]

    net.double()  # torch's own float32 is 9e-5 away from it in training
    for training, h in zip((False, True), representations(nnx.state(encoder)), strict=True):
        expected = net.train(training)(torch.from_numpy(images).double()).detach().numpy()
        difference = np.abs(np.asarray(h) @ weight.T + bias - expected).max()
        assert difference < 1e-4 * np.abs(expected).max()
