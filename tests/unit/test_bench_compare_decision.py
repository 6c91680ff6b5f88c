"""What a comparison comes to: a verdict, or an exit code and its reason."""

from __future__ import annotations

from typing import Any

import pytest

from slimgpt.errors import GateMissed, SlimGPTError, Unresolved, UsageError
from slimgpt_bench.compare.decision import decide, require_required
from slimgpt_bench.compare.ratios import expected
from slimgpt_bench.latency import Cell, LatencyOptions

CELL = Cell(1, 8, 4)
OPTIONS = LatencyOptions("transformers", (CELL,), device="cpu")


def document(
    verdict: str, interval: Any = (1.1, 1.3), *, valid: bool = True, output: int = 4
) -> dict[str, Any]:
    ratio = {"ratio": 1.2, "interval": list(interval) if interval else "insufficient"}
    told = {name: ratio | {"verdict": verdict} for name in ("ttft_s", "tpot_s", "e2e_s")}
    if output == 1:
        told["tpot_s"] |= {"ratio": "insufficient", "verdict": "unresolved"}
    cell = {"batch": 1, "prompt_tokens": 8, "output_tokens": output}
    return {"valid": valid, "problems": ["3 of 4 failed", "x"], "cells": [cell], **told}


@pytest.mark.parametrize("verdict", ["faster", "slower", "no difference"])
def test_a_resolved_verdict_passes(verdict: str) -> None:
    decide(document(verdict))


def test_an_unresolved_headline_ends_in_3() -> None:
    with pytest.raises(Unresolved) as found:
        decide(document("unresolved", (0.9, 1.5)))
    assert str(found.value).startswith("unresolved: ttft_s 1.200 (0.900 to 1.500), tpot_s 1.200")
    assert "give more --rounds (3 at least), more --trials" in str(found.value)


def test_a_single_token_has_no_time_per_token_to_resolve() -> None:
    decide(document("faster", output=1))
    assert expected(Cell(1, 8, 1)) == ("ttft_s", "e2e_s")


def test_failed_trials_end_in_3_with_every_problem() -> None:
    with pytest.raises(Unresolved) as found:
        decide(document("faster", valid=False), speedup=1.0)
    assert found.value.problems == ("3 of 4 failed", "x")


@pytest.mark.parametrize(
    ("verdict", "interval", "limit", "error"),
    [
        ("faster", (1.2, 1.3), 1.2, None),
        ("faster", (1.19, 1.3), 1.2, GateMissed),
        ("faster", (1.01, 1.1), 1.2, GateMissed),
        ("slower", (0.8, 0.9), 1.2, GateMissed),
        ("no difference", (0.99, 1.01), 1.2, GateMissed),
        ("unresolved", (0.9, 1.3), 1.2, Unresolved),
        ("unresolved", (0.9, 1.1), 1.2, GateMissed),
        ("unresolved", (0.97, 1.1), 0.95, None),
        ("unresolved", None, 0.5, Unresolved),
    ],
)
def test_a_required_speedup_is_held_against_the_lower_end(
    verdict: str, interval: Any, limit: float, error: type[SlimGPTError] | None
) -> None:
    told = document(verdict, interval)
    if error is None:
        decide(told, speedup=limit)
        return
    with pytest.raises(error) as found:
        decide(told, speedup=limit)
    assert str(found.value).startswith(f"--require-speedup {limit:g}: e2e_s")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(
            ((speedup, None, 4, CELL), "give a ratio above 0, like 1.2 for a fifth faster")
            for speedup in (0.0, -1.0, float("nan"), float("inf"))
        ),
        ((1.2, None, 2, CELL), "and --rounds 2 gives none: give 3 or more"),
        ((1.2, "tpot_s", 4, Cell(1, 8, 1)), "a single token has no time per output token"),
        ((None, "tpot_s", 4, CELL), "--quantity says what --require-speedup is about: give both"),
    ],
)
def test_a_speedup_that_no_ratio_can_show_is_refused(given: Any, said: str) -> None:
    with pytest.raises(UsageError) as found:
        require_required(*given)
    assert said in str(found.value)


def test_a_speedup_that_can_be_shown_is_not_refused() -> None:
    require_required(None, None, 1, CELL)
    require_required(1.2, "e2e_s", 3, Cell(1, 8, 1))
