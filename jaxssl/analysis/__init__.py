"""Embedding tables to numbers, figures and a report: numpy and scikit-learn, no jax.

- `embeddings`: the table on disk (parquet): `Embeddings`, `load`, `save`
- `distances`: class-by-class mean Euclidean and angular distances
- `projection`: UMAP and t-SNE of several sets together
- `exemplars`: the typical and the odd images of a class; nearest neighbours of a query
- `probes`: how far n labels go; kNN and linear evaluation
- `retrieval`: P@1, R-precision, MAP@R; NMI and silhouette
- `sampling`: rows drawn so that every class keeps its share
- `run`, `results`: a run folder's tables, and all the numbers of a run
- `figures`, `report`: what a person looks at
- `methods`, `compare`: several runs on one page
"""
