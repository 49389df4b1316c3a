# %% [markdown]
"""
# Digits in two minutes

SimCLR on scikit-learn's digits 0 to 5, without labels; then: how few labels does its embedding need
to tell 6 to 9 apart, which it never saw? The same as `python -m experiments.simclr`, in five verbs.
"""

# %% tags=["parameters"]
EPOCHS = 60
DRAWS = 5
RUN = "runs/digits"

# %%
import dataclasses

from experiments import simclr, study
from jaxssl import analysis

settings = dataclasses.replace(simclr.PRESETS["digits"], epochs=EPOCHS, draws=DRAWS, run_dir=RUN)

# %% [markdown]
"""
`open` finds the devices, `load` reads and splits the images, `train` goes on from wherever the run
folder stands, `embed` makes a table of every image, `report` the numbers and the page.
"""

# %%
with study.open(settings) as run:
    data = study.load(run)
    trained = study.train(run, data, simclr.make_method(settings, data))
    embedded = study.embed(run, data, trained)

# %% [markdown]
"""
The tables need no JAX any more. Balanced accuracy on classes that were never seen, beside two
baselines that cost no training:
"""

# %%
rows = {}
for name in ("h", "untrained", "raw_pixels"):
    table = embedded.tables[name]["unseen"]
    rows[name] = analysis.label_efficiency(
        table.vectors, table.class_index, sizes=[30], classifiers=["svc"], draws=DRAWS
    )
for name, found in rows.items():
    print(f"{name:12}", *(f"{row['labels']} labels {row['mean']:.3f}" for row in found))

# %% [markdown]
"""
The whole report, with map and pictures: `study.report(embedded, draws=DRAWS)`, which takes some
20 seconds for the map.
"""
