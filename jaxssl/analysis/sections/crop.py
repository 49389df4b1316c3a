"""What is cut off below every picture: one of them before and after."""

from __future__ import annotations

import base64

from markupsafe import Markup

from jaxssl.analysis.page import fragment
from jaxssl.analysis.sections.base import Context


def make(context: Context) -> Markup | None:
    """Show `report/crop.png`; None for a run whose pictures are whole."""
    path = context.run.folder / "report" / "crop.png"
    rows = context.run.provenance.get("cropped")
    if not path.is_file() or not rows:
        return None
    picture = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    found = context.run.settings.get("crop_bottom") == "auto"
    return fragment("crop.html.j2", picture=picture, rows=rows, found=found)
