"""How much memory each device gives to the KV cache, after weights and activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.resources import human_bytes
from slimgpt_serve.preflight.machine import Device, free_memory_bytes
from slimgpt_serve.preflight.memory import GIB, Footprint

KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
"""GiB of KV cache of each rank on a CPU; without it vLLM takes most of the machine."""

_SHARE, _MOST_GIB = 0.4, 4
_WAYS_OUT = "serve a model that is pruned more or quantised"


@dataclass(frozen=True, slots=True)
class Budget:
    """What one device has.

    Attributes:
        memory_bytes: for everything; None where the system does not say.
        kv_bytes: for the KV cache.
        kv_space: to be put into the environment, where we choose the cache's size.
    """

    memory_bytes: int | None
    kv_bytes: int
    kv_space: int | None = None


def gpu_budget(
    devices: Sequence[Device], ranks: int, utilization: float, held: Footprint, kv: int | None
) -> Budget:
    """What each GPU has: vLLM takes a share of all its memory, in use or not.

    Args:
        devices: that vLLM sees.
        ranks: the first that many devices are used.
        utilization: that share, in (0, 1].
        held: on each.
        kv: bytes that the user gave the cache, which leaves the share out of account.

    Raises:
        EnvironmentProblem: there are too few GPUs, they are in use, or the model is too large.
    """
    if len(devices) < ranks:
        raise EnvironmentProblem(
            f"{ranks} GPUs are needed, and torch sees {len(devices)}: give a smaller "
            "--tensor-parallel, fewer pipeline stages, or use a machine that has them"
        )
    taken = int(min(device.total_bytes for device in devices[:ranks]) * utilization)
    free = min(device.free_bytes for device in devices[:ranks])
    if kv is None and free < taken:
        raise EnvironmentProblem(
            f"--gpu-memory-utilization {utilization:g} takes {human_bytes(taken)} of each GPU, and "
            f"on one {human_bytes(free)} are free: end what uses it, or give a smaller share"
        )
    memory = free if kv is not None else taken
    left = memory - held.weight_bytes - held.activation_bytes
    if left < (kv or 1):
        raise _too_large(held, kv or 0, memory, "a higher --tensor-parallel")
    return Budget(memory, kv if kv is not None else left)


def cpu_budget(
    environ: Mapping[str, str], ranks: int, held: Footprint, kv: int | None, wanted: int
) -> Budget:
    """What each rank has of the machine's memory, which all ranks share.

    The cache is as large as ``VLLM_CPU_KVCACHE_SPACE`` says; without it 40 % of what is free, from
    1 to 4 GiB, as far as the model leaves it, or more where the context that was asked for needs
    more.

    Args:
        environ: of this process.
        ranks: processes that share the memory.
        held: by each rank.
        kv: bytes that the user gave the cache by vLLM's flag.
        wanted: bytes that the context needs that the user asked for; 0 where none was.

    Raises:
        UsageError: the variable is no number.
        EnvironmentProblem: model and cache are larger than what is free.
    """
    free = free_memory_bytes()
    share = None if free is None else free // ranks
    fixed = held.weight_bytes + held.activation_bytes
    chosen, asked = None, "-- --kv-cache-memory-bytes"
    if kv is None:
        asked = KV_SPACE
        space = _given_space(environ)
        if space is None:
            space = chosen = _chosen_space(share, fixed, wanted)
        kv = space * GIB
    if share is not None and fixed + kv > share:
        raise _too_large(held, kv, share, "" if chosen else f"a smaller {asked}")
    return Budget(share, kv, chosen)


def _given_space(environ: Mapping[str, str]) -> int | None:
    given = environ.get(KV_SPACE)
    if not given:
        return None
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(f"{KV_SPACE}={given}: give whole GiB, at least 1, or unset it")
    return int(given)


def _chosen_space(share: int | None, fixed: int, wanted: int) -> int:
    if share is None:
        return _MOST_GIB
    room = (share - fixed) // GIB
    usual = max(1, min(_MOST_GIB, int(_SHARE * share / GIB), room))
    needed = -(-wanted // GIB)
    return needed if usual < needed <= room else usual


def _too_large(held: Footprint, kv: int, memory: int, instead: str) -> EnvironmentProblem:
    cache = f" and {human_bytes(kv)} of KV cache" if kv else ", which leaves no KV cache"
    ways = f"{_WAYS_OUT}, give {instead}" if instead else _WAYS_OUT
    return EnvironmentProblem(
        f"the model needs {human_bytes(held.weight_bytes)} of weights, about "
        f"{human_bytes(held.activation_bytes)} of activations{cache} on each device, and "
        f"{human_bytes(memory)} may be used: {ways}, or use a larger machine"
    )
