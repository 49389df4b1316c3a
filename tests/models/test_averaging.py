import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxssl.models import ConvNet, average_views, layer_output, turned


def copies(images):
    """The eight symmetries by NumPy, one after the other."""
    mirrored = images[:, :, ::-1]
    return [np.rot90(x, k, axes=(1, 2)) for x in (images, mirrored) for k in range(4)]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((3, 16, 16, 1), np.float32)


@pytest.fixture(scope="module")
def encoder():
    encoder = ConvNet(widths=(4, 8), channels=1, rngs=nnx.Rngs(0))
    encoder.eval()
    return encoder


def test_the_eight_views_are_numpys_and_all_differ(images):
    found = [np.asarray(turned(images, view)) for view in range(8)]
    for view, expected in zip(found, copies(images), strict=True):
        np.testing.assert_array_equal(view, expected)
    assert len({view.tobytes() for view in found}) == 8


@pytest.mark.parametrize(("views", "which"), [(2, (0, 4)), (4, range(4)), (8, range(8))])
def test_the_average_is_a_loops(encoder, images, views, which):
    expected = np.mean([encoder(copies(images)[view]) for view in which], axis=0)
    output = jax.jit(lambda x: average_views(lambda model, x: model(x), views)(encoder, x))
    np.testing.assert_allclose(output(images), expected, atol=1e-5)


def test_of_eight_views_turned_images_have_the_same_output_of_any_layer(encoder, images):
    output = average_views(layer_output(encoder, "convs/0"), 8)
    means = [output(nnx.clone(encoder), jnp.asarray(copy)) for copy in copies(images)[::3]]
    for other in means[1:]:
        np.testing.assert_allclose(other, means[0], atol=1e-5)


def test_one_view_is_the_output_and_others_are_refused(encoder):
    def output(model, images):
        return model(images)

    assert average_views(output, 1) is output
    with pytest.raises(ValueError, match="views are 3: one of 1, 2, 4, 8"):
        average_views(output, 3)
    with pytest.raises(ValueError, match="only square ones"):
        average_views(output, 4)(encoder, jnp.zeros((1, 16, 8, 1)))


def test_images_on_explicit_axes_stay_spread():
    mesh = jax.make_mesh((8,), ("data",))  # of the default's axes
    images = np.random.default_rng(0).random((8, 4, 4, 3), np.float32)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    averaged = average_views(lambda model, x: x[:, 0].mean(1), 4)
    spread = jax.device_put(images, rows)
    with jax.set_mesh(mesh):
        within = averaged(None, spread)
    for found in (within, averaged(None, spread), jax.jit(averaged)(None, spread)):
        np.testing.assert_allclose(found, averaged(None, images), rtol=1e-5)
        assert found.sharding.is_equivalent_to(rows, 2)
