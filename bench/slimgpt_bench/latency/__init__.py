"""Latency and memory of a model on an engine, without a server around it."""

from __future__ import annotations

from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.document import cell_document
from slimgpt_bench.latency.memory import measure_memory
from slimgpt_bench.latency.process import Worker
from slimgpt_bench.latency.trials import Times, Trials

__all__ = ["Cell", "LatencyOptions", "Times", "Trials", "Worker", "cell_document", "measure_memory"]
