"""Options as people spell them: lists of numbers, and a JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from slimgpt.errors import UsageError


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """``1,2,4`` as numbers, each once.

    Raises:
        UsageError: a part is none.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text}: give numbers with commas between, like 1,2,4") from None
    return tuple(dict.fromkeys(found))


def whole_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Likewise, without fractions.

    Raises:
        UsageError: a part is no whole number.
    """
    found = numbers(text, flag)
    if any(not math.isfinite(x) or x != int(x) for x in found):
        raise UsageError(f"{flag} {text}: give whole numbers with commas between, like 1,4,16")
    return tuple(int(x) for x in found)


def body_fields(text: str | None) -> Mapping[str, Any]:
    """``--extra-body``: a JSON object.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise UsageError(f"--extra-body is no JSON ({reason}): give an object") from None
    if not isinstance(found, dict):
        raise UsageError("--extra-body is no object: give one, like '{\"temperature\": 1}'")
    return found
