"""Tables as CSV that a spreadsheet opens without running what a name says."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from jaxssl.files import defused


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Write rows as CSV in the form of RFC 4180.

    Args:
        columns: Names of the columns.
        rows: Cells; None is empty, text that a spreadsheet would run begins with an apostrophe.

    Returns:
        The text, lines ending in CR LF.

    Example:
        >>> csv_text(["name", "x"], [["=1+1", -0.5], ['a "b", c', None]])
        'name,x\r\n\'=1+1,-0.5\r\n"a ""b"", c",\r\n'
    """
    out = io.StringIO()
    writer = csv.writer(out)
    for row in (columns, *rows):
        writer.writerow([defused(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue()
