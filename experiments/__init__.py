"""The studies, one program each: `python -m experiments.NAME --help`."""

import importlib.util
import os
import sys

from experiments import malloc

# Before anything loads scipy's OpenBLAS, by which JAX computes eigenvalues on a CPU, in every step
# those of the effective rank. Its threads turn for 2^28 ticks (104 ms) after each, on cores that
# the step needs; 2^16 are enough from one product of an analysis to the next.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")

if sys.argv[:1] == ["-m"]:  # `python -m experiments.NAME`
    if importlib.util.find_spec("tyro") is None:
        # Without the extra a program's own imports would be a traceback.
        print(
            'the programs need more than the losses: pip install "jaxssl[experiments]"',
            file=sys.stderr,
        )
        sys.exit(2)
    malloc.ask()
