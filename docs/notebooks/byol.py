# %% [markdown]
"""
# Adding BYOL

A method is a file of your own: flags, `make_method`, a `main`. `tests/outside/byol.py` is BYOL
whole; here it is opened, trained for some steps and looked at.
"""

# %% tags=["parameters"]
FILE = "tests/outside/byol.py"
EPOCHS = 20
RUN = "runs/byol"

# %%
import dataclasses

from experiments import cli, study

program = cli.load_program(FILE)
settings = dataclasses.replace(program.PRESETS["digits"], epochs=EPOCHS, run_dir=RUN)

# %% [markdown]
"""
Two networks learn from each other: the online network predicts what the teacher, its moving
average, makes of the other view. There are no negatives, and the loss is lowest where all images
are one point: so the checkpoint is chosen by kNN, and the spread of z is what to watch.
"""

# %%
with study.open(settings) as run:
    data = study.load(run)
    method = program.make_method(settings, data)
    trained = study.train(run, data, method)
print({name: trained.facts[name] for name in ("best_step", "last_step")})

# %% [markdown]
"""
The teacher is part of the model that is no parameter: no gradient moves it, and it is saved.
"""

# %%
print(sorted(trained.states["last"].rest))
