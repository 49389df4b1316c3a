"""What a section of the report is, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from jaxssl.analysis.page import FigureFiles
from jaxssl.analysis.results import Results
from jaxssl.analysis.run import Run
from jaxssl.analysis.tables import Sets


@dataclass(frozen=True)
class Context:
    """What a section may show.

    Args:
        run: Settings, metrics and folder.
        h: The tables of the trained embedding, by set.
        results: The numbers.
        files: Where figures go.
        steps: What to do next: (what it gives, the command).
    """

    run: Run
    h: Sets
    results: Results
    files: FigureFiles
    steps: Sequence[tuple[str, str]] = ()

    @property
    def labelled(self) -> bool:
        """Whether any image of the run has a label."""
        return any(counts.classes for counts in self.results.sets.values())


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Args:
        id: Of its anchor in the page.
        title: Its heading.
        make: From the context to its HTML (`page.fragment`, `page.plot`), None where the run rules
            it out; what is merely missing is said in a sentence.
        nav: Its link at the top of the page, "" for none.
        spoken: The heading is for screen readers alone.
    """

    id: str
    title: str
    make: Callable[[Context], Markup | None]
    nav: str = ""
    spoken: bool = False
