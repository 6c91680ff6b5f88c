"""slo.yaml: the bounds that one request must meet, and the share of requests that must meet them.

One file for measuring, planning, alerting and scaling.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimgpt_bench.quantity import CONFIDENCE
from slimgpt_bench.settings_file import read_settings

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
    file = read_settings(path, _SloFile, "--slo")
    bounds = {name: getattr(file.objectives, name) for name in OBJECTIVES}
    whole = {**bounds, "attainment": file.attainment, "confidence": file.confidence}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return Slo(**whole, digest=digest)
