"""The studies, one program each: `python -m experiments.NAME --help`."""

import importlib.util
import sys

from experiments import malloc

if sys.argv[:1] == ["-m"]:  # `python -m experiments.NAME`
    if importlib.util.find_spec("tyro") is None:
        # Without the extra a program's own imports would be a traceback.
        print(
            'the programs need more than the losses: pip install "jaxssl[experiments]"',
            file=sys.stderr,
        )
        sys.exit(2)
    malloc.ask()
