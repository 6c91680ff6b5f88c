"""vLLM, timed: its engine in this process, stepped by us, so that every token's time is exact."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimgpt_bench.engine_process import Served
from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.trials import Times
from slimgpt_bench.room import engine_need
from slimgpt_serve.preflight.artefact import Artefact, read_artefact
from slimgpt_serve.preflight.installed import installed_vllm, platform_of, require_vllm
from slimgpt_serve.preflight.limits import own_class, require_servable
from slimgpt_serve.preflight.memory import GIB

_STEP = 2048
_SHARE = 0.9
"""Of a GPU's memory, vLLM's own default: weights and KV cache share it."""

_FOUND = require_vllm(installed_vllm(), "--engine vllm")
Served.load()  # the package, so that what it takes is not counted as the model's


class VllmEngine:
    """A checkpoint in vLLM, greedily, without prefix caching; a batch is read in one step."""

    def __init__(self, directory: Path, options: LatencyOptions) -> None:
        model = read_artefact(directory.name, directory)
        require_servable(model.name, model.meta, _FOUND.release)
        self._model, self._options = model, options
        self._platform = platform_of(options.device, _FOUND)
        on_cpu = self._platform == "cpu"
        self._dtype = options.dtype
        if self._dtype == "auto":
            self._dtype = "float32" if on_cpu else model.meta.dtype
        eager = on_cpu if options.compiled is None else not options.compiled
        self._eager = eager
        self._served = Served(self._wishes(model))

    def _wishes(self, model: Artefact) -> dict[str, Any]:
        """Options of vLLM's ``LLM``."""
        options = self._options
        out: dict[str, Any] = {
            "model": str(model.directory),
            "dtype": self._dtype,
            "seed": options.seed,
            "max_model_len": options.context,
            "max_num_seqs": options.batch,
            "max_num_batched_tokens": max(_STEP, options.step_tokens),
            "enable_prefix_caching": False,  # every trial reads its prompts anew
            "disable_log_stats": True,
            "enforce_eager": self._eager,
            "distributed_executor_backend": "uni",
            "skip_tokenizer_init": True,
            **self._memory_wishes(model),
        }
        architecture = own_class(model.meta, self._platform)
        if architecture:
            out["hf_overrides"] = {"architectures": [architecture]}
        return out

    def _memory_wishes(self, model: Artefact) -> dict[str, Any]:
        """A GPU is filled as a server fills it; a machine's memory is shared with others."""
        if self._platform == "cuda":
            return {"gpu_memory_utilization": _SHARE}
        need = engine_need(
            [model.shape],
            self._platform,
            self._dtype,
            texts=self._options.batch,
            context=self._options.context,
            step_tokens=max(_STEP, self._options.step_tokens),
        )
        # Of no effect beside the size in bytes, but for a check of what is free.
        return {"gpu_memory_utilization": 0.01, "kv_cache_memory_bytes": max(GIB, need.kv_bytes)}

    def describe(self) -> dict[str, Any]:
        about = self._served.describe()
        return {
            "engine": "vllm",
            "version": about["vllm"],
            "torch": about["torch"],
            "device": self._platform,
            "device_name": about["device"] or None,
            "dtype": self._dtype,
            "compiled": not self._eager,
            "threads": about["threads"],
            "threads_bound": os.environ.get("VLLM_CPU_OMP_THREADS_BIND"),
            "clock": "perf_counter, as each step of the engine returns",
            "prefill": "the whole batch in one step, which chooses the first token too",
            "gpu_memory_utilization": _SHARE if self._platform == "cuda" else None,
            "block_tokens": about["block_tokens"],
        }

    def prepare(self, cell: Cell) -> None:
        """Nothing: the engine was made for the largest of all cells."""

    def finite(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> bool:
        return self._served.finite(prompts, output_tokens)

    def time(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> Times:
        rows = self._served.timed(prompts, output_tokens)
        token_s = tuple(max(moments) for moments in zip(*rows, strict=False))
        # The engine chooses a token before it tells of the prompt.
        return Times(token_s[0], token_s)

    def memory(self) -> dict[str, Any]:
        from slimgpt_bench.latency.torch_memory import (
            allocator,
            device_memory,
            module_bytes,
            storage_bytes,
        )

        runner = self._served.worker().model_runner
        device, caches = runner.device, list(runner.kv_caches)
        kv_bytes, tokens = storage_bytes(caches), self._served.describe()["kv_tokens"]
        value_bytes = caches[0].dtype.itemsize
        return {
            "weights": _weights(module_bytes(runner.model), on_cpu=device.type == "cpu"),
            "kv": {
                "dtype": str(caches[0].dtype).removeprefix("torch."),
                "bytes_per_token": self._model.shape.kv_bytes_per_token(value_bytes),
                "measured_bytes_per_token": kv_bytes / tokens if tokens else None,
                "token_capacity": tokens,
                "token_capacity_source": "told by the engine",
                "reserved_bytes": kv_bytes,
            },
            "allocator": allocator(device),
            "device": device_memory(device),
        }


def _weights(tensors: int, *, on_cpu: bool) -> dict[str, Any]:
    if on_cpu:
        packed = "vLLM packs matrices for the CPU outside of torch's tensors"
        return {"resident_bytes": None, "reason": packed}
    return {"resident_bytes": tensors, "resident_source": "tensors of the model"}
