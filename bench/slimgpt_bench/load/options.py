"""What a user asks of ``slimgpt bench load``, checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slimgpt.errors import UsageError
from slimgpt_bench.slo import Slo

Mode = Literal["open", "closed", "trace", "sweep", "search"]
Endpoint = Literal["completions", "chat"]

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
MOST_CONCURRENCY = 100_000
LONGEST_S = 7 * 24 * 3600.0
_FASTEST = 1e6
_OURS = ("model", "prompt", "messages", "max_tokens", "stream", "stream_options", "n", "best_of")
_DEFAULT_WARMUP = 10


@dataclass(frozen=True, slots=True)
class Warmup:
    """What is sent before the measured part, which begins while it is still under way.

    Attributes:
        requests: so many; or
        seconds: as many as arrive in so long.
    """

    requests: int = _DEFAULT_WARMUP
    seconds: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Warmup:
        """``10`` for requests, ``5s`` for seconds.

        Raises:
            UsageError: it is neither.
        """
        found = re.fullmatch(r"(\d{1,7})|(\d{1,6}(?:\.\d{1,6})?)s", text.strip())
        if not found:
            raise UsageError(f"--warmup {text}: give requests, like 10, or seconds, like 5s")
        if found[1]:
            return cls(int(found[1]))
        return cls(0, float(found[2]))


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of a run; defaults are those of the command.

    Attributes:
        rates: of the levels of an open loop, requests a second.
        concurrency: of the levels of a closed loop, requests under way.
        sweep: find the saturation, then measure shares of it.
        find_rate: search the highest rate that meets ``slo``.
        trace: a recorded traffic to replay; ``rates`` may hold one rate to scale it to.
        duration_s: of the measured part of a level.
        requests: of the measured part; with it the duration is no longer a bound.
        arrival: ``poisson``, ``gamma`` or ``constant``.
        burstiness: shape of ``gamma``.
        concurrency_cap: most requests under way in an open loop; the others wait, and their times
            run on.
        warmup: None is ten requests, and nothing before a trace.
        prompt: lengths, as :class:`slimgpt_bench.workload.lengths.Lengths` spells them.
        output: likewise.
        dataset: file of prompts.
        tokenizer: directory of the served model's tokenizer.
        vocabulary: token ids that the server takes: 0 to this, exclusive.
        endpoint: ``completions`` or ``chat``.
        model: as the server calls it; None for the only one that it has.
        artefact: directory of what is served.
        timeout_s: of one request, from its send.
        api_key: of the server.
        ignore_eos: ask for the whole length.
        accept_errors: share of failed requests up to which a level is valid.
        require: ``p95`` or ``p99``: to have too few requests for it is a failure.
        slo: bounds that requests are held to.
        extra_body: further fields of each request.
        seed: of lengths, prompts and arrivals.
    """

    rates: tuple[float, ...] = ()
    concurrency: tuple[int, ...] = ()
    sweep: bool = False
    find_rate: bool = False
    trace: Path | None = None
    duration_s: float = 60.0
    requests: int | None = None
    arrival: str = "poisson"
    burstiness: float = 1.0
    concurrency_cap: int | None = None
    warmup: Warmup | None = None
    prompt: str | None = None
    output: str | None = None
    dataset: Path | None = None
    tokenizer: Path | None = None
    vocabulary: int | None = None
    endpoint: Endpoint = "completions"
    model: str | None = None
    artefact: Path | None = None
    timeout_s: float = 300.0
    api_key: str | None = field(default=None, repr=False)
    ignore_eos: bool = True
    accept_errors: float = 0.0
    require: str | None = None
    slo: Slo | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def mode(self) -> Mode:
        if self.sweep:
            return "sweep"
        if self.find_rate:
            return "search"
        if self.trace:
            return "trace"
        return "closed" if self.concurrency else "open"

    @property
    def before(self) -> Warmup:
        """The warm-up of a level."""
        return self.warmup or Warmup(0 if self.mode == "trace" else _DEFAULT_WARMUP)

    @property
    def arrival_kind(self) -> str:
        """As the document tells it."""
        return {"closed": "closed", "trace": "trace"}.get(self.mode, self.arrival)


def check(options: LoadOptions) -> None:
    """Refuses options that contradict each other or mean nothing.

    Raises:
        UsageError: naming the flags.
    """
    _check_mode(options)
    _check_numbers(options)
    if options.burstiness != 1 and options.arrival != "gamma":
        raise UsageError(
            f"--burstiness {options.burstiness:g} is of gamma arrivals: add --arrival gamma"
        )
    if options.concurrency_cap and options.mode == "closed":
        raise UsageError(
            "--concurrency-cap is for open loops, and --concurrency is a cap by itself: leave one "
            "of them out"
        )
    for flag, path in (("--artefact", options.artefact), ("--tokenizer", options.tokenizer)):
        if path is not None and not path.is_dir():
            raise UsageError(f"{flag} {path} is no directory: give that of the served model")
    taken = sorted(set(options.extra_body) & set(_OURS))
    if taken:
        raise UsageError(f"--extra-body sets {taken[0]}, which other options decide: leave it out")


def _check_mode(options: LoadOptions) -> None:
    asked = {
        "--rate": bool(options.rates) and not (options.find_rate or options.trace),
        "--concurrency": bool(options.concurrency),
        "--sweep": options.sweep,
        "--find-rate": options.find_rate,
        "--trace": bool(options.trace),
    }
    given = [flag for flag, on in asked.items() if on]
    if not given:
        raise UsageError(
            "what load to put on the server is not said: give --rate 1,2,4, --concurrency 1,4,16, "
            "--sweep, --find-rate or --trace FILE"
        )
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are different loads: give one of them")
    if (options.find_rate or options.trace) and len(options.rates) > 1:
        raise UsageError(f"{given[0]} takes one --rate to begin with or to scale to, not several")
    if options.find_rate and options.requests:
        raise UsageError("--find-rate decides how many requests a rate needs: leave --requests out")
    if options.find_rate and not options.slo:
        raise UsageError("--find-rate searches the highest rate that meets an SLO: give --slo FILE")


def _check_numbers(options: LoadOptions) -> None:
    allowed: list[tuple[str, Any, bool, str]] = [
        ("--rate", x, 0 < x <= _FASTEST, f"requests a second, above 0 and up to {_FASTEST:,.0f}")
        for x in options.rates
    ]
    allowed += [
        ("--concurrency", x, 1 <= x <= MOST_CONCURRENCY, f"requests, 1 to {MOST_CONCURRENCY:,}")
        for x in options.concurrency
    ]
    week = "seconds, above 0 and up to a week"
    allowed += [
        ("--duration", options.duration_s, 0 < options.duration_s <= LONGEST_S, week),
        ("--timeout", options.timeout_s, 0 < options.timeout_s <= LONGEST_S, week),
        ("--requests", options.requests, _whole(options.requests), "a whole number from 1"),
        (
            "--vocabulary",
            options.vocabulary,
            options.vocabulary != 1 and _whole(options.vocabulary),
            "how many token ids the model has, from 2",
        ),
        (
            "--concurrency-cap",
            options.concurrency_cap,
            _whole(options.concurrency_cap),
            "1 or more",
        ),
        ("--burstiness", options.burstiness, 0 < options.burstiness <= _FASTEST, "above 0"),
        ("--accept-errors", options.accept_errors, 0 <= options.accept_errors < 1, "0 to below 1"),
    ]
    for flag, value, fits, words in allowed:
        if not fits:
            shown = f"{value:g}" if isinstance(value, float) else value
            raise UsageError(f"{flag} {shown}: give {words}")


def _whole(value: int | None) -> bool:
    return value is None or value >= 1
