"""What is said of a cell: quantities with their intervals, requests, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from slimgpt_bench.intervals import FEWEST
from slimgpt_bench.latency.cells import Cell
from slimgpt_bench.latency.steady import steadiness
from slimgpt_bench.latency.trials import Trials
from slimgpt_bench.quantity import Quantity, of_runs

QUANTITIES = ("prefill_s", "ttft_s", "tpot_s", "itl_s", "e2e_s")


def cell_document(cell: Cell, runs: Sequence[Trials], *, seed: int = 0) -> dict[str, Any]:
    """The entry of ``cells`` in a result (INTERFACE.md).

    Args:
        cell: that was measured.
        runs: in the order in which they were made; each was a process of its own.
        seed: of the resampling.
    """
    requests = _requests(runs)
    problems = [f"{cell.name}: {text}" for text in _problems(runs, requests)]
    return {
        **cell.to_json(),
        **{name: quantity(runs, name, seed).to_json() for name in QUANTITIES},
        "decode_tokens_per_s": of_runs(_decode_speeds(cell, runs), seed=seed).to_json(),
        "steady": steadiness(runs).to_json(),
        "warmup": [list(run.warmup_s) for run in runs],
        "requests": requests,
        "goodput_rps": _goodput(runs),
        "valid": not problems,
        "problems": problems,
    }


def quantity(runs: Sequence[Trials], name: str, seed: int = 0) -> Quantity:
    """One quantity of a cell, in seconds.

    The gaps between the tokens of one trial are not independent of each other, so a percentile of
    gaps needs as many trials as one of whole trials.
    """
    trials = sum(len(run.times) for run in runs)
    return of_runs([run.of(name) for run in runs], seed=seed, units=trials)


def _decode_speeds(cell: Cell, runs: Sequence[Trials]) -> list[list[float]]:
    """Tokens a second after the first ones, of each trial."""
    return [[cell.batch / tpot for tpot in run.of("tpot_s") if tpot > 0] for run in runs]


def _requests(runs: Sequence[Trials]) -> dict[str, Any]:
    failed: Counter[str] = Counter()
    for run in runs:
        for reason, trials in run.failed.items():
            failed[reason] += trials * run.cell.batch
    sent = sum(run.sent for run in runs)
    return {"sent": sent, "ok": sent - failed.total(), "failed": dict(failed)}


def _goodput(runs: Sequence[Trials]) -> float:
    """Requests a second of the time that trials took; one batch at a time, no pause between."""
    seconds = sum(sum(run.of("e2e_s")) for run in runs)
    ok = sum(len(run.times) * run.cell.batch for run in runs)
    return ok / seconds if seconds else 0.0


def _problems(runs: Sequence[Trials], requests: dict[str, Any]) -> list[str]:
    found = []
    if requests["failed"]:
        told = ", ".join(f"{n} by {reason}" for reason, n in requests["failed"].items())
        found.append(f"{sum(requests['failed'].values())} of {requests['sent']} failed: {told}")
    timed = [run for run in runs if run.times]
    if not timed:
        found.append("nothing was timed")
    elif len(timed) < FEWEST:
        found.append(
            f"an interval needs {FEWEST} runs, and {len(timed)} gave times: give --runs {FEWEST} "
            "or more"
        )
    return found + steadiness(runs).problems()
