"""``slimgpt serve`` on a CPU, up to the point where vLLM would start."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from slimgpt.cli import run
from tests.command_line import Ended

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}
UNWANTED = ("VLLM_API_KEY", "VLLM_PLUGINS")
HEADS, HEAD, LAYERS, CONTEXT = 8, 32, 6, 256
"""Of the embedded model; its heads of 16 are widened to 32 on a CPU."""


@dataclass(frozen=True)
class ServeLine:
    """The command line, and what it prints."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *options: object) -> Ended:
        """Runs it with these options."""
        self.capture.readouterr()
        code = run(["serve", "--device", "cpu", *map(str, options)])
        return Ended(code, *self.capture.readouterr())

    def refuses(self, code: int, *options: object) -> str:
        """The one line that it ends in, without its beginning."""
        ended = self(*options)
        assert (ended.code, ended.stdout) == (code, ""), ended
        assert len(ended.stderr.splitlines()) == 1, ended.stderr
        return ended.stderr.removeprefix("slimgpt: ")


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """One GiB of KV cache, and nothing from the outside."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in UNWANTED:
        monkeypatch.delenv(name, raising=False)
