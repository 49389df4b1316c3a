"""scikit-learn: the encoder of a run, or a model, as a transformer in a pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data


class JaxsslEmbedder(TransformerMixin, BaseEstimator):
    """Images to embeddings: `make_pipeline(JaxsslEmbedder("runs/simclr-..."), LinearSVC())`.

    With a model that takes images of any size it passes scikit-learn's `check_estimator`. A run, or
    a model that was trained on one size, refuses rows of another length, which that check gives.

    It is trained already: `fit` only looks at the shape of the images, and learns nothing from
    them, so that cross-validation of what stands behind it is honest if none of the images was
    trained on.

    Args:
      source: A run folder, or a `flax.nnx` module as `jaxssl.embed` takes it.
      image_shape: (h, w, c) of images that come as rows of h * w * c numbers, as scikit-learn's own
        do. None: rows are images of one row of pixels, [1, n, 1].
      checkpoint: Of a run: "best", "last" or a step.

    Example:
      >>> from flax import nnx
      >>> from jaxssl.models import ConvNet
      >>> encoder = ConvNet(widths=(8,), channels=1, rngs=nnx.Rngs(0))
      >>> images = np.zeros((3, 16, 16, 1), np.uint8)
      >>> JaxsslEmbedder(encoder).fit_transform(images).shape
      (3, 8)
    """

    def __init__(
        self,
        source: Any = None,
        *,
        image_shape: tuple[int, int, int] | None = None,
        checkpoint: str = "best",
    ):
        self.source = source
        self.image_shape = image_shape
        self.checkpoint = checkpoint

    def fit(self, X: Any, y: Any = None) -> JaxsslEmbedder:
        """Check the images.

        Args:
          X: uint8, or float in [0, 1]: [n, h, w, c], or rows [n, h * w * c].
          y: Not used.
        """
        self._images(X, reset=True)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed images: float32 [n, d].

        Args:
          X: As in `fit`.
        """
        from jaxssl.embedding import embed

        check_is_fitted(self)
        if self.source is None:
            raise ValueError("source is None: give a run folder or a module")
        images = self._images(X, reset=False)
        return embed(images, self.source, checkpoint=self.checkpoint)

    def _images(self, X: Any, *, reset: bool) -> np.ndarray:
        kinds = [np.uint8, np.float32]
        X = validate_data(self, X, reset=reset, allow_nd=True, dtype=kinds)
        if X.ndim != 2:
            return X
        shape = self.image_shape or (1, X.shape[1], 1)
        if np.prod(shape) != X.shape[1]:
            raise ValueError(f"rows of {X.shape[1]} numbers are no images of the shape {shape}")
        return X.reshape(len(X), *shape)

    def __sklearn_tags__(self) -> Any:
        """Say that embeddings are float32, whatever the images are."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Whether the shape of the images is known."""
        return hasattr(self, "n_features_in_")
