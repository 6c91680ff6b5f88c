"""The errors a user can cause, each carrying the exit code of its class (INTERFACE.md)."""

from __future__ import annotations


class SlimGPTError(Exception):
    """Base of every expected failure: the command line prints its message as one line.

    The message says what was given, what is allowed and what to do, in the user's flag names.
    """

    exit_code = 1


class UsageError(SlimGPTError):
    """A wrong option, recipe or path: nothing was started."""

    exit_code = 2


class EnvironmentProblem(SlimGPTError):
    """Something this machine lacks: an extra, a GPU, disk space, the network."""

    exit_code = 4


class IntegrityError(SlimGPTError):
    """Corrupt, incomplete or hostile input, or a failed verification."""

    exit_code = 5


def missing_extra(feature: str, extra: str) -> EnvironmentProblem:
    """The error for an optional package that is not installed."""
    return EnvironmentProblem(
        f"{feature} needs an optional package: install it with pip install 'slimgpt[{extra}]'"
    )
