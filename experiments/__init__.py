"""The studies, one program each: `python -m experiments.NAME --help`."""

import importlib.util
import sys

if sys.argv[:1] == ["-m"] and importlib.util.find_spec("tyro") is None:
    # `python -m experiments.NAME` without the extra: a program's own imports would be a traceback.
    print(
        'the programs need more than the losses: pip install "jaxssl[experiments]"', file=sys.stderr
    )
    sys.exit(2)
