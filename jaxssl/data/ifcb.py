"""Imaging FlowCytobot: the images of a .roi file, as its .adc tells where they lie.

Reference:
  R. J. Olson, H. M. Sosik, A submersible imaging-in-flow instrument to analyze nano- and
  microplankton: Imaging FlowCytobot, Limnology and Oceanography: Methods 5, 2007.
"""

from __future__ import annotations

import csv
import io

from jaxssl.data.walk import Found, ImageFile, read_listing
from jaxssl.errors import InputError

# Columns of the .adc: (width, height, first byte); by the name that the instrument gives a file,
# IFCB1_2009_158_210055 until 2012 and D20130526T095207_IFCB013 since.
_OLD, _NEW = (11, 12, 13), (15, 16, 17)


def read_rois(found: Found) -> None:
    """Add the images of every .roi that has its .adc beside it.

    An id is that of the bin with the row's number, as elsewhere (D2013…_00001); triggers without an
    image are passed over.

    Args:
      found: what the walk gathered; a .roi without an .adc is named among what is left out.
    """
    bins = [id_ for id_ in sorted(found.other) if id_.lower().endswith(".roi")]
    added = []
    for id_ in bins:
        roi = found.other.pop(id_)
        stem = id_[: -len(".roi")]
        adc = found.other.pop(f"{stem}.adc", None)
        found.other.pop(f"{stem}.hdr", None)
        if adc is None:
            found.left_out[id_] = "no .adc of this name beside it"
            continue
        try:
            added += _rois(roi, adc, stem)
        except (ValueError, OverflowError, IndexError, csv.Error) as error:
            why = str(error)[:120]
            raise InputError(f"{adc.source} is no table of an IFCB ({why})") from error
    if bins:
        found.said.append(f"{len(added):,} images in {len(bins):,} IFCB bins (.roi and .adc)")
    if added:
        found.files = sorted([*found.files, *added], key=lambda file: file.id.split("/"))


def _rois(roi: ImageFile, adc: ImageFile, stem: str) -> list[ImageFile]:
    old = stem.rpartition("/")[2].upper().startswith("IFCB")
    width_at, height_at, byte_at = _OLD if old else _NEW
    rows = csv.reader(io.StringIO(read_listing(adc)))
    images = []
    for number, row in enumerate(filter(None, rows), start=1):
        width, height, offset = (int(float(row[i])) for i in (width_at, height_at, byte_at))
        if width > 0 and height > 0:
            source = roi.source._replace(raw=(offset, height, width))
            images.append(ImageFile(f"{stem}_{number:05d}", source, roi.stamp))
    return images
