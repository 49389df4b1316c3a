"""Images that could not be read."""

from __future__ import annotations

from markupsafe import Markup

from jaxssl.analysis.page import fragment
from jaxssl.analysis.sections.base import Context
from jaxssl.files import read_list


def make(context: Context) -> Markup | None:
    """List `skipped.json`; None where every image was read."""
    skipped = read_list(context.run.folder / "skipped.json")
    return fragment("skipped.html.j2", skipped=skipped) if skipped else None
