"""The models of a comparison, and what keeps them from being compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slimgpt.errors import Unresolved
from slimgpt_bench.artefact import Artefact
from slimgpt_bench.compare.number_format import QUANTISED, number_format
from slimgpt_bench.latency import LatencyOptions

Role = Literal["dense", "pruned", "third"]
DENSE, PRUNED, THIRD = "dense", "pruned", "third"
_SHOWN_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Side:
    """A model and its part in the experiment."""

    role: Role
    artefact: Artefact

    @property
    def name(self) -> str:
        return self.artefact.name


def require_comparable(sides: Sequence[Side], options: LatencyOptions) -> None:
    """Refuses models of which a ratio would say nothing; nothing has been run so far.

    Args:
        sides: the dense model first.
        options: the type that is asked for decides whether stored types matter.

    Raises:
        Unresolved: with every difference as a line.
    """
    first, *others = sides
    _refuse(line for other in others for line in _differences(first, other, options))


def require_same_settings(first: Mapping[str, Any], about: Mapping[str, Any], name: str) -> None:
    """Refuses an engine that runs differently, as it says itself.

    Args:
        first: how the first of all runs described itself.
        about: how another one did.
        name: of its model.

    Raises:
        Unresolved: with every difference as a line.
    """
    _refuse(
        f"{name} can't be compared: {key} is {about.get(key)}, and was {first.get(key)} in the "
        "first run"
        for key in sorted(first.keys() | about.keys())
        if first.get(key) != about.get(key)
    )


def _refuse(lines: Iterator[str]) -> None:
    found = tuple(lines)
    if found:
        problem = Unresolved("; ".join(found))
        problem.problems = found
        raise problem


def _differences(first: Side, other: Side, options: LatencyOptions) -> Iterator[str]:
    a, b = first.artefact, other.artefact
    pairs: list[tuple[str, object, object, str]] = [
        ("form", a.form, b.form, "give two checkpoints, or two ONNX exports"),
        (
            "tokenizer",
            _short(a.tokenizer_digest),
            _short(b.tokenizer_digest),
            "give a model that was made from DENSE",
        ),
        (
            "vocabulary",
            a.shape.vocab_size,
            b.shape.vocab_size,
            "give a model that was made from DENSE",
        ),
    ]
    if a.form == b.form and _stored_type_matters(a, b, options):
        pairs.append(("type of the weights", a.dtype, b.dtype, "give both in the same one"))
        if a.dtype == b.dtype:
            told = number_format(a), number_format(b)
            pairs += [(key, told[0][key], told[1][key], "give both alike") for key in told[0]]
    for what, x, y, way_out in pairs:
        if x != y:
            yield (
                f"{first.name} and {other.name} can't be compared: {what} is {x} and {y}; {way_out}"
            )


def _stored_type_matters(a: Artefact, b: Artefact, options: LatencyOptions) -> bool:
    """Not where both are converted to the type that is computed in."""
    if a.form == "onnx" or QUANTISED in (a.dtype, b.dtype):
        return True
    return options.dtype == "auto" and options.device != "cpu" and _on_gpu(options.device)


def _on_gpu(device: str) -> bool:
    from slimgpt.resources import resolve_device

    return resolve_device(device).type == "cuda"


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:_SHOWN_DIGITS]
