"""What the page and the terminal call things, and names as a sentence lists them."""

from __future__ import annotations

from collections.abc import Sequence

NO_LABEL = "no label"
# The side of the images that ImageNet's network is given as a baseline, whatever the run's: half
# the pixels of 128 px, and about a point less.
IMAGENET_PIXELS = 96
EMBEDDINGS = {
    "h": "this embedding",
    "last": "its last step",
    "best": "its best step",
    "untrained": "untrained network",
    "start": "as it began, with given weights",
    "raw_pixels": "raw pixels",
    "imagenet": f"ImageNet, frozen, {IMAGENET_PIXELS} px",
}


# What an embedding has to beat.
BASELINES = ("untrained", "start", "raw_pixels", "imagenet")


def embedding_title(name: str) -> str:
    """Return an embedding's name as a title.

    Example:
        >>> embedding_title("raw_pixels"), embedding_title("other")
        ('raw pixels', 'other')
    """
    return EMBEDDINGS.get(name, name)


def set_title(name: str) -> str:
    """Return a set's name as a title.

    Example:
        >>> set_title("unseen-lookalikes"), set_title("test")
        ('unseen: lookalikes', 'test')
    """
    return name.replace("unseen-", "unseen: ", 1)


def labels_title(name: str) -> str:
    """Return the title of a set whose few labels are counted.

    Example:
        >>> labels_title("unseen"), labels_title("test")
        ('unseen', 'test: held-out images of the seen classes')
    """
    return "test: held-out images of the seen classes" if name == "test" else set_title(name)


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
