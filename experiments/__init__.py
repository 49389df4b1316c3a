"""The studies, one program each: `python -m experiments.NAME --help`."""
