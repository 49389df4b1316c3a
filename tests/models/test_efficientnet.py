"""The trunk against the same network in torch, through the files its weights come in."""

import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.models import load_pretrained
from jaxssl.models.efficientnet import EfficientNetTrunk


def torch_trunk(same_padding: bool = False):
    """torchvision's features[:4] of efficientnet_v2_s, written from the paper, with its names."""
    torch = pytest.importorskip("torch", reason="parity with PyTorch")

    class Conv(torch.nn.Conv2d):
        def forward(self, x):
            if not same_padding:
                return super().forward(x)
            pads = []  # TensorFlow's SAME: what is missing, the larger half behind
            for n in (x.shape[3], x.shape[2]):
                k, s = self.kernel_size[0], self.stride[0]
                missing = max((-(-n // s) - 1) * s + k - n, 0)
                pads += [missing // 2, missing - missing // 2]
            x = torch.nn.functional.pad(x, pads)
            return torch.nn.functional.conv2d(x, self.weight, stride=self.stride)

    def unit(i, o, k, s=1, act=True):
        layers = [Conv(i, o, k, s, k // 2, bias=False), torch.nn.BatchNorm2d(o, eps=1e-3)]
        return torch.nn.Sequential(*layers, *([torch.nn.SiLU()] if act else []))

    class Block(torch.nn.Module):
        def __init__(self, i, o, expansion, s):
            super().__init__()
            units = [unit(i, o, 3, s)]
            if expansion > 1:
                units = [unit(i, i * expansion, 3, s), unit(i * expansion, o, 1, act=False)]
            self.block = torch.nn.Sequential(*units)
            self.residual = s == 1 and i == o

        def forward(self, x):
            return self.block(x) + x if self.residual else self.block(x)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            stages = [unit(3, 24, 3, 2)]
            for i, o, expansion, s, n in [(24, 24, 1, 1, 2), (24, 48, 4, 2, 4), (48, 64, 4, 2, 4)]:
                blocks = [Block(i, o, expansion, s)]
                blocks += [Block(o, o, expansion, 1) for _ in range(n - 1)]
                stages.append(torch.nn.Sequential(*blocks))
            self.features = torch.nn.Sequential(*stages)

        def forward(self, x):
            mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
            if same_padding:
                mean = std = [0.5, 0.5, 0.5]
            x = (x - torch.tensor(mean)) / torch.tensor(std)
            return self.features(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                torch.nn.init.normal_(tensor, 0, 0.1)
    return net


def features(trunk, batches, evaluating):
    """The trunk's maps without stochastic depth, for all batches in one compilation."""
    graphdef, state = nnx.split(nnx.view(trunk, use_running_average=evaluating, deterministic=True))
    return jax.jit(lambda s: [nnx.merge(graphdef, s, copy=True)(x) for x in batches])(state)


def images(*sizes):
    random = np.random.default_rng(1)
    return [random.random((4, *size, 3), np.float32) for size in sizes]


def assert_equal_to_torch(net, trunk, batches, evaluating):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    net.double().train(not evaluating)
    ours = features(trunk, batches, evaluating)
    for a, batch in zip(ours, batches, strict=True):
        b = net(torch.from_numpy(batch).double()).detach().numpy()
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("evaluating", [True, False])
def test_torchvision_weights_give_torchs_features(evaluating, build, tmp_path: Path):
    torch = pytest.importorskip("torch", reason="parity with PyTorch")
    net = torch_trunk()
    path = tmp_path / "trunk.pth"
    torch.save(net.state_dict(), path)
    trunk = build(lambda: EfficientNetTrunk(channels=3, rngs=nnx.Rngs(0)))
    report = load_pretrained(trunk, path)
    assert (report.missing, report.left_over) == ((), ())
    sizes = ((32, 32), (33, 47), (64, 48)) if evaluating else ((32, 32), (33, 47))
    assert_equal_to_torch(net, trunk, images(*sizes), evaluating)


def timm_name(name: str) -> str:
    """torchvision's name of a tensor as timm has it."""
    parts, kind = name.split(".")[1:-1], name.split(".")[-1]
    if parts[0] == "0":
        return f"{('conv_stem', 'bn1')[int(parts[1])]}.{kind}"
    stage, block, _, unit, part = parts
    convs = ["conv"] if stage == "1" else ["conv_exp", "conv_pwl"]
    layer = convs[int(unit)] if part == "0" else f"bn{int(unit) + 1}"
    return f"blocks.{int(stage) - 1}.{block}.{layer}.{kind}"


def test_timm_weights_give_tensorflows_features(build, tmp_path: Path):
    net = torch_trunk(same_padding=True)
    header, body = {}, b""
    for name, tensor in net.state_dict().items():
        if "num_batches_tracked" not in name:
            data = tensor.numpy().tobytes()
            offsets = [len(body), len(body) + len(data)]
            header[timm_name(name)] = {
                "dtype": "F32",
                "shape": list(tensor.shape),
                "data_offsets": offsets,
            }
            body += data
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)

    def make():
        return EfficientNetTrunk(channels=3, convention="tensorflow", rngs=nnx.Rngs(0))

    trunk = build(make)
    assert load_pretrained(trunk, path).loaded == len(header)
    assert_equal_to_torch(net, trunk, images((32, 32), (33, 47)), evaluating=True)


def test_stochastic_depth_drops_whole_images_at_torchvisions_rates(build):
    trunk = build(lambda: EfficientNetTrunk(channels=3, rngs=nnx.Rngs(0)))
    rates = [block.depth.rate for stage in trunk.stages for block in stage]
    np.testing.assert_allclose(rates, [0.2 * i / 40 for i in range(10)], rtol=1e-12)
    depth = trunk.stages[2][3].depth
    out = np.asarray(depth(jnp.ones((4000, 1, 2, 3))))
    rows = out.reshape(4000, -1)
    assert (rows == rows[:, :1]).all()
    np.testing.assert_allclose(np.unique(rows), [0, 1 / (1 - 0.045)], rtol=1e-6)
    assert abs((rows[:, 0] == 0).mean() - 0.045) < 4 * (0.045 * 0.955 / 4000) ** 0.5
