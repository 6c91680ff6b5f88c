"""traffic.yaml: what users will ask, as a planner writes it down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimgpt.errors import UsageError
from slimgpt_bench.settings_file import read_settings

_Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
_Hour = Annotated[float, Field(ge=0, le=24)]
DAY_HOURS = 24.0


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Hours(_Section):
    """A part of the day, in hours from midnight."""

    start: _Hour = Field(alias="from")
    end: _Hour = Field(alias="to")
    rate_rps: _Rate


class LengthsFile(_Section):
    """Lengths that were seen."""

    file: str


Lengths = str | int | LengthsFile


class TrafficFile(_Section):
    """``--traffic``."""

    version: Literal[1] = Field(alias="schema")
    rate_rps: _Rate | None = None
    hours: Annotated[list[Hours], Field(min_length=1)] | None = None
    trace: str | None = None
    growth: Annotated[float, Field(ge=0, le=1000)] = 0.0
    burstiness: Annotated[float, Field(gt=0, le=1000)] = 1.0
    prompt_tokens: Lengths | None = None
    output_tokens: Lengths | None = None
    prefix_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    price_per_accelerator_hour: Annotated[float, Field(gt=0, le=1e6)] | None = None
    currency: Annotated[str, Field(min_length=1, max_length=10)] = "USD"

    @model_validator(mode="after")
    def _rates(self) -> Self:
        if self.rate_rps is not None and self.hours is not None:
            raise ValueError("give rate_rps or hours, not both: the peak is the busiest hour's")
        if self.rate_rps is None and self.hours is None and self.trace is None:
            raise ValueError("no traffic: give rate_rps, hours or a trace")
        peak = max((x.rate_rps for x in self.hours or []), default=self.rate_rps)
        if peak == 0:
            raise ValueError("the traffic has zero requests: give a rate_rps above 0")
        return self

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        given = (self.prompt_tokens, self.output_tokens)
        if self.trace is not None and given != (None, None):
            raise ValueError("the trace has the lengths: leave prompt_tokens and output_tokens out")
        if self.trace is None and None in given:
            raise ValueError("give prompt_tokens and output_tokens, like lognormal:512,256")
        return self

    @model_validator(mode="after")
    def _whole_day(self) -> Self:
        reached = 0.0
        for part in self.hours or []:
            if part.end <= part.start:
                raise ValueError(f"hours from {part.start:g} to {part.end:g} end before they begin")
            if part.start != reached:
                raise ValueError(
                    f"hours from {reached:g} to {part.start:g} are missing or told twice: tell the "
                    "whole day in order, with rate_rps: 0 where nothing comes"
                )
            reached = part.end
        if self.hours and reached != DAY_HOURS:
            raise ValueError(f"hours from {reached:g} to 24 are missing: give rate_rps: 0 for none")
        return self


def read_traffic_file(path: Path) -> TrafficFile:
    """Reads and checks the file; files that it names are not looked at.

    Raises:
        UsageError: all that is wrong, by line.
    """
    if not path.exists():
        raise UsageError(f"--traffic {path} is no file: give one with rate_rps and lengths")
    return read_settings(path, TrafficFile, "--traffic")
