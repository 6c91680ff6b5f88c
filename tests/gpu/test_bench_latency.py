"""Latency and memory on a GPU: the two clocks agree, and kinds of memory are in order."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from slimgpt.demo import MODEL
from slimgpt_bench.artefact import describe
from slimgpt_bench.latency.cells import Cell, LatencyOptions, prompts_of
from slimgpt_bench.latency.memory import measure_memory
from slimgpt_bench.latency.process import Worker

pytestmark = pytest.mark.gpu

CELL = Cell(batch=4, prompt_tokens=128, output_tokens=32)
OPTIONS = LatencyOptions("transformers", (CELL,), trials=10, device="cuda")


def test_cuda_events_and_the_host_see_the_same_time(record_property):
    """From the hand-over to the last token, with nothing left on the GPU at either end."""
    from slimgpt_bench.latency.transformers_engine import TransformersEngine

    engine = TransformersEngine(MODEL, OPTIONS)
    prompts = prompts_of(CELL, describe(MODEL).shape.vocab_size, 0)
    engine.prepare(CELL)
    assert engine.finite(prompts, CELL.output_tokens)
    events, host = [], []
    for _ in range(10):
        started = time.perf_counter()
        times = engine.time(prompts, CELL.output_tokens)
        host.append(time.perf_counter() - started)
        events.append(times.e2e_s)
        assert list(times.token_s) == sorted(times.token_s)
        assert 0 < times.prefill_s <= times.ttft_s
    ratio = statistics.median(events) / statistics.median(host)
    record_property("measured", f"events / host {ratio:.4f}")
    assert ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kinds_of_memory_are_in_order(dtype, record_property):
    options = LatencyOptions("transformers", (CELL,), device="cuda", dtype=dtype)
    artefact = describe(MODEL)
    found = measure_memory(MODEL, options, file_bytes=artefact.weight_bytes)
    weights = found["weights"]["resident_bytes"]
    allocated, reserved = (
        found["allocator"][f"peak_{kind}_bytes"] for kind in ("allocated", "reserved")
    )
    used, total = found["device"]["used_bytes"], found["device"]["total_bytes"]
    record_property("measured", f"{weights} <= {allocated} <= {reserved} <= {used} <= {total}")
    assert weights <= allocated <= reserved <= used <= total
    value_bytes = {"float32": 4, "bfloat16": 2}[dtype]
    kv = found["kv"]
    assert kv["measured_bytes_per_token"] == artefact.shape.kv_bytes_per_token(value_bytes)
    assert 0 < kv["token_capacity"] * kv["bytes_per_token"] < total


@pytest.mark.slow
def test_a_compiled_model_is_measured(tmp_path: Path) -> None:
    options = LatencyOptions("transformers", (CELL,), trials=3, device="cuda", compiled=True)
    with Worker(MODEL, options) as worker:
        assert worker.describe()["compiled"]
        assert len(worker.measure(CELL).times) == 3
