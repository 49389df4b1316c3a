"""PCA whitening, learnt from images without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxssl.analysis import checks


@dataclass(frozen=True, eq=False)
class Whitening:
    """A linear map that makes the directions of an embedding equally wide, or nearly.

    Args:
        mean: `[d]`, of the vectors that it was learnt from.
        axes: `[d, c]`, their principal axes, the widest first.
        widths: `[c]`, what each coordinate is divided by.
    """

    mean: np.ndarray
    axes: np.ndarray
    widths: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Map vectors `[n, d]` to `[n, c]`, float64.

        Raises:
            ValueError: Another shape, or no real numbers.
            InputError: Vectors that are not finite.
        """
        (x,) = checks.fit(vectors=(vectors, f"n {len(self.mean)}"))
        x = np.asarray(checks.finite("vectors", x), np.float64)
        return (x - self.mean[None]) @ self.axes / self.widths[None]


def fit_whitening(
    vectors: np.ndarray, *, shrinkage: float = 0.0, components: int | None = None
) -> Whitening:
    """Learn PCA whitening from vectors whose classes nobody needs to know.

    With the covariance Σ = U diag(λ) Uᵀ, λ descending, and s the shrinkage,

        w(x) = diag(1 / √((1 − s) λ_i + s λ̄)) Uᵀ (x − mean),  λ̄ = mean of all λ_i.

    s = 0 makes every direction equally wide, those of mere noise too; s = 1 only turns and scales.
    A direction in which the vectors do not differ at all stays 0.

    Args:
        vectors: `[n, d]`, two or more: of training images, never of those that are judged.
        shrinkage: s, 0 to 1, of the covariance towards a multiple of the identity.
        components: How many of the widest directions are kept, 1 to d; None: all.

    Returns:
        The map `[n, d]` to `[n, c]`, c = `components` or d.

    Raises:
        ValueError: Fewer than two vectors, or a number out of range.
        InputError: Vectors that are not finite.

    Reference:
        Jégou and Chum 2012, "Negative evidences and co-occurences in image retrieval: the benefit
        of PCA and whitening"; the shrunk covariance: Ledoit and Wolf 2004, "A well-conditioned
        estimator for large-dimensional covariance matrices", equation 4 with its μ = λ̄.

    Example:
        >>> x = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0]])
        >>> fit_whitening(x)(x).std(axis=0, ddof=1).round(6).tolist()
        [1.0, 1.0]
        >>> fit_whitening(x, shrinkage=1.0)(x).std(axis=0).round(3).tolist()
        [1.095, 0.548]
    """
    x = np.asarray(checks.vectors("vectors", vectors, least=2), np.float64)
    kept = x.shape[1] if components is None else components
    if not 0 <= shrinkage <= 1 or not 1 <= kept <= x.shape[1]:
        raise ValueError(
            f"shrinkage is {shrinkage} and components {components}: 0 to 1, and 1 to {x.shape[1]}"
        )
    mean = x.mean(axis=0)
    eigenvalues, axes = np.linalg.eigh(np.cov(x, rowvar=False).reshape(x.shape[1], -1))
    # eigh's order is ascending; rounding leaves tiny negative numbers where there is no width.
    eigenvalues, axes = np.maximum(eigenvalues[::-1], 0), axes[:, ::-1]
    shrunk = (1 - shrinkage) * eigenvalues + shrinkage * eigenvalues.mean()
    flat = shrunk <= 1e-12 * max(eigenvalues[0], 1e-300)
    return Whitening(mean, axes[:, :kept], np.sqrt(np.where(flat, np.inf, shrunk))[:kept])
