"""The transformer against the same in a float64 NumPy loop, and in `transformers` where it is."""

import json
import math
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models import load_pretrained
from jaxssl.models.dinov2 import DinoV2, interpolated

WIDTH, HEADS, DEPTH = 12, 3, 2


def make(layer="cls+patches", channels=3) -> DinoV2:
    options = {"width": WIDTH, "heads": HEADS, "depth": DEPTH, "rngs": nnx.Rngs(0)}
    return DinoV2(layer=layer, channels=channels, **options)


def weights() -> dict[str, np.ndarray]:
    """Random ones in Hugging Face's layout."""
    random = np.random.default_rng(0)
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": (1, WIDTH),
        "embeddings.position_embeddings": (1, 1370, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    for index in range(DEPTH):
        prefix = f"encoder.layer.{index}."
        for name in ("norm1", "norm2"):
            shapes |= {prefix + f"{name}.weight": (WIDTH,), prefix + f"{name}.bias": (WIDTH,)}
        for name, i, o in (
            *((f"attention.attention.{part}", WIDTH, WIDTH) for part in ("query", "key", "value")),
            ("attention.output.dense", WIDTH, WIDTH),
            ("mlp.fc1", WIDTH, 4 * WIDTH),
            ("mlp.fc2", 4 * WIDTH, WIDTH),
        ):
            shapes |= {prefix + f"{name}.weight": (o, i), prefix + f"{name}.bias": (o,)}
        shapes |= {prefix + f"layer_scale{n}.lambda1": (WIDTH,) for n in (1, 2)}
    return {
        name: random.normal(0, 0.1 if len(shape) == 4 else 0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def save(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    header, body = {}, b""
    for name, array in tensors.items():
        offsets = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        body += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def reference(w: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Tokens after the last norm: loops over images, patches and heads, in float64."""
    w = {name: value.astype(np.float64) for name, value in w.items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    positions = w["embeddings.position_embeddings"][0]
    h, width = (side // 14 for side in images.shape[1:3])
    grid = np.asarray(interpolated(positions[1:].reshape(37, 37, WIDTH), (h, width)))
    outputs = []
    for image in (images.astype(np.float64) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]:
        tokens = [w["embeddings.cls_token"][0, 0] + positions[0]]
        for y in range(h):
            for x in range(width):
                patch = image[14 * y : 14 * y + 14, 14 * x : 14 * x + 14]
                kernel = w["embeddings.patch_embeddings.projection.weight"]
                embedded = np.einsum("yxc,ocyx->o", patch, kernel)
                bias = w["embeddings.patch_embeddings.projection.bias"]
                tokens.append(embedded + bias + grid[y, x])
        x = np.stack(tokens)
        for index in range(DEPTH):
            at = f"encoder.layer.{index}."
            y = norm(at + "norm1", x)
            q, k, v = (
                linear(at + f"attention.attention.{n}", y) for n in ("query", "key", "value")
            )
            size, parts = WIDTH // HEADS, []
            for head in range(HEADS):
                s = slice(head * size, head * size + size)
                weight = np.exp(q[:, s] @ k[:, s].T / math.sqrt(size))
                parts.append(weight / weight.sum(1, keepdims=True) @ v[:, s])
            y = linear(at + "attention.output.dense", np.concatenate(parts, 1))
            x = x + y * w[at + "layer_scale1.lambda1"]
            y = linear(at + "mlp.fc1", norm(at + "norm2", x))
            y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
            x = x + linear(at + "mlp.fc2", y) * w[at + "layer_scale2.lambda1"]
        outputs.append(norm("layernorm", x))
    return np.stack(outputs)


def h_of(encoder, images):
    graphdef, state = nnx.split(encoder)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(images))(state)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).random((2, 45, 31, 3), np.float32)


def test_equals_a_loop_in_float64(images, build, tmp_path):
    encoder = build(make)
    report = load_pretrained(encoder, save(tmp_path / "model.safetensors", weights()))
    assert (report.missing, report.left_over) == ((), ("embeddings.mask_token",))
    tokens = reference(weights(), images)
    expected = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)
    np.testing.assert_allclose(
        h_of(encoder, images), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


def test_equals_transformers(images, build, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the original module")
    torch = pytest.importorskip("torch", reason="the original module")
    config = transformers.Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=518
    )
    net = transformers.Dinov2Model(config).eval()
    net.load_state_dict({name: torch.tensor(value) for name, value in weights().items()})
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        pixels = torch.tensor((images - mean) / std).permute(0, 3, 1, 2)
        tokens = net.double()(pixels.double()).last_hidden_state.numpy()
    expected = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)
    encoder = build(make)
    load_pretrained(encoder, save(tmp_path / "model.safetensors", weights()))
    np.testing.assert_allclose(
        h_of(encoder, images), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("sides", [(3, 2), (37, 37), (9, 50)])
def test_positions_are_interpolated_as_torch_does(sides):
    torch = pytest.importorskip("torch", reason="an oracle when torch is there")
    grid = np.random.default_rng(2).normal(size=(37, 37, 4)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(grid, dtype=torch.float64).permute(2, 0, 1)[None],
        size=sides,
        mode="bicubic",
        align_corners=False,
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(interpolated(grid, sides), expected.numpy(), atol=1e-5)


def test_h_is_the_layer_that_is_asked_for(images, build):
    both = h_of(build(make), images)
    for layer, part in (("cls", both[:, :WIDTH]), ("patches", both[:, WIDTH:])):
        encoder = build(lambda layer=layer: make(layer))
        assert encoder.features == WIDTH
        np.testing.assert_allclose(h_of(encoder, images), part, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="layer 'head': one of cls, patches, "):
        make("head")


def test_weights_of_another_size_are_refused(tmp_path):
    smaller = weights()
    smaller["embeddings.position_embeddings"] = np.zeros((1, 257, WIDTH), np.float32)
    path = save(tmp_path / "model.safetensors", smaller)
    with pytest.raises(
        InputError, match=r"position_embeddings is \(1, 257, 12\), here \(1, 1370, 12\)"
    ):
        load_pretrained(nnx.eval_shape(make), path)
