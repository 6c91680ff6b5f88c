"""The bench's own acceptance: known sleeps and known allocations come back as they were put in."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from slimgpt.errors import EnvironmentProblem, IntegrityError
from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.document import cell_document
from slimgpt_bench.latency.memory import measure_memory
from slimgpt_bench.latency.process import Worker
from slimgpt_bench.latency.trials import Trials
from slimgpt_serve.launcher.server import session_members
from tests.known_engine import NAME, VOCABULARY, environment, write_known

MIB = 2**20
CELL = Cell(batch=2, prompt_tokens=3, output_tokens=5)
LATE_S = 0.004
"""A sleep never ends early; on a machine that does something else it ends a little late."""
SLACK = 8 * MIB
"""What Python itself takes and gives back meanwhile."""


def options(**changed: Any) -> LatencyOptions:
    return LatencyOptions(NAME, (CELL,), **({"trials": 5, "warmup": 1} | changed))


def worker(directory: Path, **changed: Any) -> Worker:
    return Worker(directory, options(**changed), vocabulary=VOCABULARY, environ=environment())


def run(directory: Path, **changed: Any) -> Trials:
    with worker(directory, **changed) as found:
        return found.measure(CELL)


def test_known_sleeps_are_recovered(tmp_path, record_property):
    known = write_known(tmp_path / "known", prefill_s=0.06, step_s=0.02)
    runs = [run(known) for _ in range(3)]
    cell = cell_document(CELL, runs)
    injected = {"prefill_s": 0.06, "ttft_s": 0.06, "tpot_s": 0.02, "itl_s": 0.02, "e2e_s": 0.14}
    told = []
    for name, seconds in injected.items():
        found, sleeps = cell[name]["median"], 5 if name == "e2e_s" else 1
        assert seconds <= found <= seconds + sleeps * LATE_S, name
        told.append(f"{name} {seconds} -> {found:.4f}")
    record_property("measured", ", ".join(told))
    # Tokens of both sequences, a step's sleep apart.
    assert cell["decode_tokens_per_s"]["median"] == pytest.approx(2 / cell["tpot_s"]["median"])
    assert cell["requests"] == {"sent": 30, "ok": 30, "failed": {}}
    assert [run.cell for run in runs] == [CELL] * 3


def test_a_slowdown_during_a_run_is_a_problem(tmp_path):
    known = write_known(tmp_path / "known", prefill_s=0.01, step_s=0.01, slower=0.08)
    runs = [run(known, trials=6) for _ in range(3)]
    cell = cell_document(CELL, runs)
    assert not cell["valid"]
    assert any("not steady" in text for text in cell["problems"]), cell["problems"]
    assert cell["steady"]["within_runs"]["change"] > 0.2


@pytest.mark.parametrize("kind", ["bytearray", "tensor"])
def test_a_known_allocation_is_in_pss_and_in_the_high_water_mark(tmp_path, kind, record_property):
    size, released = 96 * MIB, 160 * MIB
    known = {"held_as": kind, "held_bytes": size, "released_bytes": released}
    found = memory(write_known(tmp_path / "known", **known))
    without = memory(write_known(tmp_path / "without", held_as=kind, held_bytes=0))
    process, base = found["process"], without["process"]
    # Libraries of torch are shared with whatever else runs here, so of PSS only what no file is
    # behind is this process's alone.
    held = process["anonymous_bytes"] - base["anonymous_bytes"]
    peak = process["high_water_bytes"] - base["high_water_bytes"]
    record_property("measured", f"{kind}: held {held / MIB:.1f}, peak {peak / MIB:.1f} MiB")
    # What was given back stands in the mark, and not in what is held.
    assert held == pytest.approx(size, abs=SLACK)
    assert peak == pytest.approx(size + released, abs=SLACK)
    loading = process["loading"]["high_water_bytes"] - base["loading"]["high_water_bytes"]
    assert loading == pytest.approx(size, abs=SLACK)
    assert process["anonymous_bytes"] <= process["pss_bytes"]
    resident = (x["weights"]["resident_bytes"] for x in (found, without))
    assert next(resident) - next(resident) == pytest.approx(size, abs=SLACK)
    if kind == "bytearray":
        assert process["pss_bytes"] - base["pss_bytes"] == pytest.approx(size, abs=SLACK)


def memory(directory: Path) -> dict[str, Any]:
    return measure_memory(
        directory, options(), file_bytes=1, vocabulary=VOCABULARY, environ=environment()
    )


def test_a_warmup_has_a_floor_and_a_cap_and_is_not_counted(tmp_path):
    known = write_known(tmp_path / "known", prefill_s=0.01)
    found = run(known, warmup=2, trials=3)
    assert 2 <= len(found.warmup_s) <= 6
    assert len(found.times) == 3


def test_logits_that_are_no_numbers_fail_every_request(tmp_path):
    found = [run(write_known(tmp_path / str(i), fault="nan")) for i in range(3)]
    cell = cell_document(CELL, found)
    assert cell["requests"] == {"sent": 30, "ok": 0, "failed": {"logits not finite": 30}}
    assert (cell["valid"], cell["e2e_s"]["median"]) == (False, "insufficient")
    assert "30 of 30 failed: 30 by logits not finite" in cell["problems"][0]
    assert cell["goodput_rps"] == 0


@pytest.mark.parametrize("fault", ["nan late", "short"])
@pytest.mark.parametrize("warmup", [0, 1])
def test_trials_without_times_fail_every_request(tmp_path, fault, warmup):
    """Also where the warm-up finds it: nothing in the document is NaN, and none counts as sent."""
    found = run(write_known(tmp_path / "known", fault=fault), warmup=warmup)
    cell = cell_document(CELL, [found])
    assert cell["requests"] == {"sent": 10, "ok": 0, "failed": {"no times": 10}}
    assert not cell["valid"]
    json.dumps(cell, allow_nan=False)


def test_a_worker_hands_its_refusal_on_as_what_it_is(tmp_path):
    known = write_known(tmp_path / "known", fault="damaged")
    with pytest.raises(IntegrityError, match="the model is damaged"):
        run(known)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("killed", "was killed: by the system for want of memory, most likely; give a smaller"),
        ("memory", "the memory is not enough: give a smaller --batch, --prompt or --output"),
        ("broken", "died: ValueError: the engine is broken"),
    ],
)
def test_a_worker_that_ends_says_why_in_one_line(tmp_path, fault, says):
    known = write_known(tmp_path / "known", fault=fault)
    with pytest.raises(EnvironmentProblem) as problem:
        run(known)
    assert says in str(problem.value)
    assert "\n" not in str(problem.value)


def test_workers_are_processes_of_their_own_and_end(tmp_path):
    known = write_known(tmp_path / "known")
    pids = []
    for _ in range(2):
        with worker(known) as one:
            one.describe()
            pids.append(one.pid)
            assert Path(f"/proc/{one.pid}").exists()
        assert not Path(f"/proc/{one.pid}").exists()
    assert len(set(pids)) == 2


_ASKS = """
import sys
from pathlib import Path
from tests.integration.test_bench_tracker import CELL, worker
with worker(Path(sys.argv[1])) as one:
    one.describe()
    print(one.pid, flush=True)
    one.measure(CELL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a killed parent ends nothing elsewhere")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_a_command_ends_its_worker(tmp_path, number):
    known = write_known(tmp_path / "known", prefill_s=60)
    command = [sys.executable, "-c", _ASKS, str(known)]
    # A job in the background of a shell ignores Ctrl-C, and what it starts does too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asker = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with asker:
        assert asker.stdout
        busy = int(asker.stdout.readline())
        assert session_members(busy) == [busy]
        asker.send_signal(number)
        assert asker.wait(10) != 0
    ended_by = time.monotonic() + 5
    while session_members(busy) and time.monotonic() < ended_by:
        time.sleep(0.02)
    assert session_members(busy) == []


def test_times_are_of_the_trials_alone(tmp_path):
    """What a process does before its first trial, imports and loading, is in no time."""
    found = run(write_known(tmp_path / "known", prefill_s=0.002))
    assert statistics.median(found.of("e2e_s")) < 0.1
