"""The truth test of the load bench: what a server was made to do is what the bench says it did.

Times that are compared are about 0.1 s and more, so that the milliseconds by which a busy machine
wakes a process late are a small part of them. ``_close`` has the one tolerance.
"""

from __future__ import annotations

import heapq
import json
import statistics
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from slimgpt.progress import Silent
from slimgpt_bench.load.job import LoadResult, run_load
from slimgpt_bench.load.options import LoadOptions, Warmup
from tests.load_command import ATTEMPTS, calm
from tests.mock_openai import Truth, serving

RELATIVE, ABSOLUTE_S = 0.05, 0.005
"""5 %, and 5 ms for the way to the server and back through two processes on a busy machine."""
SERVER_LATE_S = 0.005
"""By which its tokens may go out late (95th percentile): beyond it the server is not the truth."""
TOKENS = 16

Records = list[dict[str, Any]]
Tell = Callable[[str, object], None]


def _close(found: float, injected: float) -> bool:
    return abs(found - injected) <= RELATIVE * injected + ABSOLUTE_S


def _run(truth: Truth, **options: Any) -> LoadResult:
    """A run; again where a busy machine kept server or client from running, as they say."""
    asked = LoadOptions(**{"prompt": "8", "output": str(TOKENS), "vocabulary": 100, **options})
    for _ in range(ATTEMPTS):
        with serving(truth) as url:
            found = calm(lambda: run_load(url, asked, Silent()))
            late_s: float = _asked(f"{url}/lateness")
        if late_s < SERVER_LATE_S:
            break
    return found


def _asked(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def _said(injected: float, found: float) -> str:
    return f"{injected * 1e3:.1f} -> {found * 1e3:.1f} ms (x{found / injected:.3f})"


@pytest.mark.slow
def test_times_that_were_injected_are_recovered(record_property: Tell) -> None:
    jitter = 0.018  # below the gap: tokens stay in order
    truth = Truth(ttft_s=0.15, gap_s=0.02, jitter_s=jitter)
    document = _run(truth, rates=(10.0,), requests=70).document
    assert document["valid"], document["problems"]
    level = document["levels"][0]
    injected = {
        "ttft_s": truth.ttft_s + jitter / 2,
        "e2e_s": truth.service_s(TOKENS) + jitter / 2,
        "tpot_s": truth.gap_s,
        "itl_s": truth.gap_s,
    }
    for name, value in injected.items():
        found = level[name]["median"]
        record_property("measured", f"{name} injected and recovered: {_said(value, found)}")
        assert _close(found, value)
    p95 = truth.ttft_s + 0.95 * jitter
    record_property("measured", f"ttft_s p95: {_said(p95, level['ttft_s']['p95'])}")
    assert _close(level["ttft_s"]["p95"], p95)
    # Tokens have a tighter bound than 5 ms: what all requests share cancels out.
    assert level["tpot_s"]["median"] == pytest.approx(truth.gap_s, rel=RELATIVE)


FAILURES = {
    "http_500": ("http_5xx", 0.06),
    "http_429": ("http_4xx", 0.05),
    "error_in_stream": ("error_in_stream", 0.06),
    "error_instead": ("error_in_stream", 0.05),
    "no_tokens": ("no_tokens", 0.06),
    "truncated": ("truncated", 0.06),
    "page": ("bad_response", 0.05),
}


def test_every_failure_is_found_and_stays_in_the_denominator(record_property: Tell) -> None:
    shares = {kind: share for kind, (_, share) in FAILURES.items()}
    truth = Truth(ttft_s=0.005, gap_s=0.001, failures=shares, seed=3)
    with serving(truth) as url:
        asked = LoadOptions(
            concurrency=(1,),
            requests=400,
            warmup=Warmup(0),
            prompt="8",
            output="4",
            vocabulary=100,
            accept_errors=0.9,
        )
        found = run_load(url, asked, Silent())
        _, _, *treated = _asked(f"{url}/truth")  # without the probe and the first, a warm-up
    classes = {None: None} | {kind: name for kind, (name, _) in FAILURES.items()}
    measured = [x for x in found.requests if x["phase"] == "measured"]
    assert [x["failure"] for x in measured] == [classes[x] for x in treated]
    level = found.document["levels"][0]
    injected = Counter(classes[x] for x in treated if x)
    record_property("measured", f"failures injected and recovered: {dict(injected)}")
    assert level["requests"] == {
        "sent": 400,
        "ok": 400 - injected.total(),
        "failed": dict(injected),
    }
    share = injected.total() / 400
    record_property("measured", f"error rate injected {sum(shares.values()):.2f}, found {share}")
    assert share == pytest.approx(sum(shares.values()), abs=0.08)


# -- queues -------------------------------------------------------------------------------------


def fifo(scheduled: Sequence[float], service_s: float, places: int) -> list[float]:
    """End to end times of requests that wait for one of so many places, first come first served."""
    free = [float("-inf")] * places
    found = []
    for came in scheduled:
        done = max(came, heapq.heappop(free)) + service_s
        heapq.heappush(free, done)
        found.append(done - came)
    return found


def _agrees(found: Sequence[float], injected: Sequence[float]) -> bool:
    """Request by request for nearly all, and on the whole."""
    pairs = list(zip(found, injected, strict=True))
    near = sum(_close(a, b) for a, b in pairs) / len(pairs)
    return near >= 0.9 and _close(statistics.fmean(found), statistics.fmean(injected))


def _expected(records: Records, service_s: float, places: int) -> tuple[Records, list[float]]:
    """Measured requests, and what the queue of all of them makes of each."""
    times = fifo([x["scheduled_s"] for x in records], service_s, places)
    pairs = [(x, t) for x, t in zip(records, times, strict=True) if x["phase"] == "measured"]
    return [x for x, _ in pairs], [t for _, t in pairs]


QUEUE: dict[str, Any] = {"rates": (5.0,), "duration_s": 7.0}


def _check_queue(result: LoadResult, service_s: float, places: int, record_property: Tell) -> None:
    assert result.document["valid"], result.document["problems"]
    measured, injected = _expected(result.requests, service_s, places)
    assert statistics.fmean(injected) > 1.2 * service_s, "there is a queue to be found"
    found = [x["e2e_s"] for x in measured]
    mean, truth = statistics.fmean(found), statistics.fmean(injected)
    worst = max(abs(a - b) for a, b in zip(found, injected, strict=True))
    record_property(
        "measured",
        f"queue for {places} places, service {service_s * 1e3:.0f} ms: mean e2e "
        f"{_said(truth, mean)} over {len(found)} requests, worst by {worst * 1e3:.1f} ms",
    )
    assert _agrees(found, injected)


@pytest.mark.slow
def test_a_queue_in_the_server_is_recovered_request_by_request(record_property: Tell) -> None:
    truth = Truth(ttft_s=0.15, gap_s=0.01, places=2)
    found = _run(truth, **QUEUE)
    _check_queue(found, truth.service_s(TOKENS), 2, record_property)


@pytest.mark.slow
def test_a_queue_behind_a_concurrency_cap_is_recovered(record_property: Tell) -> None:
    truth = Truth(ttft_s=0.15, gap_s=0.01)
    found = _run(truth, concurrency_cap=2, **QUEUE)
    service_s = truth.service_s(TOKENS)
    _check_queue(found, service_s, 2, record_property)
    measured, injected = _expected(found.requests, service_s, 2)
    hidden = [x["service_e2e_s"] for x in measured]
    record_property(
        "measured",
        f"from the actual send it would be {statistics.fmean(hidden) * 1e3:.0f} ms, and the queue "
        "hidden",
    )
    assert not _agrees(hidden, injected), "times from the actual send would pass this test"
    assert statistics.fmean(hidden) == pytest.approx(service_s, rel=RELATIVE)
