"""transformers, timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from slimgpt.modeling import ARCHITECTURES
from slimgpt.resources import resolve_device
from slimgpt_bench.decoders import Length, TorchDecoder
from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.clocks import Clock, CudaClock, HostClock, finite, timed
from slimgpt_bench.latency.kv_memory import kv_document
from slimgpt_bench.latency.torch_memory import (
    allocator,
    device_memory,
    free_bytes,
    module_bytes,
)
from slimgpt_bench.latency.trials import Times

assert ARCHITECTURES  # imported: their code is part of the baseline, as other libraries are


class TransformersEngine:
    """A checkpoint in transformers, greedily, with its cache."""

    def __init__(self, directory: Path, options: LatencyOptions) -> None:
        if options.threads:
            torch.set_num_threads(options.threads)
        self._compiled = bool(options.compiled)
        self._free_bytes = free_bytes(resolve_device(options.device))
        self._decoder = TorchDecoder(
            directory, device=options.device, dtype=options.dtype, compiled=self._compiled
        )
        self._device: torch.device = self._decoder.model.device
        self._clock: Clock = CudaClock(self._device) if self._is_cuda else HostClock()

    @property
    def _is_cuda(self) -> bool:
        return self._device.type == "cuda"

    def describe(self) -> dict[str, Any]:
        model = self._decoder.model
        return {
            "engine": "transformers",
            "version": transformers.__version__,
            "torch": torch.__version__,
            "device": str(self._device),
            "device_name": torch.cuda.get_device_name(self._device) if self._is_cuda else None,
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
            "compiled": self._compiled,
            "threads": torch.get_num_threads(),
            "clock": "CUDA events" if self._is_cuda else "perf_counter",
            "prefill": "the whole batch at once",
        }

    def prepare(self, cell: Cell) -> None:
        self._cell = cell
        self._decoder.prepare(Length(cell.prompt_tokens, cell.output_tokens), cell.batch)

    def finite(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> bool:
        return finite(self._decoder, prompts, output_tokens)

    def time(self, prompts: Sequence[Sequence[int]], output_tokens: int) -> Times:
        return timed(self._decoder, self._clock, prompts, output_tokens)

    def memory(self) -> dict[str, Any]:
        weights = module_bytes(self._decoder.model)
        meta, value_bytes = self._decoder.meta, self._decoder.model.dtype.itemsize
        return {
            "weights": {"resident_bytes": weights, "resident_source": "tensors of the model"},
            "kv": kv_document(
                exact=meta.shape.kv_bytes_per_token(value_bytes),
                measured=self._measured_kv(),
                free_bytes=self._free_bytes,
                weight_bytes=weights,
                dtype=str(self._decoder.model.dtype).removeprefix("torch."),
            ),
            "allocator": allocator(self._device),
            "device": device_memory(self._device),
        }

    def _measured_kv(self) -> float | None:
        """Bytes of the cache's tensors for each token that they hold or, compiled, can hold."""
        cache = self._decoder.cache
        tensors = [
            tensor
            for layer in (cache.layers if cache else ())
            for tensor in (layer.keys, layer.values)
            if tensor is not None
        ]
        if not tensors:
            return None
        held = self._cell.context if self._compiled else self._decoder.seen
        held_bytes: int = sum(tensor.nbytes for tensor in tensors)
        return held_bytes / (held * self._cell.batch)
