"""How every program starts and ends: flags, one-line errors, exit codes.

Exit codes: 0 done; 2 a setting, file or folder to mend; 3 the loss was not finite; 75 stopped by a
signal, resumable; 130 interrupted.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import errno
import importlib
import importlib.util
import inspect
import os
import runpy
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TextIO, Union, get_type_hints

from experiments import config, malloc
from jaxssl import __version__
from jaxssl.errors import InputError, RunEnd, Stopped, spelled, visible
from jaxssl.files import read_object

# The programs that train an embedding, each a file of this folder.
STUDIES = ("simclr", "supcon", "triplet", "arcface", "softmax", "rnn", "finetune", "frozen")
# The others.
TOOLS = (
    *("predict", "embed", "label_next", "label", "linear_eval", "report", "compare", "tune"),
    *("export", "describe", "compile"),
)
# What is imported of each extra of pyproject.toml: what a missing package is installed by.
EXTRAS = {
    "experiments": (
        *("PIL", "array_record", "grain", "importlib_resources", "jinja2", "matplotlib", "numpy"),
        *("optuna", "orbax", "pyarrow", "scipy", "sklearn", "tensorboardX", "tensorflow_datasets"),
        *("threadpoolctl", "tqdm", "tyro", "umap"),
    ),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "huggingface": ("datasets",),
    "safetensors": ("safetensors",),
}
_FRONT = ["jaxssl"]  # what the front door was called with, "jaxssl simclr"
_GIVEN: list[list[str]] = []  # the arguments of the program that runs; none where code calls it
_AGAIN: list[str] = []  # how a person goes on with what runs, once there is something to go on with


def front_door() -> None:
    """Run `jaxssl PROGRAM [flags]`: the same as `python -m experiments.PROGRAM [flags]`."""
    malloc.ask()
    name, *flags = sys.argv[1:] or ["--help"]
    with ending():
        if name in ("-h", "--help"):
            print(_menu())
        elif name in ("-V", "--version"):
            print(f"jaxssl {__version__}")
        elif name == "--completion":
            _print_completion(flags[0] if flags else "bash")
        elif name.replace("-", "_") not in (*STUDIES, *TOOLS):
            raise _no_program(name)
        else:
            module = name.replace("-", "_")
            _FRONT.append(module)
            sys.argv = [f"jaxssl {module}", *flags]
            runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)


def _no_program(name: str) -> InputError:
    """Name the program that is meant, or all."""
    programs = (*STUDIES, *TOOLS)
    near = difflib.get_close_matches(name.replace("-", "_").lower(), programs, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    return InputError(f"{name!r} is no program: {meant}choose {', '.join(programs)}")


def _menu() -> str:
    """List every program with the first line of its docstring, none of them imported."""
    lines = ["usage: jaxssl PROGRAM [flags]; jaxssl PROGRAM --help lists them; --version", ""]
    for name in (*STUDIES, *TOOLS):
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        about = ast.get_docstring(ast.parse(source)) or ""
        lines.append(f"  {name:12} {about.splitlines()[0]}")
    return "\n".join([*lines, "", "jaxssl --completion bash|zsh|fish prints a completion script"])


def _print_completion(shell: str) -> None:
    """Print the script that completes programs and flags in a shell."""
    import tyro

    if shell not in ("bash", "zsh", "fish"):
        raise InputError(f"there is no completion for {shell!r}: choose bash, zsh or fish")
    kinds = []
    for name in (*STUDIES, *TOOLS):
        main = importlib.import_module(f"experiments.{name}").main
        kind = get_type_hints(main, include_extras=True).get("config")
        if kind is not None:
            kinds.append(Annotated[kind, tyro.conf.subcommand(name)])
    programs: Any = Union[tuple(kinds)]  # noqa: UP007 made at run time
    tyro.cli(
        programs,
        args=["--tyro-print-completion", shell],
        prog="jaxssl",
        config=(tyro.conf.OmitArgPrefixes,),
    )


def run(main: Callable[[Any], None], presets: Mapping[str, Any]) -> None:
    """Parse the flags, call `main`, and end the process with the right code.

    Args:
      main: the program, a function of its configuration.
      presets: as in `parse`.
    """
    start(main, lambda arguments: (parse(arguments, presets),))


def start(main: Callable[..., None], read: Callable[[list[str]], tuple[Any, ...]]) -> None:
    """Run a program on what `read` makes of the command line; end in one line where it must."""
    with ending():
        given = read(sys.argv[1:])
        _GIVEN.append(sys.argv[1:])
        try:
            with names_as_text(), spelled(_as_flags(given)):
                main(*given)
        finally:
            _GIVEN.pop()


# What the library calls otherwise than the flags; and values that a flag has other words for.
_FLAGS = {"classes": "seen", "size": "image_size", "channels": "color", "until": "freeze"}
_WORDS: dict[tuple[str, Any], str] = {("channels", 1): "grey", ("channels", 3): "rgb"}


def _as_flags(given: tuple[Any, ...]) -> Callable[[str, Any], str]:
    """Make what spells a setting as the flag of a program, "" where it has none."""
    flags = [one for one in given if dataclasses.is_dataclass(one)]
    there = {field.name for one in flags for field in dataclasses.fields(one)}

    def spell(name: str, value: Any) -> str:
        own = _FLAGS.get(name, name)
        if own not in there:
            return ""
        if value is None or value is True:
            return config.flag(own)
        if value is False:
            return config.flag(f"no_{own}")
        return f"{config.flag(own)} {shlex.quote(str(_WORDS.get((name, value), value)))}"

    return spell


def was_given(name: str) -> bool:
    """Tell whether a person typed a setting's flag, or named a file that has the setting."""
    typed = [argument for one in _GIVEN for argument in one]
    spelled = {argument.partition("=")[0].replace("_", "-") for argument in typed}
    file = _value_of("--config", typed)
    return bool({config.flag(name), config.flag(f"no_{name}")} & spelled) or (
        file is not None and Path(file).is_file() and name in read_object(Path(file))
    )


def command(*more: str) -> str:
    """Spell what a person typed, with more arguments, to be pasted; "" where nobody did."""
    if not _GIVEN:
        return ""
    return " ".join([_started_as(), *map(shlex.quote, [*_GIVEN[-1], *more])])


def goes_on(text: str) -> None:
    """Keep how a person goes on from here, for the line of an interrupt."""
    _AGAIN[:] = [text]


def _again(otherwise: str) -> str:
    return _AGAIN[-1] if _AGAIN else otherwise


@contextlib.contextmanager
def names_as_text() -> Iterator[None]:
    """Escape on standard output and standard error what a terminal would obey.

    Names of classes and files are in what a program prints, and so in what libraries print. What
    the parser prints has colours, and comes before.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Shown(stream) for stream in streams)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class _Shown:
    """A stream that writes `jaxssl.errors.visible` text; a bar returns to its line's start."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text, keep="\n\t\r"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Turn the exception that ends a program into one line on stderr and an exit code."""
    _AGAIN.clear()
    try:
        with _one_line():
            yield
    except KeyboardInterrupt:  # another one, while the line of the first was made
        os._exit(130)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    # Before JAX is imported: its own notices are not for the user of a program.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _heard(signal.SIGTERM), _told_again():
            yield
        _leave()
    except RunEnd as error:
        _end(error, error.exit_code)
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed it; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        _end(f"interrupted; {_again('start the same command again')}", 130)
    except Exception as error:
        if fault := _fault_of_the_system(error):
            _end(visible(fault), InputError.exit_code)
        processes = _processes()
        if processes is None or processes.count() == 1:
            raise
        if type(error).__name__ == "JaxRuntimeError" and processes.another_ended(5.0):
            time.sleep(120.0)  # ended in a line meanwhile: a collective broke off with its process
        # The others would wait until JAX aborts them, and never hear why.
        traceback.print_exc()
        processes.leave(repr(error), 1)
        sys.exit(1)


@contextlib.contextmanager
def _told_again() -> Iterator[None]:
    """Send a signal again whose exception was raised where Python drops exceptions.

    JAX is called back by the garbage collector; a Ctrl-C in there would be a traceback that says
    "ignored", and be so.
    """
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        kinds = {KeyboardInterrupt: signal.SIGINT, Stopped: signal.SIGTERM}
        number = next((n for k, n in kinds.items() if issubclass(dropped.exc_type, k)), None)
        if number is None:
            before(dropped)
        else:  # a moment later: the main thread is still in there; and to it, which may wait
            main = threading.main_thread().ident
            threading.Timer(0.05, signal.pthread_kill, [main, number]).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _heard(number: int) -> Iterator[None]:
    """End in a line at a signal before and after the loop, which has a handler of its own."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(
            f"stopped by {signal.Signals(number).name} outside of training; "
            + _again("start the same command again")
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)


def _fault_of_the_system(error: BaseException) -> str:
    """Say in one line what no program can mend: a full disk, a missing package; "" of others."""
    if isinstance(error, MemoryError):
        return "the memory does not suffice: take smaller batches or images, or a larger machine"
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "").partition(".")[0]
        extras = [extra for extra, packages in EXTRAS.items() if missing in packages]
        way_out = f'pip install "jaxssl[{extras[0]}]"' if extras else ""
        return way_out and f"the package {missing} is not installed: {way_out}"
    if not isinstance(error, OSError) or not error.strerror:
        return ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = error.filename or "a file"
        return f"{what}: {error.strerror}: free space; {_again('start the same command again')}"
    if error.errno in (errno.EIO, errno.EROFS, errno.ESTALE) or error.filename:
        return f"{error.filename or 'a file'}: {error.strerror}: see to the path and its disk"
    return ""


def parse(arguments: list[str], presets: Mapping[str, Any]) -> Any:
    """Make the configuration that flags give.

    Args:
      arguments: Of the command line; `--config FILE` stands for the settings in that file, and
        flags win over them.
      presets: Configurations by name, the first is the default. `--preset NAME` chooses one, else
        `--dataset NAME` the one of that name, else `--data-dir` the one named "folder"; its values
        are then the defaults that `--help` shows.
    """
    import tyro

    first = next(iter(presets))
    kind = type(presets[first])
    file = _value_of("--config", arguments)
    if file is not None:
        # Before the flags, so that they win: of two values the parser takes the last.
        arguments = [*_flags_of(file, kind), *arguments]
    dataset = _value_of("--dataset", arguments)
    if dataset in presets and dataset not in _datasets(presets):
        # A preset of a data set, named as one: `--dataset plankton` is a folder of plankton.
        arguments = _without("--dataset", arguments)
    name = _value_of("--preset", arguments) or dataset
    if name is None:
        named_folder = "folder" in presets and _value_of("--data-dir", arguments)
        name = "folder" if named_folder else first
    if name not in presets:
        raise InputError(f"{name!r} is no dataset or preset here: choose {', '.join(presets)}")
    groups = _groups(kind)
    flags = dataclasses.make_dataclass(
        "Flags",
        [
            (title, group, dataclasses.field(default=_part(group, presets[name])))
            for title, group in groups.items()
        ],
        frozen=True,
    )
    about = inspect.cleandoc(sys.modules["__main__"].__doc__ or "")
    if len(presets) > 1:
        about += f"\n\nPresets: {', '.join(presets)}"
    parsed: Any = tyro.cli(
        flags,
        args=arguments,
        prog=_program_name(),
        description=about,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    parts = [vars(getattr(parsed, title)) for title in groups]
    return kind(**{name: value for part in parts for name, value in part.items()})


def _groups(kind: type) -> dict[str, type]:
    """Part a configuration's fields into a class a group: its own first, then its bases'."""
    import tyro

    hints = get_type_hints(kind, include_extras=True)
    texts = config.help_of(kind)
    found: dict[str, type] = {}
    taken: set[str] = set()
    for base in reversed(kind.__mro__):
        names = [n for n in vars(base).get("__annotations__", {}) if n in hints and n not in taken]
        taken.update(names)
        if not names or not dataclasses.is_dataclass(base):
            continue
        fields = [
            (name, Annotated[hints[name], tyro.conf.arg(help=texts.get(name, ""))])
            for name in names
        ]
        group = dataclasses.make_dataclass(base.__name__, fields, frozen=True)
        group.__doc__ = (base.__doc__ or "").strip().splitlines()[0]
        found[base.__name__.lower()] = group
    *shared, own = found
    return {title: found[title] for title in (own, *shared)}


def _part(group: type, config: Any) -> Any:
    """Make a group's fields, with a configuration's values."""
    return group(**{f.name: getattr(config, f.name) for f in dataclasses.fields(group)})


def _datasets(presets: Mapping[str, Any]) -> set[str]:
    return {getattr(config, "dataset", "") for config in presets.values()}


def _without(flag: str, arguments: list[str]) -> list[str]:
    """Give a flag's value to `--preset` instead."""
    return [
        argument.replace(flag, "--preset", 1) if argument.split("=", 1)[0] == flag else argument
        for argument in arguments
    ]


def load_program(name: str) -> ModuleType:
    """Import a study's program.

    Args:
      name: One of `STUDIES`, or the path of a Python file that defines PRESETS, `make_method` and
        `main` as they do. A file is run only where a person named it.

    Raises:
      InputError: There is no such study or file, or the file defines no study.
    """
    if name in STUDIES:
        return importlib.import_module(f"experiments.{name}")
    path = Path(name).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise InputError(
            f"{name!r} is no study: choose {', '.join(STUDIES)}, or name the Python file of one"
        )
    main = sys.modules["__main__"]
    started = getattr(main, "__file__", None)
    if started and Path(started).resolve() == path:
        return main  # the file that was started opens its own runs
    spec = importlib.util.spec_from_file_location(f"jaxssl_study_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its types are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    missing = [needed for needed in ("PRESETS", "make_method") if not hasattr(module, needed)]
    if missing:
        raise InputError(f"{path} defines no study: it has no {' and no '.join(missing)}")
    return module


def choose_program(arguments: list[str], about: str | None) -> tuple[ModuleType, list[str]]:
    """Read the study that a tool's first argument names; without one, print the tool's help.

    Returns:
      The study's program, and the arguments after its name.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{about}\nPrograms: {', '.join(STUDIES)}, or the Python file of a study.")
        print("The program's name and --help show the flags.")
        sys.exit(0)
    return load_program(arguments[0]), arguments[1:]


def joined_presets(program: ModuleType, tool: type) -> dict[str, Any]:
    """Make a study's configurations under its presets, with the flags of a tool beside its own."""
    kind = flags_of(program)
    both = dataclasses.make_dataclass("Flags", [], bases=(tool, kind), frozen=True)
    return {name: both(**vars(preset)) for name, preset in program.PRESETS.items()}


def flags_of(program: ModuleType) -> type:
    """Return the configuration class of a study's program."""
    return type(next(iter(program.PRESETS.values())))


def program_of(config: Any) -> str:
    """Name a configuration's program: its own name, or the path of a file outside the package."""
    module = type(config).__module__
    path = Path(inspect.getfile(type(config))).resolve()
    inside = path.parent == Path(__file__).resolve().parent
    return path.stem if inside or module.startswith("experiments.") else str(path)


def _flags_of(file: str, kind: type) -> list[str]:
    """Turn the settings of a JSON file into the flags that would give them."""
    if not Path(file).is_file():
        raise InputError(f"--config {file}: there is no such file")
    settings = read_object(Path(file))
    unknown = sorted(settings.keys() - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise InputError(f"--config {file} has settings this program has not: {', '.join(unknown)}")
    return config.as_flags(settings)


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """Return the last one given."""
    value = None
    for i, argument in enumerate(arguments):
        if argument == flag and i + 1 < len(arguments):
            value = arguments[i + 1]
        if argument.startswith(flag + "="):
            value = argument[len(flag) + 1 :]
    return value


def _program_name() -> str:
    if len(_FRONT) > 1:
        return " ".join(_FRONT)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec else os.path.basename(sys.argv[0])


def _started_as() -> str:
    """Spell how the program was started, to be pasted."""
    name = _program_name()
    if len(_FRONT) > 1 or name.startswith("python -m "):
        return name
    return f"python {shlex.quote(sys.argv[0])}"


def _end(message: object, code: int) -> None:
    with contextlib.suppress(ValueError):  # not in the main thread
        # What is on disk is whole at every moment; a second signal need not wait for the others.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    program = _program_name().removesuffix(".py").replace(" ", ".").split(".")[-1]
    print(
        f"{program}: {message}",
        file=sys.stderr,
        flush=True,
    )
    _leave(message, code)
    sys.exit(code)


def _processes() -> Any:
    """Return the module that knows of other processes; None where nothing loaded it, nor JAX."""
    return sys.modules.get("jaxssl.training.processes")


def _leave(*end: Any) -> None:
    processes = _processes()
    if processes is not None:
        processes.leave(*end)
