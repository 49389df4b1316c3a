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

# What learns (simclr, supcon, triplet, arcface, softmax, rnn), and the defaults of its flags
# (digits, folder, plankton, plankton-wide, cifar10, cifar100).
PROGRAM = "simclr"
PRESET = "digits"
# Any other flags, as on the command line, such as "--epochs 100 --bfloat16 --seen copepod diatom".
FLAGS = ""

# Where the images are: "" (the preset brings them: digits, and cifar by TFDS, which downloads it);
# "upload" (a zip of images, chosen in this page); or a folder, zip or table, which may lie on Drive
# ("/content/drive/MyDrive/plankton"), with the preset "folder".
IMAGES = ""

# Where runs are kept; on Drive ("/content/drive/MyDrive/jaxssl") they outlive the machine. The
# same RUN goes on where it stopped; another name starts anew.
RUNS = "runs"
RUN = "first"

# %% [markdown]
"""
## Install

jax, jaxlib and libtpu belong together. What the runtime has is kept where it will do; a TPU runtime
whose jax is older gets a new jax **with** its libtpu. The programs run in processes of their own,
so that nothing in this page holds the TPU, and the page need not be restarted but where it has
loaded jax already.
"""

# %%
import html
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
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
        for line in process.stdout:
            print(line, end="", flush=True)
    return process.returncode


def versions():
    """The installed versions of what must fit together."""
    found = {}
    for name in ("jax", "jaxlib", "libtpu", "flax"):
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


def mount_drive(*places):
    """Mount Drive where one of the places lies on it; Colab asks you to allow it."""
    if IN_COLAB and any(str(place).startswith("/content/drive") for place in places):
        from google.colab import drive

        drive.mount("/content/drive")


# %%
DEVICE = "cpu" if os.environ.get("JAX_PLATFORMS") == "cpu" else find_device()
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    stop(
        f"This runtime has Python {sys.version.split()[0]}; jaxssl runs on 3.11 to 3.14. Choose "
        "another version under Runtime > Change runtime type > Runtime version."
    )
mount_drive(SOURCE, IMAGES, RUNS)
before = versions()
CLONE = next(
    (p for p in (Path.cwd(), Path.cwd().parent) if (p / "experiments/cli.py").is_file()), ""
)
if SOURCE or (IN_COLAB and CLONE):
    extras = {"tpu": "[experiments,tpu]", "gpu": "[experiments,cuda]", "cpu": "[experiments]"}
    place = SOURCE or str(CLONE)
    if "://" in place:
        wanted = f"jaxssl{extras[DEVICE]} @ {place}"
    elif not Path(place).exists():
        stop(f"SOURCE is {place!r}, which is not there: name jaxssl's repository, folder or zip.")
    else:
        wanted = f"jaxssl{extras[DEVICE]} @ {Path(place).resolve().as_uri()}"
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
    print(asked.stderr[-1500:])
    stop(f"JAX does not reach this runtime's {DEVICE.upper()}. {advice[DEVICE]}")

# %% [markdown]
"""
## Images
"""

# %%
images = IMAGES
if IMAGES == "upload":
    kept = Path(RUNS) / "uploaded"
    kept.mkdir(parents=True, exist_ok=True)
    if not any(kept.iterdir()):
        if not IN_COLAB:
            stop(f"Outside of Colab there is no upload: put a zip into {kept}, or name a folder.")
        from google.colab import files

        for name, content in files.upload().items():
            (kept / name).write_bytes(content)
    images = str(sorted(kept.iterdir())[0])  # a later session finds what an earlier one uploaded
if images and not Path(images).exists():
    stop(f"IMAGES is {images!r}, which is not there.")
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
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(CLONE), os.environ.get("PYTHONPATH", "")])
)
code = say([*command, *shlex.split(FLAGS)])
if code:
    stop(
        {
            2: "A setting is to be mended: the line above says which.",
            3: "The loss was not finite: try a lower --learning-rate, and another RUN.",
            75: "Stopped on its way; run all cells again, and it goes on.",
        }.get(code, f"The program ended with exit code {code}; the lines above say why.")
    )

# %% [markdown]
"""
## The report
"""

# %%
page = RUN_DIR / "report" / "index.html"
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
