"""From what was found to vLLM's command line and environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import slimgpt
from slimgpt.errors import EnvironmentProblem
from slimgpt_serve.build_info import environment as build_info
from slimgpt_serve.guard import VARIABLE
from slimgpt_serve.launcher.access import Access
from slimgpt_serve.launcher.address import Address
from slimgpt_serve.preflight.artefact import Artefact, artefact_digest
from slimgpt_serve.preflight.budget import KV_SPACE
from slimgpt_serve.preflight.check import Wishes
from slimgpt_serve.preflight.findings import Preflight
from slimgpt_serve.preflight.installed import ALONE
from slimgpt_serve.preflight.machine import cpu_binding
from slimgpt_serve.preflight.speculative import speculative_config

DRAIN_S = 30
"""Seconds that requests under way get when the server is told to stop."""

_BINDING = "VLLM_CPU_OMP_THREADS_BIND"


@dataclass(frozen=True, slots=True)
class Draft:
    """A model that drafts.

    Attributes:
        artefact: the model.
        tokens: that it drafts at a time.
    """

    artefact: Artefact
    tokens: int


def command(
    model: Artefact,
    draft: Draft | None,
    wishes: Wishes,
    found: Preflight,
    address: Address,
    access: Access,
    *,
    seed: int,
) -> list[str]:
    """vLLM's command line: flags of 0.26 to 0.33, the user's own behind ours, so that they win."""
    # -P: a folder named vllm or serve in the working directory is not what is meant.
    line = [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "serve"]
    line += [str(model.directory.resolve()), "--served-model-name", model.served_name]
    line += ["--host", address.host.strip("[]"), "--port", str(address.port)]
    line += ["--dtype", found.dtype, "--seed", str(seed)]
    line += ["--max-model-len", "auto" if found.vllm_decides else str(found.context)]
    line += ["--tensor-parallel-size", str(found.degree)]
    line += ["--gpu-memory-utilization", str(wishes.utilization)]
    line += ["--shutdown-timeout", str(DRAIN_S)]
    if found.architecture:
        line += ["--hf-overrides", json.dumps({"architectures": [found.architecture]})]
    if access.key:
        line += ["--middleware", "slimgpt_serve.guard.RequireKey"]
    if draft:
        config = speculative_config(draft.artefact, draft.tokens, found.degree)
        line += ["--speculative-config", config]
    return [*line, *wishes.flags.words]


def environment(
    model: Artefact,
    wishes: Wishes,
    found: Preflight,
    access: Access,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """The server's environment: this one, the key, what /metrics tells, and no telemetry.

    A local directory is all that is served, so the hub is not asked. What the user set stays.

    Raises:
        EnvironmentProblem: vLLM is told to leave our plugin out.
    """
    plugins = environ.get("VLLM_PLUGINS")
    if plugins is not None and "slimgpt" not in plugins.split(","):
        raise EnvironmentProblem(
            f"VLLM_PLUGINS={plugins} leaves slimgpt out, which vLLM needs for pruned models: add "
            "it, or unset the variable"
        )
    out = ALONE | {"PYTHONUNBUFFERED": "1"} | dict(environ)
    out.pop(VARIABLE, None)
    if access.key:
        out[VARIABLE] = access.key
    if found.budget.kv_space is not None:
        out[KV_SPACE] = str(found.budget.kv_space)
    elif wishes.kv_bytes is not None:  # vLLM would prefer the variable to its own flag
        out.pop(KV_SPACE, None)
    if found.platform == "cpu" and _BINDING not in out:
        binding = cpu_binding(found.ranks)
        out |= {_BINDING: binding} if binding else {}
    digest = artefact_digest(model.directory)
    return out | build_info(slimgpt.__version__, model.served_name, digest)
