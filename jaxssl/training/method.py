"""What makes a study, as one value: a model, a loss, an optimizer, and how it is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import optax
from flax import nnx

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
# (model, batch, key, step) -> (loss, metrics), all scalars.
Loss = Callable[[Any, Batch, jax.Array, jax.Array], tuple[jax.Array, Metrics]]
# (model, images float32 [b, h, w, c]) -> one row an image, [b, d]
Output = Callable[[Any, jax.Array], jax.Array]


def encoder_of(model: Any) -> Any:
    """Return `model.encoder`, where most methods have it."""
    return model.encoder


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to learn an embedding; nothing but the file that makes it knows more of it.

    The loss is a pure function of (model, batch, key, step) as far as the gradient goes. What it
    moves beside the gradient (a momentum teacher, a queue, a centre) is state of the model that is
    no `nnx.Param`: variables that the loss assigns are kept from step to step, replicated over the
    devices, and saved in the checkpoint.

    Attributes:
      name: As reports show it, such as "SimCLR".
      model: Encoder and whatever else the loss needs, with the weights it begins with. A model
        called on images float32 [b, h, w, c] can be described as a table.
      loss: `(model, batch, key, step) -> (loss, metrics)` in training mode. The batch holds
        "image" uint8 [b, h, w, c], "label" int32 [b] and "index" int32 [b]; the key is
        `fold_in(key, step)`; `step` is an int32 scalar, the number of finished steps.
      optimizer: Of the trainable variables.
      distance: The one that the embedding is trained for.
      best: The validation number that chooses the checkpoint, and which way: a network of two
        views may have its lowest loss where it has collapsed, a classifier wants accuracy. Of
        equals the latest is the best. "knn_accuracy", of h on the seen classes' validation
        images, is there at the end of every epoch.
      validate: As `loss`, on validation images in evaluation mode; None: `loss` itself.
      encoder: Which module of the model encodes: images float32 [b, h, w, c] -> h [b, d].
      logits: `(model, images) -> [b, k]`, where the model is a classifier to be judged as one.
      sampling: How batches are drawn: options of `data.train_stream`.
      patience: Stop after so many validations without a better `best`; None: never.
      trainable: The nnx filter of what the gradient moves.
      start: In words, what the weights are before the first step.

    Example:
      >>> encoder = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
      >>> def loss(model, batch, key, step):
      ...     return (model(batch["image"]) ** 2).mean(), {}
      >>> method = Method("Shrink", encoder, loss, optax.sgd(0.1), best=("loss", "min"))
      >>> method.score({"loss": 3.0}), method.score({"loss": float("nan")})
      (3.0, None)
    """

    name: str
    model: nnx.Module
    loss: Loss
    optimizer: optax.GradientTransformation
    _: dataclasses.KW_ONLY
    distance: Literal["euclidean", "angular"] = "euclidean"
    best: tuple[str, Literal["min", "max"]] = ("loss", "min")
    validate: Loss | None = None
    encoder: Callable[[Any], Any] = encoder_of
    logits: Output | None = None
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    patience: int | None = None
    trainable: Any = nnx.Param
    start: str = "random weights"

    def __post_init__(self) -> None:
        if self.best[1] not in ("min", "max"):
            raise ValueError(f"best is (name of a validation number, 'min' or 'max'): {self.best}")

    def encode(self, model: Any, images: jax.Array) -> jax.Array:
        """Return the representation h [b, d] of float32 images [b, h, w, c]."""
        return self.encoder(model)(images)

    def score(self, row: Mapping[str, float]) -> float | None:
        """Rate a validation: the lower the better.

        Args:
          row: The numbers of a validation by name.

        Returns:
          What `best` names, negated where more is better; None where the row does not hold it, or
          where it or the loss is not finite, which is never the best.
        """
        name, way = self.best
        value = row.get(name)
        if value is None or not abs(value) + abs(row.get("loss", 0.0)) < float("inf"):
            return None
        return value if way == "min" else -value
