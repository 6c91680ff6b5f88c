"""vLLM's own flags, given after ``--``: handed on as they are, but for those that we decide."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slimgpt.errors import UsageError

OURS = {
    "host": "--host",
    "port": "--port",
    "uds": "--host and --port",
    "api-key": "--api-key-file, or VLLM_API_KEY",
    "model": "MODEL",
    "tensor-parallel-size": "--tensor-parallel",
    "tp": "--tensor-parallel",
    "max-model-len": "--max-model-len",
    "speculative-config": "--draft and --draft-tokens",
    "sc": "--draft and --draft-tokens",
    "gpu-memory-utilization": "--gpu-memory-utilization",
    "dtype": "--dtype",
    "seed": "--seed",
}
"""Flags of vLLM that an option of ours sets, checked before vLLM starts."""

_SHORT = ("tp", "sc")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)")


class VllmFlags:
    """The words after ``--``.

    Attributes:
        words: as they were given.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Reads the flags.

        Raises:
            UsageError: one of them is an option of ours, or not after a flag.
        """
        self.words = tuple(words)
        self._values: dict[str, str | None] = {}
        if self.words and not self.words[0].startswith("-"):
            raise UsageError(
                f"{self.words[0]} after -- is no flag: give vLLM's flags there, like "
                "--enable-prefix-caching"
            )
        for index, word in enumerate(self.words):
            if not word.startswith("-") or _is_number(word):
                continue
            name, _, value = word.lstrip("-").partition("=")
            name = name.replace("_", "-").partition(".")[0]
            _require_not_ours(word, name)
            following = self.words[index + 1 : index + 2]
            own = value if "=" in word else (following[0] if following else None)
            self._values[name] = own

    def value(self, name: str) -> str | None:
        """What the last flag of that name was given, without its dashes; None where it is not."""
        return self._values.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def number(self, name: str, otherwise: int) -> int:
        """A flag that is a number as vLLM reads it; what is none is left to vLLM to refuse.

        ``2G`` are 2 GiB there, and ``2.5g`` are 2.5 x 10^9.
        """
        found = _NUMBER.fullmatch(self.value(name) or "")
        if not found or ("." in found[1] and not found[2].islower()):
            return otherwise
        power = " kmgt".index(found[2].lower() or " ")
        return int(float(found[1]) * (1000 if found[2].islower() else 1024) ** power)


def _is_number(word: str) -> bool:
    return word[1:].replace(".", "", 1).isdecimal()


def _require_not_ours(word: str, name: str) -> None:
    """Refuses a flag of ours, an abbreviation of one too: vLLM's parser takes those."""
    for flag, ours in OURS.items():
        abbreviated = word.startswith("--") and len(name) > 1 and flag.startswith(name)
        if name == flag or (abbreviated and flag not in _SHORT):
            raise UsageError(f"{word} after --: give it as {ours}, before the --")
