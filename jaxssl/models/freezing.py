"""What of a model is trained, and how fast: frozen modules, layer-wise learning rates."""

from __future__ import annotations

from typing import Any

from flax import nnx

from jaxssl.errors import InputError
from jaxssl.models.layers import BatchNorm, Block, Dropout


class Frozen(nnx.Variable):
    """A parameter that is not trained.

    It is no `nnx.Param`, so `nnx.split(model, nnx.Param, ...)` leaves it with the rest of the
    state: no gradient is computed for it, the optimizer never sees it (no mask is needed), weight
    decay cannot reach it, and a checkpoint still holds it.
    """


def freeze(module: Any, *, until: str | int | None = None, adapt_statistics: bool = False) -> None:
    """Make a module (in place) a fixed function: what `requires_grad = False` and `eval()` do.

    Every `nnx.Param` under it becomes `Frozen`; BatchNorm under it keeps to its running statistics
    and dropout drops nothing, even after `model.train()`.

    Args:
      module: any module of this package; a part of a model (`freeze(encoder.trunk)`) as well.
      until: freeze only an encoder's blocks from the images up to this one, by its name in
        `encoder.blocks_list()`, or so many blocks (negative: all but so many at the end).
      adapt_statistics: leave BatchNorm and dropout as they are in training, so that the frozen
        parameters see the new images' statistics, and the running ones go on moving.

    Raises:
      InputError: for a block that the encoder does not have.

    Example:
      >>> from jaxssl.models import ConvNet
      >>> encoder = ConvNet(widths=(8,), channels=1, rngs=nnx.Rngs(0))
      >>> freeze(encoder)
      >>> len(nnx.state(encoder, nnx.Param))
      0
    """
    if until is not None:
        for part in _blocks_until(module, until):
            freeze(part, adapt_statistics=adapt_statistics)
        return
    if not adapt_statistics:
        keep_statistics(module)
    for _, part in nnx.iter_modules(module):
        if isinstance(part, Dropout) and not adapt_statistics:
            part.frozen = True
        for name, value in list(vars(part).items()):
            if isinstance(value, nnx.Param):
                setattr(part, name, Frozen(value.get_value()))


def keep_statistics(module: Any) -> None:
    """Have BatchNorm (in place) normalise by its running statistics in training too.

    Its scales and offsets still learn; its running statistics stop moving. Pretrained weights were
    learnt behind these statistics: with those of other images alone, nothing trained, features are
    worse at first (EfficientNet-Lite0 on plankton: five points of kNN after 40 batches), and short
    training has to win that back. A step is quicker too.

    Args:
      module: any module of this package; a part of a model (`keep_statistics(encoder)`) as well.

    Example:
      >>> import jax
      >>> from jaxssl.models import ConvNet
      >>> encoder = ConvNet(widths=(2,), channels=1, rngs=nnx.Rngs(0))
      >>> keep_statistics(encoder)
      >>> encoder.train()
      >>> _ = encoder(jax.numpy.ones((2, 8, 8, 1)))
      >>> encoder.norms[0].mean.tolist()  # as it was
      [0.0, 0.0]
    """
    for _, part in nnx.iter_modules(module):
        if isinstance(part, BatchNorm):
            part.frozen = True


def _blocks_until(encoder: Any, until: str | int) -> list[nnx.Module]:
    blocks: list[Block] = encoder.blocks_list()
    names = [name for name, _ in blocks]
    if isinstance(until, str) and until in names:
        until = names.index(until) + 1
    if not isinstance(until, int) or not -len(names) < until <= len(names):
        raise InputError(
            f"freeze until {until!r}: this encoder has {len(names)} blocks: {', '.join(names)}"
        )
    return [part for _, parts in blocks[:until] for part in parts]


def learning_rate_scales(model: nnx.Module, encoder: Any, decay: float) -> Any:
    """Scale learning rates by layer: a factor for every trainable parameter of a model.

    The last block's parameters and all that is not the encoder's have factor 1, each block before
    it `decay` times the next one's. Multiply an optimizer's updates by them:
    `optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales))`.

    Args:
      model: holds the encoder, or is it.
      encoder: has `blocks_list()`.
      decay: in (0, 1]; .65 to .9 are usual.

    Returns:
      Floats in the tree of `nnx.as_pure(nnx.state(model, nnx.Param))`.

    Raises:
      ValueError: for a decay outside (0, 1].

    Reference:
      Howard & Ruder 2018, "Universal Language Model Fine-tuning", section 3.2; Bao et al. 2021,
      BEiT, section 3.2.

    Example:
      >>> from jaxssl.models import ConvNet
      >>> encoder = ConvNet(widths=(4, 4), channels=1, rngs=nnx.Rngs(0))
      >>> learning_rate_scales(encoder, encoder, 0.5)["convs"][0]["kernel"]
      0.5
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay {decay} of the learning rates: in (0, 1]")
    blocks: list[Block] = encoder.blocks_list()
    factors = {
        id(variable): decay ** (len(blocks) - 1 - index)
        for index, (_, parts) in enumerate(blocks)
        for part in parts
        for _, layer in nnx.iter_modules(part)
        for variable in vars(layer).values()
    }
    state = nnx.state(model, nnx.Param)
    scaled = [(path, factors.get(id(variable), 1.0)) for path, variable in nnx.to_flat_state(state)]
    return nnx.from_flat_state(scaled)
