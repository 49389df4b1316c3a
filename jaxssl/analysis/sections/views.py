"""Some training images and two random views of each."""

from __future__ import annotations

import base64

from markupsafe import Markup

from jaxssl.analysis.page import fragment
from jaxssl.analysis.sections.base import Context


def make(context: Context) -> Markup | None:
    """Show `report/views.png`; None for a run that trains on images as they are."""
    path = context.run.folder / "report" / "views.png"
    if not path.is_file():
        return None
    picture = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return fragment("views.html.j2", views=picture)
