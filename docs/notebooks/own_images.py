# %% [markdown]
"""
# Embeddings of your images

From a folder to one row of numbers an image, and what one does with them: neighbours, odd ones out,
a table for other programs.
"""

# %% tags=["parameters"]
# A folder, zip or table of images. "": some digits are written into a folder first.
FOLDER = ""
# A run folder, or "" for a network without training, which says what it is: random.
RUN = ""
SIZE = 16

# %%
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from jaxssl import data, embed, models

if not FOLDER:
    FOLDER = tempfile.mkdtemp()
    digits = data.load_digits(size=32)
    for name, pixels in zip(digits.ids[:200], digits.images()[:200], strict=True):
        Image.fromarray(pixels[..., 0]).save(Path(FOLDER) / f"{Path(name).name}.png")

# %%
images, report = data.open_images(FOLDER, data.Reading(size=SIZE, channels=1))
print(report)

# %% [markdown]
"""
With a run, `embed(FOLDER, RUN)` reads the images as the run read its own. Without one, any network:
"""

# %%
if RUN:
    h = embed(FOLDER, RUN)
else:
    h = embed(images, models.ConvNet(channels=1, rngs=models.Rngs(0)))
print(h.shape)

# %% [markdown]
"""
The nearest others of the first image by angle, and the image that is farthest from all.
"""

# %%
unit = h / np.linalg.norm(h, axis=1, keepdims=True)
cosines = unit @ unit.T - 2 * np.eye(len(unit))
print("like", images.ids[0], "are", [images.ids[i] for i in cosines[0].argsort()[::-1][:5]])
print("odd:", images.ids[cosines.max(1).argmin()])
