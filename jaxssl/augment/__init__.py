"""Random views of images, on the device.

- A batch: `view` (one view of each image), `views` (several of each), `to_float` (bytes to [0, 1])
- Recipes, `(key, image, *, options) -> view` of one image: `plankton`, `digits`, `cifar`; any
  function (key, image) -> view of your own is one (`Recipe`)
- What they are made of, one float32 image [h, w, c] each:
  - at random, `(key, image, *, options) -> image`: `random_rotation`, `random_resized_crop`,
    `random_flip`, `color_jitter`, `random_grey`, `random_blur`, `random_gaussian_blur`
  - as told, `(image, ...) -> image`: `adjust_brightness`, `adjust_contrast`, `adjust_saturation`,
    `adjust_hue`, `to_grey`, `gaussian_blur`, and `warp` with its transforms
    (`jaxssl.augment.geometry`: rotation, scaling, translation, flip, crop and their `compose`)

`first, second = views(key, images, plankton)`; `views(key, images, partial(plankton, fill=0.0))`.
"""

from jaxssl.augment.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    gaussian_blur,
    random_blur,
    random_gaussian_blur,
    random_grey,
    to_grey,
)
from jaxssl.augment.geometry import random_flip, random_resized_crop, random_rotation, warp
from jaxssl.augment.recipes import Recipe, cifar, digits, plankton, to_float, view, views

__all__ = [
    "Recipe",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "cifar",
    "color_jitter",
    "digits",
    "gaussian_blur",
    "plankton",
    "random_blur",
    "random_flip",
    "random_gaussian_blur",
    "random_grey",
    "random_resized_crop",
    "random_rotation",
    "to_float",
    "to_grey",
    "view",
    "views",
    "warp",
]
