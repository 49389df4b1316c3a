"""Read the house's docstrings as Google's: `Example:` is a section, as `Examples:` is."""

import re
from typing import Any

import griffe


class House(griffe.Extension):
    """Name the section so that its doctests are shown as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring that was just read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
