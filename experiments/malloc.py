"""What malloc is asked for: to keep memory, in pages of 2 MB; steps on a CPU take less time so."""

import os
import platform
import sys

SETTING = "GLIBC_TUNABLES"
# Nothing from the kernel for one array alone; nothing back to it below 1 TB, nor the parts of 64 MB
# that threads have, while those to come are thought to be of 128; pages of 2 MB, which most kernels
# hand out to who asks, and others to all or to none.
TUNABLES = ("hugetlb=1", "mmap_max=0", f"trim_threshold={2**40}", f"top_pad={2**27}")
VALUE = ":".join(f"glibc.malloc.{tunable}" for tunable in TUNABLES)


def ask() -> None:
    """Start this program once more, from its first line, with malloc set to keep memory.

    XLA takes the memory of a step from malloc and gives it back after it. As malloc is set, that
    memory goes back to the kernel, which hands it out anew in every step, and clears it, by 4 KB at
    a time: 82,000 times in a step of EfficientNet-Lite0, a fifth to a third of a step's time. So
    malloc is to keep it, which it does for the main thread alone, where steps run by
    `jaxssl.training.devices.run_in_turn`. It reads the settings as a process begins.

    Nothing happens where the setting is there already, whatever it says, and where the C library
    is not glibc.
    """
    if SETTING in os.environ or not sys.executable or platform.libc_ver()[0] != "glibc":
        return
    os.environ[SETTING] = VALUE
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
