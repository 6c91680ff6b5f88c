"""Quality gates: what was measured against what the recipe demands.

A gate is met if its value was measured, is finite and is within the limit; nothing else passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isclose, isfinite, nan
from typing import Any

from slimgpt.errors import GateMissed
from slimgpt.release.recipe.sections import AccuracyGate, Evaluate, Gates, SpeedGate
from slimgpt.shape import ModelShape

ACCURACY, RECOVERY, SPEEDUP = "accuracy", "recovery", "speedup"
_AT_LEAST = (ACCURACY, SPEEDUP)
_FRACTION = "fraction"
_DIGITS = 4
NO_TIMES = (
    "the lower bound of the measured ratio was not below the limit; times differ between equal "
    "runs, so that they are in the report of the run and not here"
)
"""What a release says of a speed gate."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate and what became of it.

    Attributes:
        name: the recipe's key, for a gate on texts with the text, like ``kl[test.txt@128]``.
        measured: in ``unit``; None could not be measured.
        limit: of the recipe.
        margin: room left, in ``unit``; negative beyond the limit.
        passed: whether ``measured`` is within the limit.
        unit: ``fraction`` (of the dense model's value), ``nats/token`` or ``times``.
        why: what was measured, or why it could not be.
    """

    name: str
    measured: float | None
    limit: float
    margin: float | None
    passed: bool
    unit: str
    why: str

    @property
    def bound(self) -> str:
        """Which side of the limit is allowed."""
        if self.name == RECOVERY:
            return "below"
        return "at least" if self.name in _AT_LEAST else "at most"

    def without_times(self) -> GateResult:
        """As a release may say it, whose bytes are the same after every equal run."""
        if self.name != SPEEDUP:
            return self
        return replace(self, measured=None, margin=None, why=NO_TIMES)


def evaluate_gates(
    gates: Gates,
    judgement: Mapping[str, Any],
    dense: ModelShape,
    pruned: ModelShape,
    bytes_per_value: int,
    demanded: Evaluate | None = None,
    speed: Mapping[str, Any] | None = None,
) -> list[GateResult]:
    """Sets every gate of a recipe against what was measured.

    Args:
        gates: of the recipe.
        judgement: as slimgpt.evaluate.judge makes it, with a baseline and with accuracy bounds at
            the gate's own confidence; a bound at another confidence says nothing and fails.
        dense: shape of the dense model.
        pruned: shape of the result.
        bytes_per_value: of a stored weight and of a cached value.
        demanded: what should have been measured; what of it is missing fails.
        speed: as slimgpt_bench.compare.gate measures it.

    Returns:
        in the order of the recipe; of a gate on texts, one for each text.
    """
    results: list[GateResult] = []
    texts = _texts(judgement, demanded)
    if gates.perplexity_increase is not None:
        results += _of_texts(
            "perplexity_increase", texts, _increase, gates.perplexity_increase, _FRACTION
        )
    if gates.kl is not None:
        results += _of_texts("kl", texts, _kl, gates.kl, "nats/token")
    if gates.accuracy is not None:
        results.append(_accuracy(gates.accuracy, judgement))
    if gates.weight_bytes is not None:
        sizes = [shape.weight_bytes(bytes_per_value) for shape in (pruned, dense)]
        results.append(_size("weight_bytes", sizes[0], sizes[1], gates.weight_bytes, "of weights"))
    if gates.kv_bytes is not None:
        sizes = [shape.kv_bytes_per_token(bytes_per_value) for shape in (pruned, dense)]
        results.append(_size("kv_bytes", sizes[0], sizes[1], gates.kv_bytes, "of KV cache a token"))
    if gates.speedup is not None:
        measure = partial(_slowest_likely, gates.speedup, speed)
        results.append(_outcome(SPEEDUP, gates.speedup.at_least, "times", measure))
    return results


def render(results: Sequence[GateResult]) -> list[str]:
    """A line a gate: whether it is met, measured, limit and margin, and what stands behind it."""
    return [_line(result) for result in results]


def require_all(results: Sequence[GateResult]) -> None:
    """Passes if every gate does.

    Raises:
        GateMissed: names each gate missed, with measured, limit and margin.
    """
    missed = [r for r in results if not r.passed]
    if missed:
        lines = "; ".join(line.removeprefix("MISSED ") for line in render(missed))
        raise GateMissed(f"{len(missed)} of {len(results)} gates missed: {lines}")


class _Unmeasured(Exception):
    """A value that is not there; says why."""


Measured = tuple[float, str]
"""A value, and in words where it comes from."""


def _outcome(name: str, limit: float, unit: str, measure: Callable[[], Measured]) -> GateResult:
    try:
        value, why = measure()
    except _Unmeasured as reason:
        return GateResult(name, None, limit, None, False, unit, str(reason))
    if not isfinite(value):  # a ratio of extremes
        return GateResult(name, None, limit, None, False, unit, f"no finite number: {why}")
    margin = value - limit if name in _AT_LEAST else limit - value
    return GateResult(name, value, limit, margin, margin >= 0, unit, why)


def _number(entry: Mapping[str, Any], key: str, what: str) -> float:
    """A finite number of a judgement.

    Raises:
        _Unmeasured: there is none.
    """
    value = entry.get(key)
    if value is None:
        raise _Unmeasured(f"{what} was not measured")
    try:
        number = nan if isinstance(value, bool | str) else float(value)
    except (OverflowError, TypeError):  # a whole number beyond all floats, or no number
        number = nan
    if not isfinite(number):
        raise _Unmeasured(f"{what} is no finite number")
    return number


def _texts(
    judgement: Mapping[str, Any], demanded: Evaluate | None
) -> list[tuple[str, Mapping[str, Any]]]:
    """The texts measured, and empty ones for those that should have been, each with its label."""
    measured: list[Mapping[str, Any]] = list(judgement.get("texts") or ())
    found = Counter((t.get("text"), t.get("window")) for t in measured)
    for wanted in demanded.texts if demanded else ():
        key = (wanted.file.path.name, wanted.window)
        if not found[key]:
            named = {"file": wanted.file.label, "protocol": wanted.protocol}
            measured.append(named | {"text": key[0], "window": key[1]})
        else:
            found[key] -= 1
    # Short names where they suffice, longer ones where two texts would share one.
    for parts in ("{text}@{window}", "{text}@{window},{protocol}", "{file}@{window},{protocol}"):
        labels = [parts.format_map(_Named(t)) for t in measured]
        if len(set(labels)) == len(labels):
            break
    else:
        labels = [f"{label}#{i}" for i, label in enumerate(labels, 1)]
    return list(zip(labels, measured, strict=True))


class _Named(dict[str, Any]):
    """For format_map: what is not there is a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def _of_texts(
    name: str,
    texts: Sequence[tuple[str, Mapping[str, Any]]],
    measure: Callable[[Mapping[str, Any]], Measured],
    limit: float,
    unit: str,
) -> Iterator[GateResult]:
    if not texts:
        yield GateResult(name, None, limit, None, False, unit, "no text was measured")
    for label, text in texts:
        yield _outcome(f"{name}[{label}]", limit, unit, partial(measure, text))


def _increase(text: Mapping[str, Any]) -> Measured:
    after = _number(text, "perplexity", "the perplexity")
    before = _number(text, "baseline_perplexity", "the dense model's perplexity")
    for value, whose in ((after, "the result"), (before, "the dense model")):
        if value <= 0:
            raise _Unmeasured(f"a perplexity of {value:g} of {whose} can't be")
    return after / before - 1, f"perplexity {_shown(before)} became {_shown(after)}"


def _kl(text: Mapping[str, Any]) -> Measured:
    return _number(text, "kl", "KL to the dense model"), "KL(dense || pruned)"


def _accuracy(gate: AccuracyGate, judgement: Mapping[str, Any]) -> GateResult:
    return _outcome(ACCURACY, gate.ratio, _FRACTION, partial(_lower_bound, gate, judgement))


def _lower_bound(gate: AccuracyGate, judgement: Mapping[str, Any]) -> Measured:
    accuracy = judgement.get("accuracy")
    if not isinstance(accuracy, Mapping):
        raise _Unmeasured("task accuracy was not measured on both models")
    for task, scores in (judgement.get("tasks") or {}).items():
        _require_scored(task, scores)
    if accuracy.get("lower") is None and accuracy.get("why"):
        raise _Unmeasured(str(accuracy["why"]))
    lower = _number(accuracy, "lower", "the lower bound of the accuracy ratio")
    ratio = _number(accuracy, "ratio", "the accuracy ratio")
    confidence = _number(accuracy, "confidence", "the confidence of the bound")
    if not isclose(confidence, gate.confidence, abs_tol=1e-9):
        raise _Unmeasured(
            f"measured at another confidence, {confidence:g}: the gate is for {gate.confidence:g}"
        )
    tasks, questions = (_number(accuracy, key, f"the number of {key}") for key in ("tasks", "n"))
    if tasks < 1 or questions < 1:
        raise _Unmeasured(f"measured on {tasks:g} tasks with {questions:g} questions")
    return lower, (
        f"{_shown(ratio)} of the dense model's mean accuracy, at least {_shown(lower)} with "
        f"confidence {confidence:g}; {tasks:g} tasks, n = {round(questions):,}"
    )


def _require_scored(task: str, scores: Any) -> None:
    """A task that dropped out of the mean would make it look better than it is."""
    if not isinstance(scores, Mapping):
        raise _Unmeasured(f"{task} has no scores")
    if "metrics" not in scores:  # tasks without multiple choice are outside the mean
        _number(scores, "acc", f"the accuracy of {task}")
        _number(scores.get("baseline") or {}, "acc", f"the dense model's accuracy of {task}")


def _slowest_likely(gate: SpeedGate, speed: Mapping[str, Any] | None) -> Measured:
    """The lower bound of the ratio of times."""
    if speed is None:
        raise _Unmeasured("the speed of both models was not measured")
    if speed.get("why"):
        raise _Unmeasured(str(speed["why"]))
    if speed.get("gate") != gate.model_dump(mode="json"):
        raise _Unmeasured("it was measured with other settings than the gate has")
    ends = speed.get("interval")
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise _Unmeasured("the ratio has no interval: too few rounds")
    low, high = (_number({"end": x}, "end", "the interval of the ratio") for x in ends)
    ratio = _number(speed, "ratio", "the ratio of times")
    between = "; the limit lies between: more rounds tell" if low < gate.at_least <= high else ""
    return low, (
        f"{gate.quantity} {_shown(ratio)} times as fast as the dense model, {_shown(low)} to "
        f"{_shown(high)} with confidence 0.95; {gate.engine}, batch {gate.batch}, prompt "
        f"{gate.prompt}, output {gate.output}, {gate.rounds} rounds{between}"
    )


def _size(name: str, after: int, before: int, limit: float, what: str) -> GateResult:
    def measure() -> Measured:
        if not before:
            raise _Unmeasured(f"the dense model has no bytes {what}")
        return after / before, f"{before:,} bytes {what} became {after:,}"

    return _outcome(name, limit, _FRACTION, measure)


def _shown(value: float) -> str:
    return f"{value:.{_DIGITS}g}"


def _line(result: GateResult) -> str:
    verdict = "passed" if result.passed else "MISSED"
    limit = f"{result.bound} {result.limit:g}"
    if result.measured is None or result.margin is None:
        return f"{verdict} {result.name}: not measured, limit {limit}: {result.why}"
    # A miss by little must not look like the limit itself.
    digits = next(
        (d for d in range(_DIGITS, 17) if _differs(result.measured, result.limit, d)), _DIGITS
    )
    unit = "" if result.unit == _FRACTION else f" {result.unit}"
    return (
        f"{verdict} {result.name}: measured {result.measured:.{digits}g}{unit}, limit {limit}, "
        f"margin {result.margin:+.{_DIGITS - 1}g} ({result.why})"
    )


def _differs(value: float, limit: float, digits: int) -> bool:
    return f"{value:.{digits}g}" != f"{limit:.{digits}g}" or value == limit
