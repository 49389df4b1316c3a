"""Contrastive and metric learning for images in pure JAX.

The rooms, each importable alone:

- `jaxssl.losses`: pure functions of arrays (imports jax only)
- `jaxssl.augment`: random views, one image at a time, on the device (jax only)
- `jaxssl.models`: encoders and heads (flax.nnx)
- `jaxssl.data`: images on disk to batches (grain, numpy)
- `jaxssl.training`: steps, state, checkpoints, the loop (jax, flax, optax, orbax)
- `jaxssl.analysis`: embedding tables to numbers and a report (numpy, scikit-learn; no jax)
"""

__version__ = "0.1.0"
