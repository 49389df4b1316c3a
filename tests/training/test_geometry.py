"""The four numbers of an embedding's geometry against loops, scipy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy.spatial.distance import pdist

from jaxssl.training.geometry import chance_loss, pair_health


def test_against_numpy_and_scipy():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 20, 6))
    found = jax.jit(pair_health)(jnp.float32(a), jnp.float32(b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    z = np.concatenate([a, b])
    singular = np.linalg.svd(z - z.mean(0), compute_uv=False) ** 2
    p = singular / singular.sum()
    expected = {
        "alignment": np.mean([np.sum((x - y) ** 2) for x, y in zip(a, b, strict=True)]),
        "uniformity": np.log(np.mean(np.exp(-2 * pdist(z, "sqeuclidean")))),
        "z_std": z.std(0).mean() * np.sqrt(6),
        "effective_rank": np.exp(-np.sum(p * np.log(p))),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("rows", [512, 513, 3000])
def test_many_rows_are_not_paired_with_one_another(rows):
    random = np.random.default_rng(1)
    a = random.normal(size=(rows, 6)) + 1  # not uniform, so that the number says something
    b = a + 0.3 * random.normal(size=a.shape)
    found = jax.jit(pair_health)(jnp.float32(a), jnp.float32(b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    expected = np.log(np.mean(np.exp(-2 * pdist(np.concatenate([a, b]), "sqeuclidean"))))
    np.testing.assert_allclose(found["uniformity"], expected, rtol=2e-5 if rows == 512 else 0.05)


def test_the_largest_batches_need_no_more_than_their_rows():
    # 100,000 x 100,000 pairs were 40 GB, and their number more than 32 bits hold.
    z = jax.ShapeDtypeStruct((50_000, 8), jnp.float32)
    memory = jax.jit(pair_health).lower(z, z).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 20 * 2 * z.size * 4


def test_a_uniform_sphere_and_one_point():
    sphere = jax.random.normal(jax.random.key(0), (2, 500, 16))
    found = jax.jit(pair_health)(*sphere)
    np.testing.assert_allclose(found["z_std"], 1, atol=0.02)
    np.testing.assert_allclose(found["effective_rank"], 16, atol=0.4)
    point = jnp.ones((8, 16))
    collapsed = pair_health(point, point)
    assert all(bool(jnp.isfinite(value)) for value in collapsed.values())
    assert float(collapsed["uniformity"]) == pytest.approx(0, abs=1e-5)
    assert float(collapsed["z_std"]) == pytest.approx(0, abs=1e-5)
    assert float(collapsed["effective_rank"]) == pytest.approx(1, abs=1e-5)


def test_chance_is_the_loss_of_equal_similarities():
    # Softmax over the 2N - 1 other rows with equal logits.
    assert chance_loss(8) == pytest.approx(-np.log(1 / 15))
    assert chance_loss(1) == 0


def test_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(5, 3\)"):
        pair_health(jnp.ones((4, 3)), jnp.ones((5, 3)))


def test_rows_on_explicit_axes():
    mesh = jax.make_mesh((8,), ("data",))  # of the default's axes
    pair = np.random.default_rng(0).normal(size=(2, 16, 6)).astype(np.float32)
    spread = jax.device_put(tuple(pair), NamedSharding(mesh, PartitionSpec("data")))
    for found in (pair_health(*spread), jax.jit(pair_health)(*spread)):
        for name, expected in pair_health(*pair).items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-4)
