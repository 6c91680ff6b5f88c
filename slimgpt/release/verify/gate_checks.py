"""The gates that a manifest records, held against the numbers that it records."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any

from pydantic import ValidationError

from slimgpt.errors import IntegrityError
from slimgpt.release.card.markdown import plain
from slimgpt.release.gates import ACCURACY, SPEEDUP, GateResult, evaluate_gates
from slimgpt.release.recipe.sections import Gates
from slimgpt.release.verify.checks import Check, attempt
from slimgpt.release.verify.compare import DEFAULT_CONFIDENCE
from slimgpt.release.verify.schema import GateClaim, Manifest
from slimgpt.shape import ModelShape

_ROUNDED = 1e-3
"""Numbers of a manifest have five digits, and a ratio of two of them is less exact."""
_OF_SIZE = ("weight_bytes", "kv_bytes")


def check_gates(manifest: Manifest, model: ModelShape, source: ModelShape | None) -> list[Check]:
    """Each recorded verdict follows from what was measured; none without gates.

    Args:
        manifest: its gates and its quality.
        model: shape of the checkpoint.
        source: of the dense model; None leaves gates of size out.
    """
    if not manifest.gates and "gates" not in manifest.recipe:
        return []

    def look() -> str:
        _require_asked(manifest)
        expected = _again(manifest, model, source)
        for gate in manifest.gates:
            if gate.name == SPEEDUP:
                _require_no_time(gate)
            elif source is not None or gate.name not in _OF_SIZE:
                _compare(gate, expected.get(gate.name))
        missed = [plain(gate.name) for gate in manifest.gates if not gate.passed]
        timed = any(gate.name == SPEEDUP for gate in manifest.gates)
        untold = "; speedup is not checked, its times are in the report of the run" if timed else ""
        return f"{len(manifest.gates)} recorded, missed: {', '.join(missed) or 'none'}{untold}"

    return [attempt("gates", look)]


def _require_asked(manifest: Manifest) -> None:
    """The recorded gates are those of the recorded recipe, with its limits.

    Raises:
        IntegrityError: naming those that differ.
    """
    asked = manifest.recipe.get("gates")
    if asked is None:
        return
    if not isinstance(asked, dict):
        raise IntegrityError("the recipe's gates are no section")
    wanted = {k: _limit(k, v) for k, v in asked.items()}
    wanted = {name: limit for name, limit in wanted.items() if limit is not None}
    recorded = [(gate.name.partition("[")[0], gate.limit) for gate in manifest.gates]
    same = all(wanted.get(name) == limit for name, limit in recorded)
    if not same or {name for name, _ in recorded} != wanted.keys():
        raise IntegrityError("the gates recorded are not those of the recipe, or not its limits")


def _limit(name: str, asked: Any) -> Any:
    if not isinstance(asked, dict):
        return asked
    return asked.get("at_least" if name == SPEEDUP else "ratio")


def _require_no_time(gate: GateClaim) -> None:
    """Refuses a time where slimgpt writes none: nothing here can tell whether it is true.

    Raises:
        IntegrityError: naming the gate.
    """
    if gate.measured is not None or gate.margin is not None:
        raise IntegrityError(
            f"{SPEEDUP} is recorded with a number, and a release of slimgpt has no times"
        )


def _again(
    manifest: Manifest, model: ModelShape, source: ModelShape | None
) -> Mapping[str, GateResult]:
    """The gates by name, from the recorded limits and numbers."""
    quality = manifest.quality.model_dump()
    limits: dict[str, Any] = {g.name.partition("[")[0]: g.limit for g in manifest.gates}
    if limits.pop(SPEEDUP, None) is not None and not limits:
        return {}
    if ACCURACY in limits:
        confidence = (quality["accuracy"] or {}).get("confidence", DEFAULT_CONFIDENCE)
        limits[ACCURACY] = {"ratio": limits[ACCURACY], "confidence": confidence}
    try:
        gates = Gates.model_validate(limits)
    except ValidationError:
        raise IntegrityError(
            f"{', '.join(map(plain, limits))}: slimgpt has no such gates"
        ) from None
    # Both sizes are ratios, in which the bytes of a value cancel out.
    results = evaluate_gates(gates, quality, source or model, model, bytes_per_value=1)
    return {result.name: result for result in results}


def _compare(gate: GateClaim, again: GateResult | None) -> None:
    """Refuses a verdict that the numbers don't give.

    Raises:
        IntegrityError: naming the gate.
    """
    if gate.measured is None or again is None or again.measured is None:
        if gate.passed or gate.measured is not None:
            raise IntegrityError(f"{plain(gate.name)} was not measured, and counts as such")
        return
    close = isclose(gate.measured, again.measured, rel_tol=_ROUNDED, abs_tol=_ROUNDED)
    at_the_limit = isclose(again.measured, gate.limit, rel_tol=_ROUNDED, abs_tol=_ROUNDED)
    if not close or (gate.passed != again.passed and not at_the_limit):
        raise IntegrityError(
            f"{plain(gate.name)} is recorded with {gate.measured:.5g} as "
            f"{'passed' if gate.passed else 'missed'}, but what was measured gives "
            f"{again.measured:.5g}, limit {gate.limit:.5g}"
        )
