"""A map in no time, for programs in processes of their own: numba compiles umap-learn for 10 s.

On their PYTHONPATH; what umap-learn itself draws, tests/analysis/test_projection.py tests.
"""

from typing import Any

import numpy as np


class UMAP:
    """Two principal axes."""

    def __init__(self, **options: Any):
        """Take umap-learn's options, and none of them to heart."""

    def fit_transform(self, points: np.ndarray) -> np.ndarray:
        """Project [n, d] on the axes of largest spread, [n, 2]."""
        centred = points - points.mean(axis=0)
        return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
