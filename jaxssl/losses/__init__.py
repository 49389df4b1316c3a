"""Losses: pure functions of arrays, for use inside your own jit, pmap or shard_map (jax only)."""

from jaxssl.losses.adacos import adacos_scale
from jaxssl.losses.batch_all import batch_all_triplet_loss
from jaxssl.losses.cached import cached_gradients
from jaxssl.losses.margin import (
    arcface_logits,
    arcface_loss,
    cosface_logits,
    cosface_loss,
    cosine_accuracy,
    cosine_logits,
)
from jaxssl.losses.mining import Triplets, mine_triplets
from jaxssl.losses.nt_xent import dcl, nt_xent
from jaxssl.losses.redundancy import barlow_twins, vicreg
from jaxssl.losses.references import Queue, References
from jaxssl.losses.sup_con import sup_con
from jaxssl.losses.teachers import byol, dino, dino_centre
from jaxssl.losses.triplet import TripletStats, triplet_loss, triplet_loss_and_stats
from jaxssl.losses.two_towers import info_nce, siglip

__all__ = [
    "Queue",
    "References",
    "TripletStats",
    "Triplets",
    "adacos_scale",
    "arcface_logits",
    "arcface_loss",
    "barlow_twins",
    "batch_all_triplet_loss",
    "byol",
    "cached_gradients",
    "cosface_logits",
    "cosface_loss",
    "cosine_accuracy",
    "cosine_logits",
    "dcl",
    "dino",
    "dino_centre",
    "info_nce",
    "mine_triplets",
    "nt_xent",
    "siglip",
    "sup_con",
    "triplet_loss",
    "triplet_loss_and_stats",
    "vicreg",
]
