import jax
import numpy as np
import pytest
from flax import nnx

from jaxssl.models import ENCODERS, fold_batch_norm, make_encoder
from jaxssl.models.layers import BatchNorm

OPTIONS = {
    "resnet18": {"width": 4},
    "resnet50": {"width": 2},
    "efficientnet_lite0": {"layer": "block3+head"},
}
# Of the same module with other numbers of blocks, or of the same blocks.
SAME = ("efficientnet_lite1", "efficientnet_lite2", "tf_plankton_v2_s")
SAME += ("dinov2_s", "dinov2_b", "dinov3_s", "dinov3_b")  # which have no BatchNorm


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in SAME])
def test_a_folded_encoder_gives_the_same_without_batchnorm(name, build):
    options = OPTIONS.get(name, {})
    encoder = build(
        lambda: make_encoder(name, image_size=32, channels=1, rngs=nnx.Rngs(0), **options)
    )
    folded = fold_batch_norm(encoder)
    assert not [part for _, part in nnx.iter_modules(folded) if isinstance(part, BatchNorm)]
    images = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    view = nnx.view(encoder, use_running_average=True, deterministic=True, raise_if_not_found=False)
    splits = [nnx.split(model) for model in (view, folded)]

    @jax.jit
    def run(states):
        return [nnx.merge(g, s)(images) for (g, _), s in zip(splits, states, strict=True)]

    expected, h = run([state for _, state in splits])
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    # What it was made of is as it was.
    assert [part for _, part in nnx.iter_modules(encoder) if isinstance(part, BatchNorm)]
