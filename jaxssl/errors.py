"""What can end a program; each is printed as one line and has an exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class RunEnd(Exception):
    """A program ends here, with one line for the user and no traceback.

    Args:
      message: The line. What a terminal would obey is escaped here, whatever names it holds; what
        it lists stands on lines of its own, indented by two spaces.
    """

    exit_code = 1

    def __init__(self, message: object = ""):
        lines = [visible(line, most=_MOST) for line in str(message).split("\n  ")]
        super().__init__("\n  ".join(lines))


class InputError(RunEnd, ValueError):
    """A setting, file or folder that cannot be used: names it, the rule and the way out."""

    exit_code = 2


class WriteError(InputError, OSError):
    """A file or folder could not be written; names it, the fault and what to do."""


class NonFiniteLoss(RunEnd):
    """The loss or its gradient was not finite; names the step and the last good checkpoint."""

    exit_code = 3


class CheckpointError(WriteError):
    """A checkpoint could not be written; names the folder and the space left."""


class Stopped(RunEnd):
    """A signal asked to stop; the state is saved, and the same command goes on from there."""

    exit_code = 75  # EX_TEMPFAIL: schedulers read it as "try again"


# Marks that turn the direction of a line (Unicode's bidirectional controls), and line separators.
_UNSEEN = dict.fromkeys([0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)])


# What is cut to fit a line before it is escaped grows by 100 characters at most.
_MOST = 20


def visible(text: str, *, keep: str = "", most: int | None = None) -> str:
    r"""Show what a terminal would obey instead of print: escaped, as Python writes it.

    The one home of this: control characters (escape sequences, line breaks), bidirectional marks,
    line separators and what is no Unicode text (a file name of other bytes).

    Args:
      text: A name, or lines that have names in them.
      keep: Characters that stay as they are, such as the newline between lines.
      most: How many are escaped; each further one is a question mark. None: all are escaped.

    Example:
      >>> print(visible("cop\x1b[2Jepod\n"))
      cop\x1b[2Jepod\n
      >>> print(visible("a\tb", keep="\t") == "a\tb")
      True
      >>> print(visible("a\0\0\0", most=1))
      a\x00??
    """
    if text.isprintable():
        return text
    shown, escaped = [], 0
    for character in text:
        if character in keep or not _obeyed(character):
            shown.append(character)
            continue
        escaped += 1
        more = most is not None and escaped > most
        shown.append("?" if more else ascii(character)[1:-1])
    return "".join(shown)


def _obeyed(character: str) -> bool:
    code = ord(character)
    return code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000 or code in _UNSEEN


# How a setting is spelled for who reads the messages, the last one counts: see `spelled`.
_SPELLING: list[Callable[[str, Any], str]] = []


def setting(name: str, value: Any = None, form: str = "{}") -> str:
    """Spell a setting in a message: an argument of the library, or a program's flag.

    The one home of this: the library calls it by the argument's name, which is what its callers
    write, and a program has it spelled as the flag that its user types.

    Args:
      name: The argument's.
      value: What to set it to; None names the argument alone.
      form: What stands around it, so that nothing does where a program has no such flag.

    Returns:
      The text; "" where a program has no such flag.

    Example:
      >>> setting("on_bad_image", "skip"), setting("group_by", form=" ({})")
      ("on_bad_image='skip'", ' (group_by)')
      >>> with spelled(lambda name, value: f"--{name.replace('_', '-')} {value}"):
      ...     setting("on_bad_image", "skip")
      '--on-bad-image skip'
    """
    if _SPELLING:
        text = _SPELLING[-1](name, value)
    else:
        text = name if value is None else f"{name}={value!r}"
    return form.format(text) if text else ""


@contextlib.contextmanager
def spelled(spell: Callable[[str, Any], str]) -> Iterator[None]:
    """Have settings spelled otherwise in all messages, whichever thread makes them.

    Args:
      spell: (name, value or None) -> text; "" where there is no such setting.
    """
    _SPELLING.append(spell)
    try:
        yield
    finally:
        _SPELLING.pop()
