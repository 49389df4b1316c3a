# %% [markdown]
"""
# A loss in a training step of your own

Nothing of jaxssl but a loss and two random views: the network, the optimizer and the loop are plain
JAX. On several devices the same step trains on the global batch.
"""

# %% tags=["parameters"]
STEPS = 100
BATCH = 256

# %%
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxssl import augment
from jaxssl.data import load_digits
from jaxssl.losses import nt_xent

images = load_digits(size=16).images()

# %% [markdown]
"""
A network: any function that gives a row an image.
"""


# %%
def init(key, sizes=(256, 128, 64)):
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [jax.random.normal(k, (i, o)) / i**0.5 for k, i, o in pairs]


def encode(params, images):
    h = images.reshape(len(images), -1)
    for weights in params[:-1]:
        h = jax.nn.relu(h @ weights)
    return h @ params[-1]


# %%
def loss_of(params, key, batch):
    z_a, z_b = (encode(params, view) for view in augment.views(key, batch, augment.digits))
    return nt_xent(z_a, z_b, temperature=0.2)


@jax.jit
def step(params, key, batch):
    loss, grads = jax.value_and_grad(loss_of)(params, key, batch)
    return [p - 0.5 * g for p, g in zip(params, grads, strict=True)], loss


# %% [markdown]
"""
The batch is spread over all devices; the loss is that of the whole batch all the same. Chance is
ln(2·BATCH - 1).
"""

# %%
mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
spread = NamedSharding(mesh, PartitionSpec("data"))
params, key, random = init(jax.random.key(0)), jax.random.key(1), np.random.default_rng(0)
losses = []
for i in range(STEPS):
    batch = jax.device_put(images[random.choice(len(images), BATCH, replace=False)], spread)
    params, loss = step(params, jax.random.fold_in(key, i), batch)
    losses.append(float(loss))
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; chance {np.log(2 * BATCH - 1):.2f}")
