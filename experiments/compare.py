"""Finished runs side by side, on one page that opens from disk; needs no JAX.

`python -m experiments.compare runs/simclr-... runs/triplet-... runs/softmax-...`

Runs that differ in their seed alone become one curve. All runs must share their protocol: classes,
images, size and color. Without unseen classes, as on CIFAR-10, they are compared on the test images
of the seen ones, by linear evaluation where experiments.linear_eval was run.
"""

from __future__ import annotations

import dataclasses
import time

import tyro

from experiments import cli


@dataclasses.dataclass(frozen=True)
class Compare:
    """The flags of the comparison."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """The folders of finished runs, in the order of the page."""
    out: str = ""
    """Folder of the page. Default: runs/compare-<time>."""


def main(config: Compare) -> None:
    """Read the runs, then draw the page."""
    from jaxssl.analysis.compare import write_comparison

    out = config.out or time.strftime("runs/compare-%Y%m%d-%H%M%S")
    page, verdicts = write_comparison(config.runs, out)
    print("\n".join(verdicts))
    print(f"comparison: {page}")


if __name__ == "__main__":
    cli.run(main, {"compare": Compare()})
