"""The batch that a study's images fill."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from experiments import cli, config, presets
from jaxssl.analysis.projection import FEWEST
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from experiments.folders import Run

# Fewer images than this are refused, where nobody named a batch for them.
_FEWEST = 8
# Of a folder of one's own: the steps an epoch has at least, and the batch that this never goes
# below. 480 images of eight of PlanktonSet's classes, SimCLR without labels, 30 epochs in batches
# of 256: collapsed, kNN on h 66 %; of 64: 78 %; of 32: 80 %.
_STEPS_AN_EPOCH, _SMALLEST = 8, 32


def fitted(run: Run, images: int) -> Any:
    """Lower a batch that nobody asked for to what the images fill, several times an epoch.

    Args:
      run: Its settings and devices.
      images: How many are trained on.

    Returns:
      The settings.

    Raises:
      InputError: The batch that was asked for is larger, or the images are too few for any.
    """
    settings, many = run.config, run.placement.device_count
    if _was_asked_for(settings):
        if images < settings.batch_size:
            raise InputError(
                f"--batch-size {settings.batch_size} is larger than the {images} training "
                "images: lower it" + (", or name more --seen classes" if run.images.seen else "")
            )
        return settings
    size, why = settings.batch_size, ""
    if images < size:
        size = 2 ** max(1, (images // 2).bit_length() - 1)
        why = f"the default of {settings.batch_size} is more than there are images"
        if images < max(_FEWEST, many) or size < many:
            raise _too_few(run, images)
    least = max(_SMALLEST, 4 * getattr(settings, "images_per_class", 0), many)
    if _is_of_any_folder(settings):
        while size > least and images // size < _STEPS_AN_EPOCH:
            size //= 2
        steps = images // settings.batch_size
        why = why or f"in batches of {settings.batch_size} an epoch would have {steps} steps"
    size = size // many * many
    if size == settings.batch_size:
        return settings
    print(f"batches of {size}: {why}")
    return dataclasses.replace(settings, batch_size=size)


def _was_asked_for(settings: Any) -> bool:
    """Tell whether a person chose the batch size: by the flag, a file of settings, or in code."""
    own = type(settings).batch_size
    preset = presets.PRESETS.get(getattr(settings, "preset", ""), {})
    default = preset.get("batch_size", own)
    return cli.was_given("batch_size") or settings.batch_size not in (own, default)


def _is_of_any_folder(settings: Any) -> bool:
    """Tell whether the defaults are those of any folder, not a recipe for one data set."""
    preset = getattr(settings, "preset", None)  # finetune has none, and few labels by design
    of_any = preset is not None and (not preset or preset.startswith("folder"))
    searched = "batch_size" in config.searches(type(settings))  # a trial's is not to be changed
    return of_any and not searched and settings.dataset == "folder"


def _too_few(run: Run, images: int) -> InputError:
    place = getattr(run.images, "data_dir", "")
    more = ", or name more --seen classes" if run.images.seen else ""
    way_out = ""
    if place and images >= FEWEST:
        way_out = (
            "; a published network needs no training: "
            f"jaxssl embed --encoder efficientnet_lite0 --data-dir {shlex.quote(place)}"
        )
    return InputError(
        f"too few images: {images} to train on, and an embedding is learnt from {_FEWEST} at the "
        f"very least, better from hundreds{more}{way_out}"
    )
