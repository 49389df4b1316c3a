"""How far something is: a bar on a terminal, in a log a line a minute."""

from __future__ import annotations

import io
import sys
from typing import Any

from tqdm import tqdm

from jaxssl.training import processes

LINE_SECONDS = 60.0  # between two lines of a log


class Bar(tqdm):
    """tqdm's bar on a terminal; elsewhere a line a minute, so that a log tells that it goes on.

    Of several processes the first shows it. It leaves nothing on a terminal.

    Args:
      total: how many there are; None: not known yet, `bar.total = n` says it later.
      title: what is done, before the numbers; "": nothing is shown.
      unit: what is counted, in the singular.
      delay: seconds on a terminal before there is a bar.
    """

    def __init__(self, total: int | None, *, title: str, unit: str, delay: float = 0.0):
        self._lines = not sys.stderr.isatty()
        often: dict[str, Any] = {"delay": delay}
        if self._lines:
            often = {"delay": LINE_SECONDS, "mininterval": LINE_SECONDS, "miniters": 1}
            often["file"] = io.StringIO()  # a return of the carriage, when it is closed
        shown = bool(title) and processes.is_first()
        super().__init__(
            total=total, desc=title, unit=unit, leave=False, disable=not shown, **often
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the bar, or print the line; tqdm calls it when it is time."""
        if not self._lines:
            return super().display(msg, pos)
        seconds = self.format_dict["elapsed"]
        if msg is None and self.n and seconds:
            rate = self.n / seconds
            said = f"{self.desc}: {self.n:,} of {self.total or self.n:,} {self.unit}s"
            left = time_left(max(0, (self.total or self.n) - self.n) / rate)
            fast = f"{rate:,.{0 if rate > 10 else 2}f} a second"
            print(f"{said}, {fast}, {left}", file=sys.stderr, flush=True)
        return True


def time_left(seconds: float) -> str:
    """Say how long something takes yet.

    Example:
      >>> time_left(12.3), time_left(150.0)
      ('12 s left', '2.5 min left')
    """
    return f"{seconds / 60:.1f} min left" if seconds > 90 else f"{seconds:.0f} s left"
