"""Make experiments/colab.ipynb of experiments/colab.py, whose cells begin with `# %%`.

`python scripts/make_notebook.py` writes it; `--check` only says whether the two agree.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "experiments" / "colab.py"
CELL = re.compile(r"^# %%(?: \[(?P<kind>markdown)\])?(?: tags=(?P<tags>\[.*\]))?$", re.MULTILINE)


def notebook(text: str) -> dict[str, Any]:
    """The notebook of a py:percent file; markdown cells are strings in triple quotes.

    Args:
      text: The file's, from its first `# %%`.
    """
    marks = list(CELL.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    cells = []
    for mark, end in zip(marks, ends, strict=True):
        source = text[mark.end() : end].strip("\n")
        if mark["kind"]:
            source = source.removeprefix('"""').removesuffix('"""').strip("\n")
        cell: dict[str, Any] = {
            "cell_type": mark["kind"] or "code",
            "id": hashlib.sha256(f"{len(cells)} {source}".encode()).hexdigest()[:8],
            "metadata": {"tags": json.loads(mark["tags"])} if mark["tags"] else {},
            "source": source.splitlines(keepends=True),
        }
        if not mark["kind"]:
            cell |= {"execution_count": None, "outputs": []}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def as_text(text: str) -> str:
    """The notebook's file."""
    return json.dumps(notebook(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    made, file = as_text(SOURCE.read_text(encoding="utf-8")), SOURCE.with_suffix(".ipynb")
    if "--check" not in sys.argv:
        file.write_text(made, encoding="utf-8")
    elif not file.is_file() or file.read_text(encoding="utf-8") != made:
        sys.exit(f"{file.name} is not what {SOURCE.name} makes: python scripts/make_notebook.py")
