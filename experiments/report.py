"""The numbers and the report of a finished run, again, from its embedding tables; needs no JAX.

`python -m experiments.report runs/simclr-digits-...`
"""

from __future__ import annotations

import dataclasses

import tyro

from experiments import cli


@dataclasses.dataclass(frozen=True)
class Config:
    """The flags of the report."""

    run_dir: tyro.conf.Positional[str] = ""
    """The folder of a run."""
    draws: int = 5
    """Random draws of labels behind each point of the label-efficiency curves."""
    redraw: bool = False
    """Only draw the page again from the numbers there are."""


def main(config: Config) -> None:
    """Numbers, then page."""
    from jaxssl.analysis import report, results
    from jaxssl.files import cache_dir as default_cache_dir

    if not config.redraw:
        print(f"analysing {config.run_dir}", flush=True)
        results.analyse(
            config.run_dir,
            draws=config.draws,
            progress=lambda s: print(f"  {s}", flush=True),
            cache=default_cache_dir() / "probes",
        )
    print(f"report: {report.write_report(config.run_dir)}")


if __name__ == "__main__":
    cli.run(main, {"report": Config()})
