"""Embedding tables to numbers, figures and a report: numpy and scikit-learn, no jax.

The menu below is what a program or a notebook needs; importing it costs nothing, since each name
is loaded when it is first asked for. More stands in the modules of these names:

- `embeddings`, `tables`: a table, on disk a parquet file; all tables of a run
- `distances`, `exemplars`, `retrieval`, `probes`, `linear_probe`, `projection`: single measures
- `whitening`, `propagation`: what makes few labels go far
- `measures`, `results`: all of them at once, as one value
- `clusters`, `outliers`, `suspects`: what needs no labels, and labels that may be wrong
- `acquisition`, `next_page`: which images to label next, and their page
- `triplets`: pictures of what a miner took
- `health`, `findings`: whether an embedding has collapsed; classes that fail, baselines that win
- `placing`, `newcomers`: other images on a run's map
- `checks`: what all of them refuse, each in one line
- `run`, `report`, `sections`, `evaluation`, `compare`: run folders, and their pages
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxssl.analysis.acquisition import Proposals, propose
    from jaxssl.analysis.classifier import classification
    from jaxssl.analysis.compare import write_comparison
    from jaxssl.analysis.confident import confident_learning
    from jaxssl.analysis.embeddings import Embeddings
    from jaxssl.analysis.exporting import export
    from jaxssl.analysis.few_labels import (
        FewLabels,
        Propagated,
        fit_few_labels,
        propagate_few_labels,
    )
    from jaxssl.analysis.measures import analyse
    from jaxssl.analysis.newcomers import with_places, write_newcomers
    from jaxssl.analysis.next_page import write_proposals
    from jaxssl.analysis.probes import knn_accuracy, knn_votes, label_efficiency
    from jaxssl.analysis.projection import tsne_together, umap_together
    from jaxssl.analysis.propagation import (
        neighbour_graph,
        propagate,
        spread_labels,
        whitened_graph,
    )
    from jaxssl.analysis.report import write_report
    from jaxssl.analysis.results import Classification, Facts, Results
    from jaxssl.analysis.run import Run, read_run
    from jaxssl.analysis.suspects import find_suspects
    from jaxssl.analysis.tables import Tables, read_tables, save_tables, with_map, with_pixel_size
    from jaxssl.analysis.terminal import headline
    from jaxssl.analysis.triplets import draw_triplets
    from jaxssl.analysis.whitening import Whitening, fit_whitening

__all__ = [
    "Classification",
    "Embeddings",
    "Facts",
    "FewLabels",
    "Propagated",
    "Proposals",
    "Results",
    "Run",
    "Tables",
    "Whitening",
    "analyse",
    "classification",
    "confident_learning",
    "draw_triplets",
    "export",
    "find_suspects",
    "fit_few_labels",
    "fit_whitening",
    "headline",
    "knn_accuracy",
    "knn_votes",
    "label_efficiency",
    "neighbour_graph",
    "propagate",
    "propagate_few_labels",
    "propose",
    "read_run",
    "read_tables",
    "save_tables",
    "spread_labels",
    "tsne_together",
    "umap_together",
    "whitened_graph",
    "with_map",
    "with_pixel_size",
    "with_places",
    "write_comparison",
    "write_newcomers",
    "write_proposals",
    "write_report",
]

_MODULES = {
    "acquisition": ("Proposals", "propose"),
    "classifier": ("classification",),
    "confident": ("confident_learning",),
    "compare": ("write_comparison",),
    "embeddings": ("Embeddings",),
    "exporting": ("export",),
    "few_labels": ("FewLabels", "Propagated", "fit_few_labels", "propagate_few_labels"),
    "measures": ("analyse",),
    "newcomers": ("with_places", "write_newcomers"),
    "next_page": ("write_proposals",),
    "probes": ("knn_accuracy", "knn_votes", "label_efficiency"),
    "propagation": ("neighbour_graph", "propagate", "spread_labels", "whitened_graph"),
    "projection": ("tsne_together", "umap_together"),
    "report": ("write_report",),
    "results": ("Classification", "Facts", "Results"),
    "run": ("Run", "read_run"),
    "suspects": ("find_suspects",),
    "tables": ("Tables", "read_tables", "save_tables", "with_map", "with_pixel_size"),
    "terminal": ("headline",),
    "triplets": ("draw_triplets",),
    "whitening": ("Whitening", "fit_whitening"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
