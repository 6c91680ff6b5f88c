"""Why vLLM died: the one line of its output that says it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_PREFIX = r"(?:\([^)]*\)\s*)?(?:(?:ERROR|CRITICAL)\s+\S+\s+\S+\s+\[[^\]]*\]\s*)?"
_RAISED = re.compile(rf"^{_PREFIX}((?:[A-Za-z_]\w*\.)*([A-Z]\w*)): (\S.*)$")
_WRITER = re.compile(rf"^{_PREFIX}")
_REFUSED = re.compile(r"^.*: error: (\S.*)$")
_KINDS = ("Error", "Exception", "Problem", "Timeout", "OutOfMemory")
_FOLLOWING = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "Engine process failed to start",
    "EngineCore encountered an issue",
    "EngineCore initialization failed",
    "cancelled",
)
"""What a process says because another one failed: not the cause."""


def root_cause(lines: Iterable[str]) -> str | None:
    """The last exception of the output that is not the mere consequence of another.

    Args:
        lines: what vLLM's processes wrote, in order.

    Returns:
        like ``ValueError: No available memory for the cache blocks``; None where none is found.
    """
    cause, unsaid = None, False
    for line in map(str.strip, lines):
        if unsaid and cause and line:
            # pydantic says how many errors there are, and in the next line which.
            cause = f"{cause}: {_WRITER.sub('', line).strip().partition(' [type=')[0]}"
            unsaid = False
        found = _RAISED.match(line)
        if not found or not found[2].endswith(_KINDS) or found[3].startswith(_FOLLOWING):
            continue
        cause, unsaid = f"{found[2]}: {found[3]}", found[2] == "ValidationError"
    return cause


def why_it_ended(lines: Sequence[str], code: int) -> str:
    """Why a process of vLLM ended, by its output or else by its exit code."""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return root_cause(lines) or f"it ended with code {code}, and its last line is: {last}"


def refused_flag(lines: Iterable[str]) -> str | None:
    """What vLLM's argument parser said, where that is why it ended."""
    found = [match[1] for match in map(_REFUSED.match, map(str.strip, lines)) if match]
    return found[-1] if found else None
