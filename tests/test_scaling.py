"""What the scaling benchmark counts in a compiled program."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from jaxssl.training import devices


@pytest.fixture(scope="module")
def scaling(load_script):
    return load_script("benchmarks/scaling.py")


def test_operations_are_counted_as_often_as_they_run(scaling):
    mesh = devices.data_placement(8).sharded.mesh
    ring = [(i, (i + 1) % 8) for i in range(8)]

    def program(x):  # [2, 4] float32 on each device
        def turn(_, block):
            return jax.lax.ppermute(block, "data", ring)

        x = jax.lax.fori_loop(0, 7, turn, x) + jax.lax.psum(x, "data")
        whole = jax.lax.all_gather(x, "data", tiled=True)
        scattered = jax.lax.psum_scatter(whole, "data", tiled=True)
        return scattered, jax.lax.pmax(x.sum().astype(jnp.int32), "data")

    mapped = jax.shard_map(program, mesh=mesh, in_specs=P("data"), out_specs=(P("data"), P()))
    compiled = jax.jit(mapped).lower(jnp.ones((16, 4))).compile()
    found = scaling.communication(compiled.as_text())
    assert found["collective-permute"] == (7, 7 * 32)
    assert found["all-gather"] == (1, 256)
    assert found["all-reduce"] == (2, 32 + 4)
    assert found["reduce-scatter"] == (1, 32)
    # Each device keeps an eighth of an all-reduce's sums and passes the rest on, twice.
    sizes = {"all-reduce": (1, 800), "all-gather": (1, 800), "collective-permute": (3, 30)}
    assert scaling.sent(sizes, 8) == 2 * 700 + 700 + 30
