"""What makes few labels go far: a frozen network's h on the wide protocol, prepared in many ways.

Embed once a size (Lite0, 128 px: 20,281 images, eight views each), then try from the file:

    python scripts/frozen_probes.py embed --data-dir DIR --pixels 96 128 --out h
    python scripts/frozen_probes.py probe h-96.npz h-128.npz --json results/frozen-probes.json
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = ("block4", "block7", *(f"block{index}" for index in range(10, 16)), "head")
SEEDS = (0, 1, 2)
TRAIN = 5000  # of the seen classes' 10,843 training images: enough to whiten by and to choose on


def embed(options: argparse.Namespace) -> None:
    """Write the channel means of every layer, averaged over 1, 4 and 8 views, of every image."""
    import jax
    import jax.numpy as jnp

    from experiments import datasets, frozen, networks
    from jaxssl import embedding, files, models
    from jaxssl.analysis.sampling import stratified_sample
    from jaxssl.training import data_placement, devices
    from jaxssl.training.state import model_state

    devices.keep_compiled(files.cache_dir() / "xla")
    for pixels in options.pixels:
        settings = dataclasses.replace(
            frozen.PRESETS["plankton-wide"],
            data_dir=options.data_dir,
            image_size=pixels,
            layer="+".join(LAYERS),
        )
        encoder = models.fold_batch_norm(networks.make_encoder(settings)[0])

        def of_views(encoder: Any, images: jax.Array) -> jax.Array:
            def add(total: Any, view: jax.Array) -> Any:
                means = jnp.concatenate(encoder.means(models.turned(images, view)), axis=1)
                total = total + means
                return total, None

            shape = (len(images), encoder.features)
            sums, after = [jnp.zeros(shape)], 0
            for views in (1, 4, 8):
                sums.append(jax.lax.scan(add, sums[-1], jnp.arange(after, views))[0])
                after = views
            return jnp.concatenate([s / n for s, n in zip(sums[1:], (1, 4, 8), strict=True)], 1)

        placement = data_placement(jax.device_count())
        encode = embedding.compile_output(encoder, of_views, placement)
        state = placement.replicate(model_state(encoder))
        data = datasets.read(settings, 0)
        rows = stratified_sample(data.train.labels, TRAIN, np.random.default_rng(0))
        parts = {**data.unseen, "val": data.val, "train": data.train.subset(rows)}
        h, classes, ids, split = [], [], [], []
        for part, images in parts.items():
            print(f"{pixels} px: {part}", flush=True)
            h.append(embedding.embed_set(encode, state, images, placement))
            classes += [images.class_names[label] for label in images.labels]
            ids += images.ids
            split += [part] * len(images)
        named = [f"{layer}/{views}" for views in (1, 4, 8) for layer in LAYERS]
        sizes = [m.shape[1] for m in jax.eval_shape(encoder.means, jnp.zeros((1, 64, 64, 3)))] * 3
        tables = np.split(np.concatenate(h), np.cumsum(sizes)[:-1], axis=1)
        np.savez(
            f"{options.out}-{pixels}.npz",
            ids=ids,
            classes=classes,
            split=split,
            **dict(zip(named, tables, strict=True)),
        )


def main() -> None:
    """Embed, or probe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    embedding = commands.add_parser("embed")
    embedding.add_argument("--data-dir", required=True)
    embedding.add_argument("--pixels", type=int, nargs="+", default=[96, 128])
    embedding.add_argument("--out", type=Path, required=True)
    embedding.set_defaults(run=embed)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
