"""slo.yaml: the bounds that one request must meet, and the share of requests that must meet them.

One file for measuring, planning, alerting and scaling.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slimgpt.errors import UsageError
from slimgpt_bench.quantity import CONFIDENCE

_LARGEST_FILE = 2**20
OBJECTIVES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Part = Annotated[float, Field(gt=0, lt=1)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Objectives(_File):
    ttft_s: _Seconds | None = None
    tpot_s: _Seconds | None = None
    itl_s: _Seconds | None = None
    e2e_s: _Seconds | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if all(getattr(self, name) is None for name in OBJECTIVES):
            raise ValueError(f"give at least one of {', '.join(OBJECTIVES)}")
        return self


class _SloFile(_File):
    model_config = ConfigDict(populate_by_name=True)

    version: Literal[1] = Field(alias="schema")
    objectives: _Objectives
    attainment: _Part
    confidence: _Part = CONFIDENCE


@dataclass(frozen=True, slots=True)
class Slo:
    """A service-level objective.

    Attributes:
        ttft_s: most seconds to the first token, from the scheduled send; None is no bound.
        tpot_s: most seconds per output token after the first, on average over a request.
        itl_s: most seconds between two chunks of a request.
        e2e_s: most seconds to the last token, from the scheduled send.
        attainment: share of all requests that must meet every bound; failures meet none.
        confidence: of the statement that they do.
        digest: SHA-256 of all of the above.
    """

    ttft_s: float | None
    tpot_s: float | None
    itl_s: float | None
    e2e_s: float | None
    attainment: float
    confidence: float
    digest: str

    def met_by(
        self,
        *,
        ttft_s: float,
        e2e_s: float,
        tpot_s: float | None = None,
        itl_s: float | None = None,
    ) -> bool:
        """Whether one request meets every bound.

        Args:
            ttft_s: time to its first token.
            e2e_s: time to its last.
            tpot_s: None for an answer of one token, which has none and can't miss it.
            itl_s: its largest gap; None likewise.
        """
        found = {"ttft_s": ttft_s, "tpot_s": tpot_s, "itl_s": itl_s, "e2e_s": e2e_s}
        return all(
            value is None or value <= bound
            for name, value in found.items()
            if (bound := getattr(self, name)) is not None
        )

    def to_json(self) -> dict[str, Any]:
        bounds = {name: getattr(self, name) for name in OBJECTIVES}
        return {
            "objectives": {k: v for k, v in bounds.items() if v is not None},
            "attainment": self.attainment,
            "confidence": self.confidence,
            "digest": self.digest,
        }


def read_slo(path: Path) -> Slo:
    """Reads and checks an SLO file.

    Raises:
        UsageError: it is not there, or not what it should be; every problem on a line of its own.
    """
    try:
        size = path.stat().st_size
        text = path.read_text("utf-8") if size <= _LARGEST_FILE else ""
    except (OSError, UnicodeError) as reason:
        raise UsageError(f"--slo {path} can't be read: {reason}") from None
    if size > _LARGEST_FILE:
        raise UsageError(f"--slo {path} has {size:,} bytes: an SLO file has a few lines")
    try:
        told = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as reason:
        raise UsageError(f"--slo {path} is no YAML: {' '.join(str(reason).split())}") from None
    return slo_of(told, f"--slo {path}")


def slo_of(told: Any, origin: str) -> Slo:
    """The SLO that a document tells.

    Args:
        told: as an SLO file has it.
        origin: for messages.

    Raises:
        UsageError: it is not what it should be.
    """
    if not isinstance(told, dict):
        raise UsageError(f"{origin} is no mapping with schema, objectives and attainment")
    try:
        file = _SloFile.model_validate(told)
    except ValidationError as error:
        lines = [_problem(origin, detail) for detail in error.errors()]
        problem = UsageError("; ".join(lines))
        problem.problems = tuple(lines)
        raise problem from None
    bounds = {name: getattr(file.objectives, name) for name in OBJECTIVES}
    whole = {**bounds, "attainment": file.attainment, "confidence": file.confidence}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return Slo(**whole, digest=digest)


def _problem(origin: str, detail: Any) -> str:
    key = ".".join(str(x) for x in detail["loc"])
    given = detail.get("input")
    shown = "" if isinstance(given, dict) else f", not {given!r:.80}"
    return f"{origin}: {key}: {detail['msg'].removeprefix('Value error, ')}{shown}"
