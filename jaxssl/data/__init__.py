"""Images on disk to batches: any place that holds images, splits, streams.

`open_images` (a folder, zip, table or packed file), `load_digits` and `load_cifar` give an
`ImageSet`; `split_protocol`, or `split_classes`, `train_val_test` and `label_fraction`, cut it;
`train_stream` and `eval_batches` read it, as pure functions of seed and step.
"""

from jaxssl.data.cifar import load_cifar
from jaxssl.data.decode import UnreadableImage, decode
from jaxssl.data.digits import load_digits
from jaxssl.data.images import ImageSet
from jaxssl.data.opening import open_images
from jaxssl.data.pixels import raw_pixels, thumbnails
from jaxssl.data.predictions import Prediction, write_predictions
from jaxssl.data.protocol import Parts, split_protocol
from jaxssl.data.reading import Reading
from jaxssl.data.report import Report
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
    "ImageSet",
    "Parts",
    "Prediction",
    "Reading",
    "Report",
    "Splits",
    "UnreadableImage",
    "decode",
    "describe",
    "eval_batches",
    "label_fraction",
    "load_cifar",
    "load_digits",
    "open_images",
    "raw_pixels",
    "split_classes",
    "split_protocol",
    "steps_per_epoch",
    "thumbnails",
    "train_stream",
    "train_val",
    "train_val_test",
    "write_predictions",
]
