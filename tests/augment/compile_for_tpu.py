"""Compile views for TPU v5e chips on any machine; print what the compiler says, JSON a line.

`python tests/augment/compile_for_tpu.py`, where `pip install "jax[tpu]"` was.
"""

import json
import math
import os
import re

# recipe, images, side, channels, chips
PROGRAMS = {
    "plankton 256 x 128 px RGB": ("plankton", 256, 128, 3, 1),
    "cifar 512 x 32 px RGB": ("cifar", 512, 32, 3, 1),
    "cifar with blur 64 x 96 px RGB": ("blurred", 64, 96, 3, 1),
    "digits 256 x 16 px grey, 4 chips": ("digits", 256, 16, 1, 4),
}
# The result's shape, the order of its axes in memory (fastest first), the operation.
RESULT = re.compile(r"= \w+\[([\d,]+)\]\{([\d,]+)(?::[^}]*)?\} ([\w\-]+)\(")
COLLECTIVE = re.compile(r" (?:all-|collective-|reduce-scatter)[\w\-]*\(")


def of_pixels(text: str, views: int) -> tuple[list[str], list[str]]:
    """The gathers of more than 16 numbers a view, and the arrays of as many whose lane axis is < 5.

    A TPU pads the axis that is fastest in memory to 128. A gather that it has no instruction for
    becomes a loop over what is gathered, in which only the name is left of it.
    """
    gathers, narrow = [], []
    for line in text.splitlines():
        if found := RESULT.search(line):
            dims, order = ([int(n) for n in part.split(",")] for part in found.groups()[:2])
            if math.prod(dims) > 16 * views:
                if found[3] == "gather" or '/gather"' in line:
                    gathers.append(line.strip()[:120])
                if dims[order[0]] <= 4:
                    narrow.append(line.strip()[:120])
    return gathers, narrow


def main() -> None:
    """Compile every program."""
    # Before jax is imported: the host computes nothing, and libtpu is told what it would ask for.
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    from functools import partial

    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    from jaxssl import augment

    recipes = {
        "plankton": augment.plankton,
        "cifar": augment.cifar,
        "blurred": partial(augment.cifar, blur_p=0.5),
        "digits": augment.digits,
    }
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    for name, (recipe, b, side, c, count) in PROGRAMS.items():
        mesh = Mesh(np.array(chips[:count]), ("data",), axis_types=(AxisType.Auto,))
        whole, rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
        images = jax.ShapeDtypeStruct((b, side, side, c), jnp.uint8, sharding=rows)
        key = jax.eval_shape(lambda: jax.random.key(0))
        key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)

        def side_by_side(key: jax.Array, images: jax.Array, view=recipes[recipe]) -> jax.Array:
            views = augment.views(key, images, view)
            return jnp.moveaxis(views, 0, 1).reshape(-1, *images.shape[1:])

        program = jax.jit(side_by_side, out_shardings=rows).lower(key, images).compile()
        text = program.as_text()
        gathers, narrow = of_pixels(text, 2 * b // count)
        said = {
            "name": name,
            "temporaries_gb": program.memory_analysis().temp_size_in_bytes / 1e9,
            "moved_gb": program.cost_analysis()["bytes accessed"] / 1e9,
            "gathers": gathers,
            "narrow": narrow,
            "collectives": COLLECTIVE.findall(text),
        }
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
