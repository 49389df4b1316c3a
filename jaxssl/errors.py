"""What can end a program; each is printed as one line and has an exit code."""


class RunEnd(Exception):
    """A program ends here, with one line for the user and no traceback."""

    exit_code = 1


class InputError(RunEnd, ValueError):
    """A setting, file or folder that cannot be used: names it, the rule and the way out."""

    exit_code = 2


class NonFiniteLoss(RunEnd):
    """The loss or its gradient was not finite; names the step and the last good checkpoint."""

    exit_code = 3


class CheckpointError(RunEnd, OSError):
    """A checkpoint could not be written; names the folder and the space left."""


class Stopped(RunEnd):
    """A signal asked to stop; the state is saved, and the same command goes on from there."""

    exit_code = 75  # EX_TEMPFAIL: schedulers read it as "try again"
