"""Memory as the kernel tells it, and the arithmetic of a KV cache."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from slimgpt_bench.latency.cells import Cell
from slimgpt_bench.latency.driver_memory import gpu_memory
from slimgpt_bench.latency.kv_memory import kv_document
from slimgpt_bench.latency.memory import largest
from slimgpt_bench.latency.process_memory import held

MIB = 2**20
SIZE = 64 * MIB
_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.readline()
child.kill()
"""
_CHILD = (
    f"x = bytearray({SIZE}); x[::4096] = b'x' * ({SIZE} // 4096); print(1, flush=True); input()"
)


def test_children_count_with_their_parent():
    command = [sys.executable, "-c", _PARENT, _CHILD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as parent:  # type: ignore[call-overload]
        child = int(parent.stdout.readline())
        both, one = held(parent.pid), held(child)
        parent.stdin.write("\n")
    assert (both.processes, one.processes) == (2, 1)
    assert both.pss_bytes is not None
    assert one.pss_bytes is not None
    assert one.high_water_bytes is not None
    assert both.pss_bytes > one.pss_bytes > SIZE
    assert one.high_water_bytes > SIZE


def test_memory_that_is_given_back_stays_in_the_high_water_mark():
    before = held(os.getpid())
    taken = bytearray(SIZE)
    taken[::4096] = b"x" * (SIZE // 4096)
    during = held(os.getpid())
    del taken
    after = held(os.getpid())
    assert before.anonymous_bytes is not None
    assert during.anonymous_bytes is not None
    assert after.anonymous_bytes is not None
    assert after.high_water_bytes is not None
    assert during.anonymous_bytes - before.anonymous_bytes == pytest.approx(SIZE, abs=4 * MIB)
    assert after.anonymous_bytes - before.anonymous_bytes == pytest.approx(0, abs=4 * MIB)
    assert after.high_water_bytes >= during.anonymous_bytes


def test_a_process_that_is_gone_holds_nothing_that_could_be_told():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert held(gone.pid).pss_bytes is None


@pytest.mark.parametrize(
    ("free", "weights", "capacity"),
    [(1000, 200, 80), (100, 200, 0), (None, 200, None), (1000, None, None)],
)
def test_token_capacity_is_what_weights_leave(free, weights, capacity):
    found = kv_document(
        exact=10, measured=10.0, free_bytes=free, weight_bytes=weights, dtype="float32"
    )
    assert found["token_capacity"] == capacity
    assert found["token_capacity_source"].startswith("modelled")


def test_a_model_without_attention_has_no_capacity_to_tell():
    found = kv_document(exact=0, measured=None, free_bytes=9, weight_bytes=1, dtype="float32")
    assert found["token_capacity"] is None


def test_a_gpu_that_nobody_can_ask_is_told_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = gpu_memory(0, {})
    assert found["used_bytes"] is None
    assert found["reason"] == "nvidia-smi does not tell: FileNotFoundError"


def test_memory_is_measured_in_the_cell_that_holds_most_tokens():
    cells = (Cell(8, 4, 4), Cell(1, 100, 20), Cell(4, 30, 10))
    assert largest(cells) == Cell(4, 30, 10)
