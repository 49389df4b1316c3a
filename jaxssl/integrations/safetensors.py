"""safetensors: an encoder's weights in a file that needs no jaxssl, with a model card."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxssl.files import atomic, free, write_json, write_text
from jaxssl.integrations.exported import Exported
from jaxssl.models.pretrained import named_tensors
from jaxssl.models.weight_files import DIGEST, digest_of

FILE = "model.safetensors"
_CARD = """---
library_name: jaxssl
pipeline_tag: image-feature-extraction
tags: [jax, embeddings, contrastive-learning]
---

{card}
## How to load it

    {usage}

embeds with it; every program of jaxssl that trains an encoder begins with it by the same settings.
Its tensors have {names}. Images come in as floats [b, h, w, c] in [0, 1].
"""


def export(encoder: Any, out: Path, about: Mapping[str, Any], usage: str, card: str) -> Exported:
    """Write `model.safetensors`, `config.json` and a card, `README.md`.

    `jaxssl.models.load_pretrained` reads the file again, into an encoder of the same shapes, to
    the same bits, or refuses it where it was changed. Where the network has published weights its
    tensors have their names and layouts, so that torchvision, timm or transformers read it as well.

    Args:
      encoder: A module of `jaxssl.models`, with float32 parameters.
      out: A folder.
      about: What makes the encoder again: its name, the size of its images, and what else.
      usage: The command that embeds with it, in which `FILE` is the file's name.
      card: Markdown, such as the run's `MODEL_CARD.md`.

    Returns:
      What was written.
    """
    from safetensors.numpy import save

    out.mkdir(parents=True, exist_ok=True)
    source, tensors = named_tensors(encoder)
    with atomic(out / FILE) as file:
        file.write(save(tensors, {"format": source, DIGEST: digest_of(tensors)}))
    write_json(out / "config.json", {**about, "tensors": source})
    names = "jaxssl's own names" if source == "jaxssl" else f"{source}'s names and layouts"
    text = _CARD.format(card=card, names=names, usage=usage)
    write_text(free(out / "README.md", say=print), text, note="")
    opened = usage.replace(FILE, shlex.quote(str(out / FILE)))
    return Exported(f"{len(tensors)} tensors with {names}, and a card", out, opened)
