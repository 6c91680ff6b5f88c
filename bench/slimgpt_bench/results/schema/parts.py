"""What documents of all kinds are made of: quantities, ratios, shares, artefacts, the envelope."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimgpt_bench.intervals import Verdict

Insufficient = Literal["insufficient"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Portion = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Described keys are checked without conversions; others are let through."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, frozen=True)


Ends = Annotated[tuple[Number, Number], Field(description="Low and high end, 95 % confidence.")]


def _ordered(ends: tuple[float, float] | str | None) -> bool:
    return not isinstance(ends, tuple) or ends[0] <= ends[1]


class Quantity(Part):
    """A measured quantity, in the unit that its name tells."""

    median: Number | Insufficient
    p95: Number | Insufficient
    p99: Number | Insufficient
    interval: Ends | Insufficient
    p95_interval: Ends | None = None
    p99_interval: Ends | None = None
    n: Count

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if not all(map(_ordered, (self.interval, self.p95_interval, self.p99_interval))):
            raise ValueError("an interval ends before it begins")
        if not self.n and self.median != "insufficient":
            raise ValueError("a median of no values")
        return self


class Share(Part):
    """Part of all requests that something holds for."""

    value: Portion
    interval: tuple[Portion, Portion]
    n: Count
    effective_n: Amount


class Told(Part):
    """Time of one model over time of another: above 1 the other is faster."""

    ratio: Amount | Insufficient
    interval: Ends | Insufficient
    verdict: Verdict

    @model_validator(mode="after")
    def _sane(self) -> Self:
        if not _ordered(self.interval):
            raise ValueError("an interval ends before it begins")
        if self.interval == "insufficient" and self.verdict != "unresolved":
            raise ValueError("a verdict without an interval")
        return self


class Third(Told):
    """The dense model over a third one, and that one over the pruned."""

    third: Quantity
    pruned_against_third: Told


class Ratio(Told):
    """The dense model over the pruned one."""

    dense: Quantity
    pruned: Quantity
    third: Third | None


class Slo(Part):
    """What requests were to meet."""

    objectives: dict[str, Amount]
    attainment: Portion
    digest: Digest


class Requests(Part):
    """All that were sent; those that failed stay in every denominator."""

    sent: Count
    ok: Count
    failed: dict[str, Count]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.ok + sum(self.failed.values()) != self.sent:
            raise ValueError("ok and failed requests do not make up those that were sent")
        return self


class Artefact(Part):
    """The model that was measured."""

    name: str
    form: Literal["checkpoint", "onnx"]
    digest: Digest
    shape: dict[str, Any]
    dense_shape: dict[str, Any] | None
    dtype: str
    parameters: Count
    weight_bytes: Count
    kv_bytes_per_token: Amount
    quality: dict[str, Any]
    tokenizer_digest: Digest | None


class Workload(Part):
    """What was asked of the model."""

    digest: Digest


class Envelope(Part):
    """What every document begins with."""

    schema_version: Literal[1] = Field(alias="schema")
    slimgpt_version: str
    created: str = Field(description="UTC, ISO 8601.")
    command: list[str]
    environment: dict[str, Any]
    artefact: Artefact | None
    workload: Workload
    valid: bool
    problems: list[str]
    files: dict[str, Digest] | None = Field(None, description="SHA-256 of what lies beside it.")

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if not self.valid and not self.problems:
            raise ValueError("an invalid result that does not say why")
        return self
