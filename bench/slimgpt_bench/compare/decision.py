"""What a comparison comes to: the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slimgpt.errors import GateMissed, Unresolved, UsageError
from slimgpt_bench.compare.ratios import HEADLINE, expected
from slimgpt_bench.intervals import FEWEST
from slimgpt_bench.latency import Cell

E2E = "e2e_s"


def require_required(speedup: float | None, quantity: str | None, rounds: int, first: Cell) -> None:
    """Refuses a ``--require-speedup`` that no ratio can be held against.

    Args:
        speedup: least ratio; None requires nothing.
        quantity: whose ratio that is; None is the default.
        rounds: that will be run.
        first: the cell that it is of.

    Raises:
        UsageError: not above 0, of a quantity that the cell has not, or of too few rounds.
    """
    if speedup is None:
        if quantity is not None:
            raise UsageError("--quantity says what --require-speedup is about: give both")
        return
    if not 0 < speedup < float("inf"):
        raise UsageError(
            f"--require-speedup {speedup:g}: give a ratio above 0, like 1.2 for a fifth faster"
        )
    if rounds < FEWEST:
        raise UsageError(
            f"--require-speedup needs an interval, and --rounds {rounds} gives none: give {FEWEST} "
            "or more"
        )
    if quantity == "tpot_s" and first.output_tokens == 1:
        raise UsageError(
            "--quantity tpot_s: a single token has no time per output token: give an --output of "
            "2 or more"
        )


def decide(
    document: Mapping[str, Any], *, speedup: float | None = None, quantity: str = E2E
) -> None:
    """Passes if the comparison tells something, and what was required.

    Args:
        document: of a comparison, already printed and kept.
        speedup: least ratio that the interval's lower end must reach; None requires nothing.
        quantity: whose ratio that is, of the first cell.

    Raises:
        Unresolved: trials failed, or the headline can't be told from no difference.
        GateMissed: the required ratio was not shown.
    """
    if not document["valid"]:
        problem = Unresolved("; ".join(document["problems"]))
        problem.problems = tuple(document["problems"])
        raise problem
    if speedup is not None:
        _require(document[quantity], speedup, quantity)
        return
    open_ones = [name for name in _headline(document) if document[name]["verdict"] == "unresolved"]
    if open_ones:
        told = ", ".join(f"{name} {words(document[name])}" for name in open_ones)
        raise Unresolved(
            f"unresolved: {told}: give more --rounds ({FEWEST} at least), more --trials, or a "
            "machine with less to do"
        )


def _headline(document: Mapping[str, Any]) -> Iterator[str]:
    first = document["cells"][0]
    cell = Cell(*(first[key] for key in ("batch", "prompt_tokens", "output_tokens")))
    yield from (name for name in HEADLINE if name in expected(cell))


def _require(ratio: Mapping[str, Any], speedup: float, quantity: str) -> None:
    interval = ratio["interval"]
    if isinstance(interval, str):
        raise Unresolved(
            f"--require-speedup {speedup:g}: {quantity} has no interval: give {FEWEST} --rounds or "
            "more"
        )
    low, high = interval
    if low >= speedup:
        return
    if ratio["verdict"] == "unresolved" and high >= speedup:
        raise Unresolved(
            f"--require-speedup {speedup:g}: {quantity} is unresolved, {words(ratio)}: give more "
            "--rounds, or a machine with less to do"
        )
    raise GateMissed(
        f"--require-speedup {speedup:g}: {quantity} is {words(ratio)}, and its lower end counts",
        measured=low,
        limit=speedup,
    )


def words(ratio: Mapping[str, Any]) -> str:
    """``1.31 (1.28 to 1.34)``."""
    value, interval = ratio["ratio"], ratio["interval"]
    if isinstance(value, str):
        return value
    ends = interval if isinstance(interval, str) else "{:.3f} to {:.3f}".format(*interval)
    return f"{value:.3f} ({ends})"
