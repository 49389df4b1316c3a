"""Check that this machine's GPU or TPU computes what its CPU does: losses, views, encoders.

    python scripts/check_device.py --json device.json

The tests run on the CPU, against loops and other libraries in float64; this carries what they prove
over to an accelerator. Each case is compiled and run on both, from the same numbers, and compared
by ||there - here|| / ||here||, values and gradients. Losses and views promise float32: 1e-4.
Encoders multiply as JAX's default precision does, which on a GPU may be TF32 (10 bits of mantissa)
and on a TPU bfloat16: 1e-2 for h, and .1 for its gradient, which a ReLU that flips moves more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Case = tuple[str, dict[str, float], Callable[[], dict[str, Any]]]
FLOAT32, ENCODER, GRADIENT = 1e-4, 1e-2, 1e-1
ROWS, D, CLASSES = 2500, 128, 50  # more than a tile, and not a whole number of them


def cases() -> Iterator[Case]:
    """Make (name, bounds of its results by part, what computes them) one after the other."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxssl import augment, losses
    from jaxssl.models import make_encoder

    random = np.random.default_rng(0)
    rows = random.normal(size=(2, ROWS, D)).astype(np.float32)
    rows[1] += rows[0]
    centres = random.normal(size=(CLASSES, D)).astype(np.float32)
    labels = random.integers(0, CLASSES, ROWS)
    of_losses: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
        "nt_xent": (losses.nt_xent, tuple(rows)),
        "nt_xent in tiles": (lambda a, b: losses.nt_xent(a, b, tile_size=512), tuple(rows)),
        "dcl": (losses.dcl, tuple(rows)),
        "sup_con": (lambda z: losses.sup_con(z, labels), (rows[0],)),
        "info_nce": (losses.info_nce, tuple(rows)),
        "siglip": (lambda a, b: losses.siglip(a, b, temperature=0.1, bias=-10.0), tuple(rows)),
        "triplet_loss": (lambda z: losses.triplet_loss(z, labels), (rows[0],)),
        "batch_all_triplet_loss": (
            lambda z: losses.batch_all_triplet_loss(z, labels[:300]),
            (rows[0, :300],),
        ),
        "arcface_loss": (lambda z, w: losses.arcface_loss(z, w, labels), (rows[0], centres)),
        "cosface_loss": (lambda z, w: losses.cosface_loss(z, w, labels), (rows[0], centres)),
        "barlow_twins": (losses.barlow_twins, tuple(rows)),
        "vicreg": (losses.vicreg, tuple(rows)),
        "byol": (losses.byol, tuple(rows)),
        "dino": (
            lambda a, b: losses.dino(jnp.stack([a, b]), jnp.stack([a, b]), centres[0]),
            tuple(rows),
        ),
    }
    for name, (loss, arrays) in of_losses.items():

        def of_a_loss(loss: Any = loss, arrays: Any = arrays) -> dict[str, Any]:
            both = jax.value_and_grad(loss, tuple(range(len(arrays))))
            value, gradients = jax.jit(both)(*arrays)
            return {"value": value, **{f"gradient {i}": g for i, g in enumerate(gradients)}}

        bounds = {"value": FLOAT32, **{f"gradient {i}": FLOAT32 for i in range(len(arrays))}}
        yield name, bounds, of_a_loss

    for name, side, channels in (("plankton", 64, 1), ("digits", 16, 1), ("cifar", 32, 3)):
        images = random.integers(0, 256, (8, side, side, channels), np.uint8)
        recipe = getattr(augment, name)

        def of_views(images: Any = images, recipe: Any = recipe) -> dict[str, Any]:
            made = jax.jit(lambda key, x: augment.views(key, x, recipe))
            return {"views": made(jax.random.key(0), images)}

        yield f"views: {name}", {"views": FLOAT32}, of_views

    for name, side in (
        ("convnet", 48),
        ("resnet18", 32),
        ("resnet50", 64),
        ("efficientnet_lite0", 64),
        ("plankton_v2_s", 64),
        ("dinov2_s", 56),
    ):
        pixels = random.random((4, side, side, 3), np.float32)

        def of_an_encoder(name: str = name, pixels: Any = pixels) -> dict[str, Any]:
            encoder = make_encoder(name, image_size=pixels.shape[1], channels=3, rngs=nnx.Rngs(0))
            encoder.eval()
            graphdef, params, rest = nnx.split(encoder, nnx.Param, ...)

            def h_and_its_size(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
                h = nnx.merge(graphdef, params, rest, copy=True)(x)
                return jnp.mean(h**2), h

            both = jax.jit(jax.value_and_grad(h_and_its_size, has_aux=True))
            (_, h), gradient = both(params, pixels)
            flat = [np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]
            return {"h": h, "gradient": np.concatenate(flat)}

        yield name, {"h": ENCODER, "gradient": GRADIENT}, of_an_encoder


def compute(chosen: Iterable[Case]) -> dict[str, np.ndarray]:
    """Run cases on JAX's first device; the results by "case|part"."""
    return {
        f"{name}|{part}": np.asarray(value)
        for name, _, work in chosen
        for part, value in work().items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Compare, print a table, and return 1 where a bound is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--cases", nargs="+", default=[], help="by name; default: all")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    every = list(cases())
    if unknown := set(options.cases) - {name for name, *_ in every}:
        parser.error(f"no case {min(unknown)!r}: one of {', '.join(name for name, *_ in every)}")
    chosen = [case for case in every if not options.cases or case[0] in options.cases]
    if options.write:
        np.savez(options.write, **compute(chosen))
        return 0
    import jax

    from jaxssl.training import devices, runs

    print(f"on {devices.summary()}, jax {jax.__version__}, beside the CPU", flush=True)
    if jax.default_backend() == "cpu":
        print("JAX sees no accelerator here: the CPU is compared with itself")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cpu.npz"
        command = [sys.executable, __file__, "--write", str(file)]
        command += ["--cases", *options.cases] if options.cases else []
        here = subprocess.Popen(command, env={**os.environ, "JAX_PLATFORMS": "cpu"})
        there = compute(chosen)
        if here.wait():
            return 1
        with np.load(file) as archive:
            reference = dict(archive)
    rows, passed = [], True
    for name, bounds, _ in chosen:
        for part, bound in bounds.items():
            expected = reference[f"{name}|{part}"].astype(np.float64)
            # A gradient that is stopped is 0 on both.
            size = np.linalg.norm(expected) or 1.0
            error = float(np.linalg.norm(there[f"{name}|{part}"] - expected) / size)
            good = error <= bound  # NaN is not
            passed &= good
            rows.append({"case": name, "part": part, "error": error, "bound": bound})
            print(f"{'ok  ' if good else 'FAIL'} {name}, {part}: {error:.1e} of {bound:g}")
    print(f"{len(rows)} results in {time.monotonic() - begin:.0f} s")
    if options.json:
        record = {"device": devices.summary(), "rows": rows, **runs.provenance()}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
