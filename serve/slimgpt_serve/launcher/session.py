"""One server from the user's options: everything is checked, and it can be started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slimgpt.errors import UsageError
from slimgpt_serve.launcher.access import Access, access
from slimgpt_serve.launcher.address import Address, claim
from slimgpt_serve.launcher.launch import DRAIN_S, Draft, command, environment
from slimgpt_serve.launcher.server import ServerProcess
from slimgpt_serve.preflight.artefact import Artefact, read_artefact
from slimgpt_serve.preflight.check import Wishes, preflight
from slimgpt_serve.preflight.findings import Preflight
from slimgpt_serve.preflight.installed import installed_vllm, platform_of, require_vllm
from slimgpt_serve.preflight.machine import visible
from slimgpt_serve.preflight.vllm_flags import VllmFlags


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of ``slimgpt serve``, under their own names.

    Attributes:
        model: MODEL as the user gave it, and its directory.
        draft: the same of ``--draft``.
        environ: of this process.
        quiet: nothing can be shown on standard error.
        dry_run: nothing is to be started.
    """

    model: tuple[str, Path]
    draft: tuple[str, Path] | None
    draft_tokens: int
    host: str
    port: int
    api_key_file: Path | None
    tensor_parallel: int
    max_model_len: int | None
    gpu_memory_utilization: float
    dtype: str
    device: str
    seed: int
    vllm_flags: Sequence[str]
    environ: Mapping[str, str]
    quiet: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Session:
    """A server that may be started.

    Attributes:
        model: to be served.
        served_name: what clients ask for.
        draft: for speculative decoding.
        found: by the preflight.
        address: where it listens.
        access: who may ask.
        command: vLLM's command line.
        environment: vLLM's environment.
        drain_s: seconds that requests under way get at the end.
    """

    model: Artefact
    served_name: str
    draft: Draft | None
    found: Preflight
    address: Address
    access: Access
    command: tuple[str, ...]
    environment: Mapping[str, str]
    drain_s: int

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` says of it before it runs; no key is in it."""
        return {
            "model": self.model.name,
            "served_model_name": self.served_name,
            "draft": self.draft.artefact.name if self.draft else None,
            "preflight": self.found.to_json(),
            "command": list(self.command),
        }

    def server(self, echo: Callable[[str], None] | None) -> Callable[[], ServerProcess]:
        """What starts it; each line of its output goes to ``echo``."""
        return lambda: ServerProcess(self.command, self.environment, echo)


def prepare(asked: Asked) -> Session:
    """Checks all that can be checked before vLLM starts, what costs least first.

    Raises:
        UsageError: options that can't be met anywhere.
        IntegrityError: MODEL or the draft is damaged.
        EnvironmentProblem: this machine can't meet them.
    """
    flags = VllmFlags(asked.vllm_flags)
    tls = "ssl-certfile" in flags
    who = access(asked.host, asked.api_key_file, asked.environ, quiet=asked.quiet)
    model = read_artefact(*asked.model)
    draft = Draft(read_artefact(*asked.draft), asked.draft_tokens) if asked.draft else None
    vllm = installed_vllm()
    platform = platform_of(asked.device, vllm)
    environ = {**asked.environ, **_narrowed(asked)}
    address = (
        Address(asked.host, asked.port, tls)
        if asked.dry_run
        else claim(asked.host, asked.port, tls=tls)
    )
    wishes = Wishes(
        asked.tensor_parallel,
        asked.max_model_len,
        asked.gpu_memory_utilization,
        asked.dtype,
        flags,
    )
    drafting = draft.artefact if draft else None
    found = preflight(model, drafting, wishes, platform, vllm, environ)
    if not asked.dry_run:
        require_vllm(vllm, "slimgpt serve")
    elif vllm is None:
        found = replace(found, notes=("vLLM is not installed here", *found.notes))
    return Session(
        model=model,
        served_name=flags.value("served-model-name") or model.served_name,
        draft=draft,
        found=found,
        address=address,
        access=who,
        command=tuple(command(model, draft, wishes, found, address, who, seed=asked.seed)),
        environment=environment(model, wishes, found, who, environ),
        drain_s=flags.number("shutdown-timeout", DRAIN_S),
    )


def _narrowed(asked: Asked) -> dict[str, str]:
    """``--device cuda:1`` for vLLM, which takes the first devices that it sees."""
    if ":" in asked.device and asked.tensor_parallel > 1:
        raise UsageError(
            f"--device {asked.device} is one GPU, and --tensor-parallel {asked.tensor_parallel} "
            "takes several: choose them with CUDA_VISIBLE_DEVICES and give --device cuda"
        )
    return visible(asked.device, asked.environ)
