"""Every setting of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxssl.analysis.page import fragment
from jaxssl.analysis.sections.base import Context


def make(context: Context) -> Markup:
    """Tabulate the settings."""
    settings = {name: words(value) for name, value in context.run.settings.items()}
    return fragment("settings.html.j2", settings=settings)


def words(value: Any) -> str:
    """Return a setting's value, or a fact's, as the page says it.

    Example:
        >>> words({"jax": "0.10.2"}), words(["a", "b"]), words(None), words(3), words("")
        ('jax 0.10.2', 'a, b', 'not set', '3', '')
    """
    if value is None:
        return "not set"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items())
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return ", ".join(map(str, value)) if is_list else str(value)
