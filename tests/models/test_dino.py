"""Both generations against the same in a float64 NumPy loop, and in `transformers` where it is."""

import json
import math
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models import DinoV2, DinoV3, load_pretrained
from jaxssl.models.dinov2 import interpolated

WIDTH, HEADS, DEPTH = 24, 3, 2
SIZE = WIDTH // HEADS
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
both = pytest.mark.parametrize("generation", [2, 3])


def make(generation=2, layer="cls+patches", channels=3):
    options = {"width": WIDTH, "heads": HEADS, "depth": DEPTH, "rngs": nnx.Rngs(0)}
    return {2: DinoV2, 3: DinoV3}[generation](layer=layer, channels=channels, **options)


# Hugging Face's names.
NAMES = {
    2: {
        "block": "encoder.layer.",
        "query": "attention.attention.query",
        "key": "attention.attention.key",
        "value": "attention.attention.value",
        "out": "attention.output.dense",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "norm": "layernorm",
        "patches": "embeddings.patch_embeddings.projection",
    },
    3: {
        "block": "layer.",
        "query": "attention.q_proj",
        "key": "attention.k_proj",
        "value": "attention.v_proj",
        "out": "attention.o_proj",
        "fc1": "mlp.up_proj",
        "fc2": "mlp.down_proj",
        "norm": "norm",
        "patches": "embeddings.patch_embeddings",
    },
}


def weights(generation=2) -> dict[str, np.ndarray]:
    """Random ones in Hugging Face's layout."""
    random, names = np.random.default_rng(0), NAMES[generation]
    side = {2: 14, 3: 16}[generation]
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": {2: (1, WIDTH), 3: (1, 1, WIDTH)}[generation],
        names["patches"] + ".weight": (WIDTH, 3, side, side),
        names["patches"] + ".bias": (WIDTH,),
        names["norm"] + ".weight": (WIDTH,),
        names["norm"] + ".bias": (WIDTH,),
        **{
            2: {"embeddings.position_embeddings": (1, 1370, WIDTH)},
            3: {"embeddings.register_tokens": (1, 4, WIDTH)},
        }[generation],
    }
    for index in range(DEPTH):
        prefix = f"{names['block']}{index}."
        for name in ("norm1", "norm2"):
            shapes |= {prefix + f"{name}.weight": (WIDTH,), prefix + f"{name}.bias": (WIDTH,)}
        for part, i, o in (
            *((part, WIDTH, WIDTH) for part in ("query", "key", "value", "out")),
            ("fc1", WIDTH, 4 * WIDTH),
            ("fc2", 4 * WIDTH, WIDTH),
        ):
            shapes[prefix + f"{names[part]}.weight"] = (o, i)
            if (generation, part) != (3, "key"):
                shapes[prefix + f"{names[part]}.bias"] = (o,)
        shapes |= {prefix + f"layer_scale{n}.lambda1": (WIDTH,) for n in (1, 2)}
    return {
        name: random.normal(0, 0.1 if len(shape) == 4 else 0.5, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def save(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        offsets = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        body += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def turned(x: np.ndarray, y: float, across: float) -> np.ndarray:
    """A head's numbers at a place: pairs (i, i + SIZE / 2) turned, one after the other."""
    x, half, quarter = x.copy(), SIZE // 2, SIZE // 4
    for i in range(half):
        place = y if i < quarter else across
        angle = 2 * math.pi * place / 100 ** (4 * (i % quarter) / SIZE)
        a, b = x[i], x[i + half]
        x[i] = a * math.cos(angle) - b * math.sin(angle)
        x[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return x


def reference(generation: int, w: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """Tokens after the last norm: loops over images, patches and heads, in float64."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    names, side = NAMES[generation], {2: 14, 3: 16}[generation]

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + {2: 1e-6, 3: 1e-5}[generation])
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    h, width = (pixels // side for pixels in images.shape[1:3])
    first, grid = [w["embeddings.cls_token"][0, 0]], np.zeros((h, width, WIDTH))
    if generation == 2:
        positions = w["embeddings.position_embeddings"][0]
        grid = np.asarray(interpolated(positions[1:].reshape(37, 37, WIDTH), (h, width)))
        first[0] = first[0] + positions[0]
    else:
        first += list(w["embeddings.register_tokens"][0])
    outputs = []
    for image in (images.astype(np.float64) - MEAN) / STD:
        tokens = [*first]
        for y in range(h):
            for x in range(width):
                patch = image[side * y : side * y + side, side * x : side * x + side]
                embedded = np.einsum("yxc,ocyx->o", patch, w[f"{names['patches']}.weight"])
                tokens.append(embedded + w[f"{names['patches']}.bias"] + grid[y, x])
        x = np.stack(tokens)
        for index in range(DEPTH):
            at = f"{names['block']}{index}."
            y = norm(at + "norm1", x)
            q, k, v = (linear(at + names[n], y) for n in ("query", "key", "value"))
            parts = []
            for head in range(HEADS):
                s = slice(head * SIZE, head * SIZE + SIZE)
                if generation == 3:
                    for number in range(h * width):
                        down, across = divmod(number, width)
                        place = (2 * down + 1) / h - 1, (2 * across + 1) / width - 1
                        for one in (q, k):
                            one[5 + number, s] = turned(one[5 + number, s], *place)
                weight = np.exp(q[:, s] @ k[:, s].T / math.sqrt(SIZE))
                parts.append(weight / weight.sum(1, keepdims=True) @ v[:, s])
            y = linear(at + names["out"], np.concatenate(parts, 1))
            x = x + y * w[at + "layer_scale1.lambda1"]
            y = linear(at + names["fc1"], norm(at + "norm2", x))
            y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
            x = x + linear(at + names["fc2"], y) * w[at + "layer_scale2.lambda1"]
        outputs.append(norm(names["norm"], x))
    return np.stack(outputs)


def h_of(encoder, images):
    graphdef, state = nnx.split(encoder)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(images))(state)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).random((2, 45, 31, 3), np.float32)


def halves(generation, tokens):
    """The class token, and the mean of the patches'."""
    patches = tokens[:, {2: 1, 3: 5}[generation] :]
    return np.concatenate([tokens[:, 0], patches.mean(1)], axis=1)


@both
def test_equals_a_loop_in_float64(generation, images, build, tmp_path):
    w = weights(generation)
    encoder = build(lambda: make(generation))
    report = load_pretrained(encoder, save(tmp_path / "model.safetensors", w))
    assert (report.missing, report.left_over) == ((), ("embeddings.mask_token",))
    expected = halves(generation, reference(generation, w, images))
    np.testing.assert_allclose(
        h_of(encoder, images), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@both
def test_equals_transformers(generation, images, build, tmp_path):
    """Read from one file by both, by the names that it has on the hub."""
    transformers = pytest.importorskip("transformers", reason="the original module")
    torch = pytest.importorskip("torch", reason="the original module")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    if generation == 2:
        config, kind = transformers.Dinov2Config(image_size=518, **sizes), transformers.Dinov2Model
    else:
        sizes |= {"intermediate_size": 4 * WIDTH, "num_register_tokens": 4}
        config, kind = transformers.DINOv3ViTConfig(**sizes), transformers.DINOv3ViTModel
    config.save_pretrained(tmp_path)
    file = save(tmp_path / "model.safetensors", weights(generation))
    net = kind.from_pretrained(tmp_path).eval().double()
    with torch.no_grad():
        pixels = torch.tensor((images - MEAN) / STD).permute(0, 3, 1, 2)
        tokens = net(pixels.double()).last_hidden_state.numpy()
    expected = halves(generation, tokens)
    encoder = build(lambda: make(generation))
    load_pretrained(encoder, file)
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
    joined = h_of(build(make), images)
    for layer, part in (("cls", joined[:, :WIDTH]), ("patches", joined[:, WIDTH:])):
        encoder = build(lambda layer=layer: make(layer=layer))
        assert encoder.features == WIDTH
        np.testing.assert_allclose(h_of(encoder, images), part, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="layer 'head': one of cls, patches, "):
        make(layer="head")


def test_weights_of_another_size_are_refused(tmp_path):
    smaller = weights()
    smaller["embeddings.position_embeddings"] = np.zeros((1, 257, WIDTH), np.float32)
    path = save(tmp_path / "model.safetensors", smaller)
    with pytest.raises(
        InputError, match=r"position_embeddings is \(1, 257, 24\), here \(1, 1370, 24\)"
    ):
        load_pretrained(nnx.eval_shape(make), path)
