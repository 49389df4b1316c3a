"""Images on disk to batches: folders, digits, splits, streams.

`open_images` (a folder, or the file it was packed into) and `load_digits` give an `ImageSet`;
`split_classes`, `train_val_test` and `label_fraction` cut it; `train_stream` and `eval_batches`
read it, as pure functions of seed and step.
"""

from jaxssl.data.cifar import load_cifar10
from jaxssl.data.decode import UnreadableImage, decode
from jaxssl.data.digits import load_digits
from jaxssl.data.folder import FolderReport, open_folder
from jaxssl.data.images import ImageSet
from jaxssl.data.packed import open_images
from jaxssl.data.pixels import raw_pixels, thumbnails
from jaxssl.data.splits import (
    Splits,
    describe,
    label_fraction,
    split_classes,
    train_val,
    train_val_test,
)
from jaxssl.data.streams import eval_batches, steps_per_epoch, train_stream

__all__ = [
    "FolderReport",
    "ImageSet",
    "Splits",
    "UnreadableImage",
    "decode",
    "describe",
    "eval_batches",
    "label_fraction",
    "load_cifar10",
    "load_digits",
    "open_folder",
    "open_images",
    "raw_pixels",
    "split_classes",
    "steps_per_epoch",
    "thumbnails",
    "train_stream",
    "train_val",
    "train_val_test",
]
