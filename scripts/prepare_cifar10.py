"""Prepare CIFAR-10 or CIFAR-100 for TensorFlow Datasets from an archive or a folder.

It needs no TensorFlow: `python scripts/prepare_cifar10.py --source cifar-10-python.tar.gz`
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Literal

import tyro
from tqdm import tqdm

from experiments import cli


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Where from and where to."""

    source: str
    """cifar-10-python.tar.gz, cifar-10-binary.tar.gz (or -100-), or a folder or tar(.gz) of images
    as train/<class>/NAME and test/<class>/NAME."""
    name: Literal["cifar10", "cifar100"] = "cifar10"
    """Which of the two."""
    data_dir: str = ""
    """The folder of TensorFlow Datasets; $TFDS_DATA_DIR or ~/tensorflow_datasets unless named."""
    subset: int = 0
    """The first N images of each class and split instead of all; 0 takes all and demands all."""


def main(config: Prepare) -> None:
    """Prepare, with a bar for reading and one for writing."""
    from jaxssl.data.cifar_tfds import prepare_cifar

    start = time.perf_counter()
    with tqdm(unit="image", disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, of: int) -> None:
            if done < bar.n:  # reading is done, writing begins
                bar.reset()
            bar.total = of
            bar.update(done - bar.n)

        folder = prepare_cifar(
            config.name,
            config.source,
            data_dir=config.data_dir or None,
            subset=config.subset or None,
            progress=progress,
        )
    print(f"{folder} prepared in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    cli.run(main, {"cifar10": Prepare(source=tyro.MISSING)})
