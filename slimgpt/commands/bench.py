"""``slimgpt bench``: the measurements, each in a module that is imported when it is called."""

from __future__ import annotations

import signal
import threading

import click

from slimgpt.commands.lazy import LazyGroup


@click.group(
    cls=LazyGroup,
    verbs={
        "latency": "slimgpt.commands.bench_latency:latency",
        "load": "slimgpt.commands.bench_load:load",
        "compare": "slimgpt.commands.bench_compare:compare",
        "quality": "slimgpt.commands.bench_quality:quality",
        "draft": "slimgpt.commands.bench_draft:draft",
    },
    summaries={
        "latency": "How fast the model alone is, and what memory it takes.",
        "load": "How a server does under load: open loop, closed loop, sweep, SLO search.",
        "compare": "Is the pruned model faster than the dense one, by how much, how sure.",
        "quality": "Perplexity and KL of several models beside the dense one.",
        "draft": "Speculative decoding with vLLM, drafted by a pruned model.",
    },
)
def bench() -> None:
    """Measure models: speed, memory, load, quality."""
    # As Ctrl-C, so that processes and temporary models go; whoever handles it already knows better.
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
