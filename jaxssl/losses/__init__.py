"""Losses: pure functions of arrays, for use inside your own jit, pmap or shard_map (jax only)."""

from jaxssl.losses.batch_all import batch_all_triplet_loss
from jaxssl.losses.margin import (
    arcface_logits,
    arcface_loss,
    cosface_logits,
    cosface_loss,
    cosine_accuracy,
    cosine_logits,
)
from jaxssl.losses.nt_xent import nt_xent
from jaxssl.losses.sup_con import sup_con
from jaxssl.losses.triplet import (
    Triplets,
    TripletStats,
    mine_triplets,
    triplet_loss,
    triplet_loss_and_stats,
)

__all__ = [
    "TripletStats",
    "Triplets",
    "arcface_logits",
    "arcface_loss",
    "batch_all_triplet_loss",
    "cosface_logits",
    "cosface_loss",
    "cosine_accuracy",
    "cosine_logits",
    "mine_triplets",
    "nt_xent",
    "sup_con",
    "triplet_loss",
    "triplet_loss_and_stats",
]
