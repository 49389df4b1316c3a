"""Measure the tables of the README and the pages again, on one commit, with a log.

    python scripts/reproduce.py --list
    python scripts/reproduce.py digits
    python scripts/reproduce.py plankton-wide suspects --plankton DIR --dry-run

The tree must be clean: a number belongs to a commit. Runs, logs and numbers go to
`build/reproduce/COMMIT/`; once every command has ended well, the numbers are copied to `results/`,
and what `scripts/results_table.py` printed stands at the end of the log, for the page that is
named. A run that is finished there is not trained again; one that was stopped goes on. Times in
`results/` count only where nothing else ran.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
RESULTS = "docs/pages/results.md"
PROGRAMS = {"cosface": "arcface --kind cosface"}  # others are called as their methods


@dataclasses.dataclass(frozen=True)
class Table:
    """What is measured together.

    Attributes:
      page: Where its numbers stand.
      cost: What it takes on two x86-64 cores, by its last logs; a rough guide.
      results: The files of `results/` that it writes.
      commands: Run one after the other. RUNS is a folder of runs, OUT that of the results,
        PLANKTON and CIFAR are the folders of images that `main` was given.
    """

    page: str
    cost: str
    results: tuple[str, ...]
    commands: tuple[str, ...]


def seeds(program: str, name: str, log: str, many: Sequence[int] = SEEDS) -> list[str]:
    """List the commands of a program's runs with several seeds, and of their table."""
    runs = [f"RUNS/{name}-{seed}" for seed in many]
    trained = [
        f"python {program} --seed {s} --run-dir {r}" for s, r in zip(many, runs, strict=True)
    ]
    return [*trained, f"python scripts/results_table.py {' '.join(runs)} --log OUT/{log}"]


def programs(
    lines: dict[str, str], many: Sequence[int] = SEEDS
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List the results and the commands of a table: each program, by its name, with all seeds."""
    logs = tuple(f"{name}.json" for name in lines)
    commands = (seeds(line, name, f"{name}.json", many) for name, line in lines.items())
    return logs, tuple(itertools.chain.from_iterable(commands))


def methods(preset: str, options: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List the results and the commands of a plankton table: every method with three seeds."""
    logs, commands = [], []
    for name, flags in options.items():
        logs.append(f"{preset.replace('wide-cpu', 'wide')}-{name}.json")
        program = PROGRAMS.get(name, name)
        line = f"-m experiments.{program} --preset {preset} {flags} --data-dir PLANKTON"
        commands += seeds(line, f"{preset}-{name}", logs[-1])
    return tuple(logs), tuple(commands)


_WIDE = dict.fromkeys(("simclr", "supcon", "softmax", "arcface", "cosface"), "--epochs 8")
_WIDE["triplet"] = "--epochs 8 --hard-negatives-from 2 --hard-positives-from 6"
_SMALL = dict.fromkeys(("supcon", "softmax", "arcface", "cosface"), "--epochs 5")
_SMALL |= {"simclr": "", "triplet": "--epochs 5 --hard-negatives-from 2 --hard-positives-from 4"}

_CIFAR = "--preset cifar10-cpu --data-dir CIFAR"
_TUNED = {
    f"{start}{frozen}-{share}": f"python -m experiments.finetune RUNS/cifar10-simclr-0 {flags}"
    f" --label-fraction {share} {length} --run-dir RUNS/{start}{frozen}-{share}"
    for share, length in ((".1", "--epochs 30"), (".01", "--epochs 100 --evaluate-epochs 5"))
    for start, frozen in itertools.product(("simclr", "random"), ("", "-frozen"))
    if not (frozen and share == ".01")
    for flags in [("--random " * (start == "random") + "--freeze " * bool(frozen)).strip()]
}
_LITE0 = (
    "python -m experiments.embed --encoder efficientnet_lite0 --preset plankton-wide"
    " --data-dir PLANKTON --run-dir RUNS/lite0"
)
_README_TRAINED = dict.fromkeys(("simclr", "supcon"), "--propagate")
_LITE0_TRAINED = dict.fromkeys(
    (name for name in _WIDE if name not in _README_TRAINED), "--propagate"
)
_LITE0_TRAINED["triplet"] = "--hard-negatives-from 1 --hard-positives-from 3 --propagate"


def views(runs: str, log: str, many: Sequence[int] = SEEDS) -> dict[str, str]:
    """List the results of averages over views of a program's runs, and their commands."""
    line = f"python scripts/frozen_probes.py run RUNS/{runs}-%d --average-views 8 --json OUT/%s"
    return {(file := f"{log}-{seed}.json"): line % (seed, file) for seed in many}


_README_VIEWS = views("plankton-lite0-cpu-supcon", "lite0-views-supcon")
_LITE0_VIEWS = {
    **views("plankton-lite0-cpu-softmax", "lite0-views-softmax"),
    **views("plankton-lite0-cpu-simclr", "lite0-views-simclr", (0,)),
}
_LITE0_128_VIEWS = views("plankton-lite0-128-supcon", "lite0-128-views-supcon")
# What --preset plankton-lite0-cpu sets, on images of another kind.
_LITE0_CIFAR = (
    "python -m experiments.simclr --preset cifar10-cpu --encoder efficientnet_lite0"
    " --pretrained auto --freeze block4 --learning-rate .001 --optimizer adam --batch-size 128"
    " --image-size 96 --beside-start --epochs 1 --evaluate-epochs .5 --data-dir CIFAR"
)
_LITE0_COSFACE = {
    f"plankton-lite0-cosface-{name}": f"-m experiments.arcface --kind cosface"
    f" --preset plankton-lite0-cpu {flags} --data-dir PLANKTON"
    for name, flags in (("10", "--epochs 10"), ("all", "--freeze none"))
}
_README = methods("plankton-lite0-cpu", _README_TRAINED)
# Ten epochs at 128 px, or as they say; from random weights, thirty.
_GPU = "--gpu --resident --steps-per-dispatch 10 --no-imagenet --data-dir PLANKTON"
_LITE0_GPU = dict.fromkeys(_WIDE, "")
_LITE0_GPU["triplet"] = "--hard-negatives-from 2 --hard-positives-from 6"
_LITE0_GPU["cosface-20"] = "--epochs 20"
_LITE0_GPU |= dict.fromkeys(("cosface-all", "softmax-all"), "--freeze none --epochs 20")
_PLANKTON_GPU = {
    f"plankton-gpu-{name}": f"-m experiments.{PROGRAMS.get(method, method)}"
    f" --preset plankton-lite0 --propagate {flags} {_GPU}"
    for name, flags in _LITE0_GPU.items()
    for method in [name.partition("-")[0]]
} | {
    f"plankton-gpu-convnet-{name}": f"-m experiments.{PROGRAMS.get(name, name)}"
    f" --preset plankton-wide --encoder convnet --image-size 128 --epochs 30 {_GPU}"
    for name in ("simclr", "cosface")
}
_SEARCHED = {
    "simclr": ("", "--batch-norm adapted", "--freeze none", "--learning-rate .0003"),
    "arcface": ("--kind cosface",),
}
_BENCH = {
    "analysis": "analysis.py --rounds 3 --limit-s 3600",
    "arcface": "arcface.py --rounds 3 --seconds .1",
    "contrastive": "contrastive.py --rounds 5 --seconds .3",
    "convolution": "convolution.py --rounds 4 --seconds .3",
    "encoders": "encoders.py --rounds 3",
    "forms": "forms.py",
    "imports": "imports.py",
    "input": "input.py --data-dir PLANKTON --rounds 3 --seconds .2",
    "nt_xent": "nt_xent.py --rows 512 1024 2048 4096 8192 16384 --rounds 4 --seconds .3",
    "simclr_step_16": "simclr_step.py --width 16 --batch 128 --steps-per-dispatch 1 --rounds 3",
    "simclr_step_64": "simclr_step.py --width 64 --batch 128 --steps-per-dispatch 1 --rounds 3",
    "tpu": "tpu.py",
    "triplet": "triplet.py --rows 128 1024 --rounds 2 --seconds .2",
    "triplet-8192": "triplet.py --rounds 2 --seconds .2",
}

TABLES = {
    "digits": Table(
        f"{RESULTS}: SimCLR on the digits",
        "6 minutes",
        ("digits-simclr.json",),
        tuple(seeds("-m experiments.simclr", "digits-simclr", "digits-simclr.json")),
    ),
    "byol": Table(
        f"{RESULTS}: BYOL on the digits",
        "15 minutes",
        ("digits-byol.json",),
        tuple(
            seeds(
                "tests/outside/byol.py --dataset digits --epochs 200 --evaluate-epochs 20",
                "digits-byol",
                "digits-byol.json",
            )
        ),
    ),
    "readme": Table(
        f"README.md: Which method?; {RESULTS}: Trained on from ImageNet's weights",
        "2 hours",
        (*_README[0], *_README_VIEWS),
        (*_README[1], *_README_VIEWS.values()),
    ),
    "plankton-wide": Table(
        f"{RESULTS}: Which method serves unseen classes best?",
        "2 hours",
        *methods("plankton-wide-cpu", _WIDE),
    ),
    "plankton-lite0": Table(
        f"{RESULTS}: Trained on from ImageNet's weights; after readme",
        "3 hours",
        *methods("plankton-lite0-cpu", _LITE0_TRAINED),
    ),
    "lite0-views": Table(
        f"{RESULTS}: Trained on from ImageNet's weights; after readme and plankton-lite0",
        "30 minutes",
        tuple(_LITE0_VIEWS),
        tuple(_LITE0_VIEWS.values()),
    ),
    "plankton-lite0-128": Table(
        f"README.md; {RESULTS}: Trained on from ImageNet's weights",
        "2 hours",
        ("plankton-lite0-128-supcon.json", *_LITE0_128_VIEWS),
        (
            *seeds(
                "-m experiments.supcon --preset plankton-lite0-cpu --image-size 128 --propagate"
                " --data-dir PLANKTON",
                "plankton-lite0-128-supcon",
                "plankton-lite0-128-supcon.json",
            ),
            *_LITE0_128_VIEWS.values(),
        ),
    ),
    "plankton-lite0-cosface": Table(
        f"{RESULTS}: Trained on from ImageNet's weights (CosFace's own classifier)",
        "1 hour",
        *programs(_LITE0_COSFACE, (1,)),
    ),
    "plankton-gpu": Table(
        f"README.md: Which method?; {RESULTS}: On a GPU (cosface-20 and softmax-all: two seeds)",
        "30 minutes on an H100 or H200 with 16 cores, ten runs at a time by hand",
        *programs(_PLANKTON_GPU),
    ),
    "cifar10-gpu": Table(
        f"{RESULTS}: On a GPU",
        "30 minutes on an H100 or H200; a folder by scripts/prepare_cifar10.py",
        tuple(
            f"cifar10-gpu-{name}.json"
            for name in ("simclr", "sgd", "sgd-bn2", "lightly", "supervised")
        ),
        (
            "python -m experiments.simclr --dataset cifar10 --gpu --bfloat16 --evaluate-epochs 50"
            " --data-dir CIFAR --run-dir RUNS/cifar10-gpu",
            "python -m experiments.linear_eval RUNS/cifar10-gpu --checkpoint last",
            "python scripts/results_table.py --linear-eval RUNS/cifar10-gpu"
            " --log OUT/cifar10-gpu-simclr.json",
            # The log of SGD that is there has validation by epoch too, and what was measured of the
            # supervised network, by hand; with more time that has a log of its own.
            "python -m experiments.simclr --dataset cifar10 --gpu --bfloat16 --optimizer sgd"
            " --learning-rate .24 --weight-decay 5e-4 --head mlp-bn --evaluate-epochs 50"
            " --labels 100 1000 --draws 2 --data-dir CIFAR --run-dir RUNS/cifar10-gpu-sgd",
            "python scripts/results_table.py RUNS/cifar10-gpu-sgd --log OUT/cifar10-gpu-sgd.json",
            "python -m experiments.simclr --dataset cifar10 --gpu --bfloat16 --optimizer sgd"
            " --learning-rate .24 --weight-decay 5e-4 --warmup 0 --head mlp-bn2"
            " --evaluate-epochs 50 --data-dir CIFAR --run-dir RUNS/cifar10-gpu-sgd-bn2",
            "python -m experiments.linear_eval RUNS/cifar10-gpu-sgd-bn2 --checkpoint last",
            "python scripts/results_table.py --linear-eval RUNS/cifar10-gpu-sgd-bn2"
            " --log OUT/cifar10-gpu-sgd-bn2.json",
            # lightly's recipe in PyTorch: seven minutes.
            "python scripts/benchmarks/learning.py --lightly --data-dir CIFAR --judge-every 100"
            " --json OUT/cifar10-gpu-lightly.json",
            "python -m experiments.softmax --dataset cifar10 --gpu --bfloat16 --encoder resnet18"
            " --optimizer sgd --learning-rate .1 --weight-decay 5e-4 --schedule cosine --resident"
            " --steps-per-dispatch 10 --batch-size 128 --epochs 60 --evaluate-epochs 20"
            " --data-dir CIFAR --run-dir RUNS/cifar10-gpu-supervised",
            "python scripts/results_table.py --classifiers RUNS/cifar10-gpu-supervised"
            " --log OUT/cifar10-gpu-supervised.json",
        ),
    ),
    "plankton-small": Table(
        f"{RESULTS}: The original study's split",
        "3 hours",
        *methods("plankton-cpu", _SMALL),
    ),
    "cifar10-simclr": Table(
        f"{RESULTS}: CIFAR-10, on two cores (linear evaluation)",
        "45 minutes; a folder by scripts/prepare_cifar10.py",
        ("cifar10-cpu-simclr.json",),
        (
            *(
                line
                for seed in (0, 1)
                for line in (
                    f"python -m experiments.simclr {_CIFAR} --keep-every 2 --seed {seed}"
                    f" --run-dir RUNS/cifar10-simclr-{seed}",
                    f"python -m experiments.linear_eval RUNS/cifar10-simclr-{seed}"
                    " --checkpoint all",
                )
            ),
            "python scripts/results_table.py --linear-eval RUNS/cifar10-simclr-0"
            " RUNS/cifar10-simclr-1 --log OUT/cifar10-cpu-simclr.json",
        ),
    ),
    "cifar10-learning": Table(
        f"{RESULTS}: CIFAR-10, on two cores (beside PyTorch); needs PyTorch",
        "1 hour",
        ("cifar10-learning-here.json", "cifar10-learning-torch.json"),
        (
            f"python -m experiments.simclr {_CIFAR} --epochs 20 --batch-size 256 --optimizer sgd"
            " --learning-rate .12 --weight-decay 5e-4 --head mlp-bn --evaluate-epochs 10"
            " --run-dir RUNS/cifar10-learning",
            "python -m experiments.linear_eval RUNS/cifar10-learning --checkpoint last",
            "python scripts/results_table.py --linear-eval RUNS/cifar10-learning"
            " --log OUT/cifar10-learning-here.json",
            "python scripts/benchmarks/learning.py RUNS/cifar10-learning"
            " --json OUT/cifar10-learning-torch.json",
        ),
    ),
    "cifar10-classifiers": Table(
        f"{RESULTS}: CIFAR-10, on two cores (fine-tuned); after cifar10-simclr",
        "1 hour",
        ("cifar10-cpu-classifiers.json",),
        (
            *_TUNED.values(),
            f"python -m experiments.softmax {_CIFAR} --label-fraction .1 --evaluate-epochs 1"
            " --run-dir RUNS/softmax-.1",
            f"python -m experiments.softmax {_CIFAR} --epochs 10 --evaluate-epochs 1"
            " --run-dir RUNS/softmax-1",
            f"python scripts/results_table.py --classifiers {' '.join(f'RUNS/{n}' for n in _TUNED)}"
            " RUNS/softmax-.1 RUNS/softmax-1 --log OUT/cifar10-cpu-classifiers.json",
        ),
    ),
    "cifar10-rows": Table(
        f"{RESULTS}: CIFAR-10, on two cores (rows read as a sequence)",
        "1 hour",
        ("cifar10-cpu-rows.json",),
        (
            *(
                f"python -m experiments.rnn --dataset cifar10 --cell {cell} --epochs 15"
                f" --seed {seed} --data-dir CIFAR --run-dir RUNS/{cell}-{seed}"
                for cell, seed in (("rnn", 0), ("lstm", 0), ("gru", 0), ("gru", 1))
            ),
            "python scripts/results_table.py --classifiers RUNS/rnn-0 RUNS/lstm-0 RUNS/gru-0"
            " RUNS/gru-1 --log OUT/cifar10-cpu-rows.json",
        ),
    ),
    "cifar10-lite0": Table(
        f"{RESULTS}: CIFAR-10, on two cores (from ImageNet's weights)",
        "1 hour",
        ("cifar10-lite0.json", "cifar10-lite0-linear.json"),
        (
            f"{_LITE0_CIFAR} --run-dir RUNS/cifar10-lite0",
            "python scripts/results_table.py RUNS/cifar10-lite0 --log OUT/cifar10-lite0.json",
            "python -m experiments.linear_eval RUNS/cifar10-lite0 --checkpoint last",
            "python scripts/results_table.py --linear-eval RUNS/cifar10-lite0"
            " --log OUT/cifar10-lite0-linear.json",
        ),
    ),
    "frozen": Table(
        f"{RESULTS}: ImageNet's Lite0, frozen",
        "20 minutes",
        ("frozen-probes-128.json",),
        (
            _LITE0,
            "python scripts/frozen_probes.py run RUNS/lite0 --draws 3"
            " --json OUT/frozen-probes-128.json",
        ),
    ),
    "lite0-search": Table(
        f"{RESULTS}: What does not hold, or was not measured",
        "6 minutes a trial",
        ("lite0-search.json",),
        tuple(
            f"python scripts/search_lite0.py {program} --data-dir PLANKTON"
            f" --json OUT/lite0-search.json {shlex.join(f'--trial={flags}' for flags in trials)}"
            for program, trials in _SEARCHED.items()
        ),
    ),
    "label-next": Table(
        f"{RESULTS}: What to label next",
        "30 minutes",
        ("label-next.json",),
        (_LITE0, "python scripts/label_next_curves.py RUNS/lite0 --out OUT/label-next.json"),
    ),
    "suspects": Table(
        f"{RESULTS}: Wrong labels found; after cleanlab was installed",
        "30 minutes",
        ("suspects.json",),
        (
            _LITE0,
            "python -m experiments.embed --encoder efficientnet_lite0 --dataset cifar10"
            " --data-dir CIFAR --run-dir RUNS/lite0-cifar10",
            "python scripts/suspects_precision.py RUNS/lite0 --most 6000 --seeds 3"
            " --out OUT/suspects.json --name 'PlanktonSet, wide'",
            "python scripts/suspects_precision.py RUNS/lite0-cifar10 --most 6000 --seeds 3"
            " --out OUT/suspects.json --name 'CIFAR-10 (JPEG copy)'",
        ),
    ),
    "first-step": Table(
        "BENCHMARKS.md: seconds to the first step",
        "10 minutes",
        ("first-step.json",),
        ("python scripts/benchmarks/first_step.py --source PLANKTON --out OUT/first-step.json",),
    ),
    "torture": Table(
        "docs/RELIABILITY.md",
        "hours; its own flags say how many",
        ("torture.json",),
        ("python scripts/torture.py all --json OUT/torture.json",),
    ),
    "benchmarks": Table(
        "BENCHMARKS.md",
        "2 hours, on a quiet machine",
        tuple(f"bench-{name}.json" for name in _BENCH),
        tuple(
            f"python scripts/benchmarks/{line} --json OUT/bench-{name}.json"
            for name, line in _BENCH.items()
        ),
    ),
}
# Files of results/ that were put together by hand; the pages say by which commands.
BY_HAND = (
    *("byol-digits.json", "first-command.json", "predict-plankton.json"),
    *("bench-simclr_step_h100.json", "check-device-h100.json", "lite0-own-views.json"),
    *("bench-simclr_step_h200.json", "cifar10-gpu-simclr-1.json"),
    *("plankton-gpu-validation.json", "cifar10-lite0-frozen.json", "check-device-h200.json"),
    *("bench-encoders-xeon-2.json", "bench-encoders-xeon-8.json"),
)


def main() -> None:
    """Choose the tables, measure them, and keep their numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--list", action="store_true", help="name the tables and what they cost")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    parser.add_argument("--plankton", default="", help="the folder of PlanktonSet 1.0's images")
    parser.add_argument("--cifar", default="", help="the folder that prepare_cifar10.py wrote")
    flags = parser.parse_args()
    if flags.list or not flags.tables:
        for name, table in TABLES.items():
            print(f"{name:20} {table.cost}\n{'':20} {table.page}")
        return
    if unknown := [name for name in flags.tables if name not in TABLES]:
        parser.error(f"there is no table {unknown[0]!r}: choose {', '.join(TABLES)}")
    commit = _git("rev-parse", "--short=12", "HEAD")
    places = {"PLANKTON": flags.plankton, "CIFAR": flags.cifar}
    folder = ROOT / "build" / "reproduce" / commit
    places |= {"RUNS": str(folder / "runs"), "OUT": str(folder / "results")}
    lines = [(name, line) for name in flags.tables for line in TABLES[name].commands]
    missing = [place for place, path in places.items() if not path]
    wanted = [place for place in missing if any(place in line for _, line in lines)]
    if flags.dry_run:
        known = {place: path for place, path in places.items() if path}
        print("\n".join(shlex.join(_filled(line, known)) for _, line in lines))
        return
    if wanted:
        parser.error(f"--{wanted[0].lower()} DIR is missing: these tables are of its images")
    if changed := _git("status", "--porcelain"):
        first = changed.splitlines()[0]
        parser.error(f"the tree is not clean ({first.strip()} ...): commit first, then measure")
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for name, line in lines:
        _measure(_filled(line, places), folder / f"{name}.log")
    for name in flags.tables:
        for file in TABLES[name].results:
            shutil.copy(folder / "results" / file, ROOT / "results" / file)
        print(f"{name}: measured at {commit}, for {TABLES[name].page}; {folder / name}.log")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _filled(line: str, places: dict[str, str]) -> list[str]:
    """Put the folders into a command's words."""
    words = []
    for word in shlex.split(line):
        place, slash, rest = word.partition("/")
        words.append(f"{places[place]}{slash}{rest}" if place in places else word)
    return words


def _measure(words: list[str], log: Path) -> None:
    """Run a command with its output on the screen and in the log; stop where it fails."""
    run = words[words.index("--run-dir") + 1] if "--run-dir" in words else ""
    if run and (Path(run) / "results.json").exists():
        return
    with open(log, "a", encoding="utf-8") as out:
        print(f"\n$ {shlex.join(words)}", flush=True)
        out.write(f"\n$ {shlex.join(words)}\n")
        start = time.monotonic()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [sys.executable, *words[1:]],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                out.write(line)
        out.write(f"ended with {process.returncode} after {time.monotonic() - start:.0f} s\n")
    if process.returncode:
        sys.exit(
            f"it ended with {process.returncode}: {log} has all of it; the same command goes on"
        )


if __name__ == "__main__":
    main()
