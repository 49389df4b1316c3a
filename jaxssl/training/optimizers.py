"""The optimizers of SimCLR, with their schedule and with the parameters that they treat apart."""

from __future__ import annotations

from typing import Any, Literal

import jax
import optax

OptimizerName = Literal["adam", "sgd", "lars"]
Schedule = Literal["constant", "cosine"]


def make_optimizer(
    name: OptimizerName,
    *,
    learning_rate: float,
    total_steps: int,
    schedule: Schedule = "cosine",
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
) -> optax.GradientTransformation:
    """Make Adam, SGD or LARS; weight decay and LARS's trust ratio leave biases and BatchNorm alone.

    With the gradient g of a parameter w, decayed first where `is_weight(w)`, g += λ w, and the
    rate η of the step:

      adam  w -= η Adam(g)           λ couples as in torch.optim.Adam: this is not AdamW
      sgd   v = µ v + g;             w -= η v           no Nesterov
      lars  v = µ v + η r g;         w -= v             r = .001 ‖w‖ / ‖g‖ where is_weight, else 1

    The rate rises linearly from 0 over the first `warmup_steps`, then stays, or falls along half a
    cosine to 0 at `total_steps`; the k-th update, from 0, is made with the rate of step k.

    Args:
      name: "adam" (β .9, .999, ε 1e-8), "sgd" or "lars".
      learning_rate: η after the warm-up, over 0. For LARS it is large: SimCLR takes .3 b / 256,
        on CIFAR-10 1.0 b / 256.
      total_steps: where the cosine ends, at least 1; a constant rate takes no notice.
      schedule: "constant" or "cosine".
      warmup_steps: at least 0; under "cosine" fewer than `total_steps`.
      weight_decay: λ, at least 0.
      momentum: µ of sgd and lars, in [0, 1).

    Returns:
      An optax transformation; its `update` needs the parameters.

    Raises:
      ValueError: an unknown name, or an option out of its range.

    Reference:
      You, Gitman and Ginsburg 2017, "Large Batch Training of Convolutional Networks", algorithm 1;
      Chen et al. 2020 (SimCLR), appendix B.9; Kingma and Ba 2015, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> optimizer = make_optimizer("lars", learning_rate=1.0, total_steps=10, schedule="constant")
      >>> params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
      >>> grads = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
      >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
      >>> [round(float(updates[name].sum()), 4) for name in ("kernel", "bias")]
      [-0.012, -2.0]
    """
    if weight_decay < 0 or not 0 <= momentum < 1:
        raise ValueError(
            f"weight_decay must be >= 0 and momentum in [0, 1), got {weight_decay} and {momentum}"
        )
    rate = make_schedule(
        schedule,
        learning_rate=learning_rate,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
    )
    match name:
        case "adam":
            rule = optax.adam(rate)
        case "sgd":
            rule = optax.sgd(rate, momentum)
        case "lars":
            return optax.lars(
                rate,
                weight_decay,
                weight_decay_mask=is_weight,
                trust_coefficient=0.001,
                trust_ratio_mask=is_weight,
                momentum=momentum,
            )
        case _:
            raise ValueError(f"optimizer {name!r}: one of adam, sgd, lars")
    if not weight_decay:
        return rule
    return optax.chain(optax.add_decayed_weights(weight_decay, is_weight), rule)


def make_schedule(
    schedule: Schedule, *, learning_rate: float, total_steps: int, warmup_steps: int
) -> optax.ScalarOrSchedule:
    """Make the learning rate as a function of the step, or a number where it never changes.

    Example:
      >>> rate = make_schedule("cosine", learning_rate=0.8, total_steps=12, warmup_steps=4)
      >>> [round(float(rate(step)), 4) for step in (0, 2, 4, 8, 12)]
      [0.0, 0.4, 0.8, 0.4, 0.0]
    """
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule {schedule!r}: one of constant, cosine")
    least = 1 + warmup_steps if schedule == "cosine" else 1
    if learning_rate <= 0 or warmup_steps < 0 or total_steps < least:
        raise ValueError(
            f"{schedule} schedule of learning_rate {learning_rate} (over 0), warmup_steps "
            f"{warmup_steps} (at least 0) and total_steps {total_steps} (at least {least})"
        )
    if schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, total_steps)
    if not warmup_steps:  # optax's linear schedule of no steps would stay at its first value, 0
        return learning_rate
    return optax.linear_schedule(0.0, learning_rate, warmup_steps)


def is_weight(params: Any) -> Any:
    """Mark kernels and other matrices True, vectors False: biases, BatchNorm's scale and bias.

    Args:
      params: a pytree of parameters, such as `TrainState.params`.

    Returns:
      The same tree with a bool for each parameter.

    Example:
      >>> from flax import nnx
      >>> layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
      >>> dict(is_weight(nnx.to_pure_dict(nnx.state(layer))))
      {'bias': False, 'kernel': True}
    """
    return jax.tree.map(lambda parameter: parameter.ndim > 1, params)
