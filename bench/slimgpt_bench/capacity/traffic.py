"""The traffic that is planned for: rates of arrival, and lengths as distributions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimgpt.errors import UsageError
from slimgpt.text import open_text
from slimgpt_bench.capacity.number import Label, Number
from slimgpt_bench.capacity.traffic_file import (
    DAY_HOURS,
    LengthsFile,
    TrafficFile,
    read_traffic_file,
)
from slimgpt_bench.workload.lengths import Lengths
from slimgpt_bench.workload.trace import Trace, read_trace

WINDOW_S = 60.0
"""The peak of a trace is that of its busiest minute."""

_BOTH = 2  # columns: prompt and answer
Pairs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What users ask.

    Attributes:
        peak_rps: requests a second in the busiest part.
        mean_rps: over a day, or the trace.
        hours: hours of the day and their rate; empty where the file has none.
        growth: share that is added to the peak.
        burstiness: shape of the gamma distribution of gaps; 1 is Poisson, less is burstier.
        prompt: lengths in tokens.
        output: likewise.
        pairs: prompt and answer of each row of a trace, whose lengths belong together.
        prefix_share: of each prompt that a prefix cache has already.
        price_per_hour: of one accelerator; None where nobody said.
        currency: of it.
        label: of the rates.
        source: of the rates, for people.
        digest: SHA-256 of all that decides the plan.
    """

    peak_rps: float
    mean_rps: float
    hours: tuple[tuple[float, float], ...]
    growth: float
    burstiness: float
    prompt: Lengths
    output: Lengths
    pairs: Pairs | None
    prefix_share: float
    price_per_hour: float | None
    currency: str
    label: Label
    source: str
    digest: str

    def requests(self, n: int, seed: int) -> Pairs:
        """``n`` requests: prompt and answer tokens, drawn as they will come."""
        rng = np.random.default_rng(seed)
        if self.pairs is not None:
            return self.pairs[rng.integers(0, len(self.pairs), size=n)]
        return np.stack([self.prompt.draw(rng, n), self.output.draw(rng, n)], axis=1)

    @property
    def planned_peak_rps(self) -> float:
        """The peak with growth."""
        return self.peak_rps * (1 + self.growth)

    def with_price(self, price: float | None) -> Traffic:
        """With the price of ``--price``, where it was given."""
        return self if price is None else replace(self, price_per_hour=price)

    def to_json(self) -> dict[str, Any]:
        def rate(value: float) -> dict[str, Any]:
            return Number(value, "requests/s", self.label, self.source).to_json()

        return {
            "peak_rps": rate(self.peak_rps),
            "mean_rps": rate(self.mean_rps),
            "hours": [{"hours": hours, "rate_rps": x} for hours, x in self.hours],
            "growth": Number(self.growth, "share", "assumed", "growth of --traffic").to_json(),
            "burstiness": self.burstiness,
            "prompt_tokens": self.prompt.to_json(),
            "output_tokens": self.output.to_json(),
            "prefix_share": self.prefix_share,
            "digest": self.digest,
        }


def read_traffic(path: Path) -> Traffic:
    """Reads the file, and those that it names.

    Raises:
        UsageError: one of them is wrong, or there are no requests.
    """
    told = read_traffic_file(path)
    trace = read_trace(path.parent / told.trace, f"--traffic {path}: trace") if told.trace else None
    peak, mean, label, source = _rates(told, trace, path)
    pairs = _pairs(trace, path) if trace else None
    if pairs is not None:
        prompt, output = (Lengths.empirical(pairs[:, i].tolist()) for i in range(_BOTH))
    else:
        prompt = _lengths(told.prompt_tokens, "prompt_tokens", path)
        output = _lengths(told.output_tokens, "output_tokens", path)
    return Traffic(
        peak_rps=peak,
        mean_rps=mean,
        hours=tuple((x.end - x.start, x.rate_rps) for x in told.hours or ()),
        growth=told.growth,
        burstiness=told.burstiness,
        prompt=prompt,
        output=output,
        pairs=pairs,
        prefix_share=told.prefix_share,
        price_per_hour=told.price_per_accelerator_hour,
        currency=told.currency,
        label=label,
        source=source,
        digest=_digest(told, trace, prompt, output),
    )


def _rates(told: TrafficFile, trace: Trace | None, path: Path) -> tuple[float, float, Label, str]:
    """Peak, mean, and what they rest on."""
    if told.hours:
        rates = [x.rate_rps for x in told.hours]
        mean = sum((x.end - x.start) * x.rate_rps for x in told.hours) / DAY_HOURS
        return max(rates), mean, "assumed", "hours of --traffic"
    if trace is None:
        rate = told.rate_rps or 0.0
        return rate, rate, "assumed", "rate_rps of --traffic, all day"
    peak, mean = _busiest(trace, path), len(trace.rows) / trace.duration_s
    if told.rate_rps is None:
        return peak, mean, "measured", f"the trace's busiest {WINDOW_S:g} s, and its mean"
    return (
        told.rate_rps,
        told.rate_rps * mean / peak,
        "assumed",
        "rate_rps of --traffic, with the trace's ratio of mean to peak",
    )


def _busiest(trace: Trace, path: Path) -> float:
    """Requests a second in the busiest window."""
    if trace.duration_s <= 0:
        raise UsageError(
            f"--traffic {path}: all rows of the trace come at one moment, which is no rate: give "
            "rate_rps and lengths, or a longer trace"
        )
    window = min(WINDOW_S, trace.duration_s)
    times = np.array([row.at_s for row in trace.rows])
    ends = np.searchsorted(times, times + window, side="right")
    return float((ends - np.arange(len(times))).max() / window)


def _pairs(trace: Trace, path: Path) -> Pairs:
    if any(row.prompt_tokens is None for row in trace.rows):
        raise UsageError(
            f"--traffic {path}: the trace has prompts without their length: give prompt_tokens in "
            "every row"
        )
    return np.array([(row.prompt_tokens, row.output_tokens) for row in trace.rows], dtype=np.int64)


def _lengths(told: str | int | LengthsFile | None, name: str, path: Path) -> Lengths:
    origin = f"--traffic {path}: {name}"
    if isinstance(told, LengthsFile):
        file = path.parent / told.file
        return Lengths.empirical(_seen(file, name, origin), f"{origin} {file}")
    return Lengths.parse(str(told), origin)


def _seen(file: Path, name: str, origin: str) -> list[int]:
    """A length a line: a number, or an object that has it under ``name``."""
    if not file.is_file():
        raise UsageError(f"{origin} {file} is no file: give lines like 128")
    try:
        with open_text(file) as lines:
            rows = [(n, json.loads(line)) for n, line in enumerate(lines, 1) if line.strip()]
    except (OSError, EOFError, ValueError, RecursionError) as reason:
        raise UsageError(f"{origin} {file} can't be read: {reason}") from None
    values: list[int] = []
    for n, row in rows:
        value = row.get(name) if isinstance(row, dict) else row
        if type(value) is not int:
            raise UsageError(
                f'{origin} {file} line {n}: give a length, like 128 or {{"{name}": 128}}'
            )
        values.append(value)
    return values


def _digest(told: TrafficFile, trace: Trace | None, prompt: Lengths, output: Lengths) -> str:
    """Prices and file names leave it as it is; what is in files does not."""
    shown = told.model_dump(
        exclude={
            "price_per_accelerator_hour",
            "currency",
            "trace",
            "prompt_tokens",
            "output_tokens",
        }
    )
    lengths = [[x.kind, x.parameters, x.low, x.high] for x in (prompt, output)]
    whole = [shown, lengths, trace.digest if trace else None]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
