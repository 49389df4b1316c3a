"""Memory in pages of 2 MB, and kept: a training step on a CPU takes up to a third less time."""

import os
import sys
from pathlib import Path

SETTING = "GLIBC_TUNABLES"
# Pages of 2 MB; nothing from the kernel for one array alone; nothing back to it below 1 TB.
TUNABLES = ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}")
VALUE = ":".join(f"glibc.malloc.{tunable}" for tunable in TUNABLES)
# What the kernel says of pages of 2 MB: given to who asks ("madvise"), to all, or to none.
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask() -> None:
    """Start this program once more, from its first line, with malloc asking for huge pages.

    XLA takes the memory of a step from malloc and gives it back after it. The kernel hands it out
    anew in every step, and clears it, by 4 KB at a time: 82,000 times in a step of
    EfficientNet-Lite0, up to a third of its time. In huge pages the clearing is left, 7 % of a
    narrow ResNet's: so malloc is to keep the memory, which it does for the main thread alone, where
    steps run by `jaxssl.training.devices.run_in_turn`. It reads the settings as a process begins.

    Nothing happens where the setting is there already, whatever it says, where the kernel is not
    Linux, and where it gives such pages to all or to none.
    """
    if SETTING in os.environ or sys.platform != "linux" or not sys.executable:
        return
    try:
        asked = "[madvise]" in POLICY.read_text()
    except OSError:
        return
    if asked:
        os.environ[SETTING] = VALUE
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
