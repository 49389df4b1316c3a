"""How every program starts and ends: flags, one-line errors, exit codes.

Exit codes: 0 done; 2 a setting, file or folder to mend; 3 the loss was not finite; 75 stopped by a
signal, resumable; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jaxssl.errors import InputError, RunEnd


def run(main: Callable[[Any], None], presets: Mapping[str, Any]) -> None:
    """Parse the flags, call `main`, and end the process with the right code.

    Args:
      main: the program, a function of its configuration.
      presets: configurations by name, the first is the default; `--dataset NAME` chooses the
        preset of that name, whose values are then the defaults that `--help` shows.
    """
    # Before JAX is imported: its own notices are not for the user of a program.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    program = _program_name()
    try:
        main(_parse(sys.argv[1:], presets, program))
    except RunEnd as error:
        _end(program, error, error.exit_code)
    except KeyboardInterrupt:
        _end(program, "interrupted; the same command with the same --run-dir goes on", 130)


def _parse(arguments: list[str], presets: Mapping[str, Any], program: str) -> Any:
    import tyro

    default = next(iter(presets))
    name = _value_of("--preset", arguments) or _value_of("--dataset", arguments) or default
    if name not in presets:
        raise InputError(f"{name!r} is no dataset or preset here: choose {', '.join(presets)}")
    return tyro.cli(
        type(presets[name]),
        default=presets[name],
        args=arguments,
        prog=program,
        description=sys.modules["__main__"].__doc__,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )


def _value_of(flag: str, arguments: list[str]) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(flag + "="):
            return argument[len(flag) + 1 :]
    return None


def _program_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else os.path.basename(sys.argv[0])


def _end(program: str, message: object, code: int) -> None:
    print(f"{program.split('.')[-1]}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
