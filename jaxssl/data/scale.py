"""What a pixel shows in micrometres, as the columns of a table say it.

EcoTaxa's tables have it under many names and in several units: `acq_pixel` is 73 (micrometres) of a
UVP6 and .092 (millimetres) of a UVP5. A unit in the column's name counts. Without one a number is
micrometres where it cannot be millimetres, and else it is left alone and said: no scale is better
than a wrong one. Resolutions in the files themselves (dots an inch) are those of a printer, or 72.
"""

from __future__ import annotations

import re

from jaxssl.data.tables import Table
from jaxssl.errors import setting

_UM = r"(?:[uμ]m|microns?|micromet(?:er|re)s?)"
_MM = r"(?:mm|millimet(?:er|re)s?)"
# Names, letters and digits alone: micrometres a unit, and whether pixels are counted in it.
_NAMES = (
    (rf"pixel(?:size|pitch)?(?:in)?{_UM}|{_UM}perp(?:ixel|x)", 1.0, False),
    (rf"pixel(?:size|pitch)?(?:in)?{_MM}|{_MM}perp(?:ixel|x)", 1e3, False),
    (rf"p(?:ixels?|x)per{_UM}", 1.0, True),
    (rf"p(?:ixels?|x)per{_MM}", 1e3, True),
    (r"pixel(?:size|pitch)?", 0.0, False),  # it does not say
)
_PREFIX = r"(?:acq|process|object|sample)?(?:particle|image|img|resolution)?"
# Without a unit: less may be millimetres (UVP5, ZooScan). Of any: more is no camera's.
_LEAST, _MOST = 0.2, 1000.0


def pixel_sizes(table: Table) -> tuple[str, list[float]]:
    """Return what a table says of the scale, in a sentence, and micrometres a pixel row by row.

    Args:
      table: Any.

    Returns:
      The sentence, "" where no column tells it; a number a row, 0 where it is not known, or [].

    Example:
      >>> pixel_sizes(Table("t", "", ("process_particle_pixel_size_mm",), [["0.01"], [""]]))
      ("a pixel shows 10 µm, as column 'process_particle_pixel_size_mm' says", [10.0, 0.0])
      >>> pixel_sizes(Table("t", "", ("acq_pixel",), [["0.092"]]))[1]
      []
    """
    for pattern, unit, inverse in _NAMES:
        for name in table.columns:
            plain = re.sub(r"[\W_]+", "", name.casefold())
            if not re.fullmatch(_PREFIX + f"(?:{pattern})", plain):
                continue
            values = [_number(cell) for cell in table.column(name)]
            known = [value for value in values if value]
            if not known:
                continue
            if not unit and min(known) < _LEAST:
                return (
                    f"column {name!r} says {min(known):g} a pixel, micrometres or millimetres: no "
                    "scale is shown; set the pixel size in micrometres"
                    f"{setting('pixel_size', form=' ({})')}"
                ), []
            sizes = [_size(value, unit or 1.0, inverse) for value in values]
            known = [size for size in sizes if size]
            if known:
                low, high = f"{min(known):.4g}", f"{max(known):.4g}"
                range_ = low if low == high else f"{low} to {high}"
                return f"a pixel shows {range_} µm, as column {name!r} says", sizes
    return "", []


def _number(cell: str) -> float:
    """Read a number above 0, with a point or a comma; 0 for anything else."""
    try:
        value = float(cell.strip().replace(",", "."))
    except ValueError:
        return 0.0
    return value if 0 < value < float("inf") else 0.0


def _size(value: float, unit: float, inverse: bool) -> float:
    size = (unit / value if inverse else unit * value) if value else 0.0
    return size if size <= _MOST else 0.0
