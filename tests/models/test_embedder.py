import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxssl.models import ConvNet, Embedder, ProjectionHead, follow, freeze, over_views


@pytest.fixture
def model(build) -> Embedder:
    def make():
        rngs = nnx.Rngs(0)
        head = ProjectionHead(6, kind="mlp-bn", out_features=5, rngs=rngs)
        return Embedder(ConvNet(widths=(4, 6), channels=1, rngs=rngs), head)

    return build(make)


@pytest.fixture
def views() -> np.ndarray:
    return np.random.default_rng(3).random((3, 4, 8, 8, 1), np.float32)


def test_views_are_one_batch_with_an_images_views_side_by_side(model, views):
    images = np.stack([views[v, i] for i in range(4) for v in range(3)])
    rows = np.asarray(model(images)[1])
    z = model.project(views)
    assert z.shape == (3, 4, 5)
    for i in range(4):
        for v in range(3):
            np.testing.assert_allclose(z[v, i], rows[3 * i + v], rtol=1e-6)
    # BatchNorm saw them together: a view alone gives other numbers.
    assert np.abs(np.asarray(model(views[0])[1]) - z[0]).max() > 1e-3


def test_over_views_takes_functions_of_several_results(views):
    h, z = over_views(lambda x: (x.sum((1, 2, 3)), x[:, 0]), views)
    np.testing.assert_allclose(h, views.sum((2, 3, 4)), rtol=1e-6)
    np.testing.assert_array_equal(z, views[:, :, 0])
    with pytest.raises(ValueError, match=r"\(4, 8, 8, 1\): not \[number, b, h, w, c\]"):
        over_views(lambda x: x, views[0])


def test_nothing_moves_between_devices(model, views):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True))
    project = jax.jit(lambda state, x: nnx.merge(graphdef, state).project(x))
    text = project.lower(state, jax.device_put(views, place)).compile().as_text()
    assert not [name for name in ("all-gather", "all-to-all", "permute(") if name in text]


def test_a_teacher_follows_inside_a_loss_without_gradient(model, views):
    class Study(nnx.Module):
        def __init__(self):
            self.online, self.teacher = model, nnx.clone(model)
            freeze(self.teacher)

    study = Study()
    study.online.encoder.convs[0].kernel.set_value(model.encoder.convs[0].kernel[...] + 0.5)
    graphdef, params, rest = nnx.split(study, nnx.Param, ...)

    @jax.jit
    def step(params, rest, decay):
        def loss(params):
            made = nnx.merge(graphdef, params, rest, copy=True)
            z = made.online.project(views)
            follow(made.teacher, made.online, decay)
            target = made.teacher.project(views)
            return jnp.sum(target), (z, nnx.split(made, nnx.Param, ...)[2])

        return jax.grad(loss, has_aux=True)(params)

    gradient, (_, after) = step(params, rest, 0.75)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
    before, after = nnx.to_pure_dict(rest)["teacher"], nnx.to_pure_dict(after)
    teacher, online = after["teacher"], nnx.to_pure_dict(params)["online"]
    for name in ("scale", "bias"):
        np.testing.assert_allclose(
            teacher["encoder"]["norms"][1][name],
            0.75 * before["encoder"]["norms"][1][name] + 0.25 * online["encoder"]["norms"][1][name],
            rtol=1e-6,
        )
    kernel = before["encoder"]["convs"][0]["kernel"]
    np.testing.assert_allclose(teacher["encoder"]["convs"][0]["kernel"], kernel + 0.125, rtol=1e-5)
    # The statistics are those that the online network has after this batch.
    moved = after["online"]["encoder"]["norms"][0]["var"]
    assert (moved != before["encoder"]["norms"][0]["var"]).all()
    np.testing.assert_array_equal(teacher["encoder"]["norms"][0]["var"], moved)


def test_a_teacher_that_does_not_fit_is_refused(model):
    teacher = nnx.clone(model)
    with pytest.raises(ValueError, match=r"freeze\(teacher\) first"):
        follow(teacher, model, 0.9)
    freeze(teacher)
    with pytest.raises(ValueError, match="the online module has nothing there"):
        follow(teacher, model.encoder, 0.9)
    model.encoder.convs[0] = ConvNet(widths=(5,), channels=1, rngs=nnx.Rngs(0)).convs[0]
    with pytest.raises(ValueError, match=r"\(3, 3, 1, 4\), the online module has the shape \(3, 3"):
        follow(teacher, model, 0.9)
