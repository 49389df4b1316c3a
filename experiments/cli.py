"""How every program starts and ends: flags, one-line errors, exit codes.

Exit codes: 0 done; 2 a setting, file or folder to mend; 3 the loss was not finite; 75 stopped by a
signal, resumable; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxssl.errors import InputError, RunEnd
from jaxssl.training import processes


def run(main: Callable[[Any], None], presets: Mapping[str, Any]) -> None:
    """Parse the flags, call `main`, and end the process with the right code.

    Args:
      main: the program, a function of its configuration.
      presets: as in `parse`.
    """
    with ending():
        main(parse(sys.argv[1:], presets))


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """What a program ends with in here becomes one line and an exit code."""
    # Before JAX is imported: its own notices are not for the user of a program.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        yield
        processes.leave()
    except RunEnd as error:
        _end(error, error.exit_code)
    except KeyboardInterrupt:
        _end(
            "interrupted; the same command goes on, with the same --run-dir where it takes one", 130
        )
    except Exception as error:
        if processes.count() == 1:
            raise
        # The others would wait until JAX aborts them, and never hear why.
        traceback.print_exc()
        processes.leave(repr(error), 1)
        sys.exit(1)


def parse(arguments: list[str], presets: Mapping[str, Any]) -> Any:
    """The configuration that flags give.

    Args:
      arguments: of the command line; `--config FILE` stands for the settings in that file, and
        flags win over them.
      presets: configurations by name, the first is the default; `--dataset NAME` chooses the
        preset of that name, whose values are then the defaults that `--help` shows.
    """
    import tyro

    default = next(iter(presets))
    file = _value_of("--config", arguments)
    if file is not None:
        # Before the flags, so that they win: of two values the parser takes the last.
        arguments = [*_flags_of(file, presets[default]), *arguments]
    name = _value_of("--preset", arguments) or _value_of("--dataset", arguments) or default
    if name not in presets:
        raise InputError(f"{name!r} is no dataset or preset here: choose {', '.join(presets)}")
    return tyro.cli(
        type(presets[name]),
        default=presets[name],
        args=arguments,
        prog=_program_name(),
        description=sys.modules["__main__"].__doc__,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def _flags_of(file: str, known: Any) -> list[str]:
    """The settings of a JSON file as the flags that would give them."""
    try:
        settings = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"--config {file} cannot be read as JSON: {error}") from None
    if not isinstance(settings, dict):
        raise InputError(f"--config {file} holds no settings: it must be {{name: value, ...}}")
    unknown = sorted(settings.keys() - {field.name for field in dataclasses.fields(known)})
    if unknown:
        raise InputError(f"--config {file} has settings this program has not: {', '.join(unknown)}")
    flags = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list) else [value]
            flags += [f"--{flag}", *map(str, values)]
    return flags


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """The last one given."""
    value = None
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            value = arguments[i + 1]
        if argument.startswith(flag + "="):
            value = argument[len(flag) + 1 :]
    return value


def _program_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else os.path.basename(sys.argv[0])


def _end(message: object, code: int) -> None:
    print(
        f"{_program_name().removesuffix('.py').split('.')[-1]}: {message}",
        file=sys.stderr,
        flush=True,
    )
    processes.leave(message, code)
    sys.exit(code)
