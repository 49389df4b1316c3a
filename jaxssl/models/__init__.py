"""Encoders and heads in flax.nnx.

An encoder takes images float32 [b, h, w, c] in [0, 1] to representations h float32 [b, features].
A step splits a model once, `graphdef, params, rest = nnx.split(model, nnx.Param, ...)`, and merges
it inside `jax.jit` by `nnx.merge` with `copy=True`. Training or evaluation is in the graphdef.
"""

from flax.nnx import Rngs

from jaxssl.models.averaging import average_views, turned
from jaxssl.models.backbone import PlanktonBackbone
from jaxssl.models.beside import BesideStart
from jaxssl.models.convnet import ConvNet
from jaxssl.models.describe import describe
from jaxssl.models.dinov2 import DinoV2, dinov2_b, dinov2_s
from jaxssl.models.dinov3 import DinoV3, dinov3_b, dinov3_s
from jaxssl.models.efficientnet_lite import (
    EfficientNetLite,
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
)
from jaxssl.models.embedder import Embedder, MarginEmbedder, follow, over_views
from jaxssl.models.encoders import ENCODERS, make_encoder
from jaxssl.models.folding import fold_batch_norm
from jaxssl.models.freezing import Frozen, freeze, keep_statistics, learning_rate_scales
from jaxssl.models.heads import Classifier, ClassWeights, ProjectionHead
from jaxssl.models.layer_output import layer_output
from jaxssl.models.pretrained import Pretrained, load_pretrained, named_tensors
from jaxssl.models.recurrent import MLPClassifier, RowEncoder
from jaxssl.models.resnet import ResNet, resnet18, resnet50

__all__ = [
    "ENCODERS",
    "BesideStart",
    "ClassWeights",
    "Classifier",
    "ConvNet",
    "DinoV2",
    "DinoV3",
    "EfficientNetLite",
    "Embedder",
    "Frozen",
    "MLPClassifier",
    "MarginEmbedder",
    "PlanktonBackbone",
    "Pretrained",
    "ProjectionHead",
    "ResNet",
    "Rngs",
    "RowEncoder",
    "average_views",
    "describe",
    "dinov2_b",
    "dinov2_s",
    "dinov3_b",
    "dinov3_s",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "fold_batch_norm",
    "follow",
    "freeze",
    "keep_statistics",
    "layer_output",
    "learning_rate_scales",
    "load_pretrained",
    "make_encoder",
    "named_tensors",
    "over_views",
    "resnet18",
    "resnet50",
    "turned",
]
