"""``slimgpt bench load`` from its options to its document; also for those who need a load run."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slimgpt.errors import Unresolved, UsageError
from slimgpt.progress import Progress, stage
from slimgpt_bench.artefact import Artefact, describe
from slimgpt_bench.load.asking import Asking
from slimgpt_bench.load.client import Client
from slimgpt_bench.load.closed_loop import closed_loop
from slimgpt_bench.load.document import Plan, document
from slimgpt_bench.load.health import allow_many_files
from slimgpt_bench.load.level import Level, make_level
from slimgpt_bench.load.open_loop import open_loop
from slimgpt_bench.load.options import LoadOptions, check
from slimgpt_bench.load.record import Record
from slimgpt_bench.load.search import Search
from slimgpt_bench.load.sweep import find_saturation
from slimgpt_bench.load.target import Target, answers, look_at, plain_url
from slimgpt_bench.load.window import Run, Window
from slimgpt_bench.workload.arrivals import Arrivals
from slimgpt_bench.workload.making import Serves
from slimgpt_bench.workload.workload import Workload

_ANY_ERRORS = 1.0
"""Beyond the saturation failures are what is to be seen."""


@dataclass(frozen=True)
class LoadResult:
    """A finished run.

    Attributes:
        document: as ``--json`` prints it.
        requests: raw records, for ``requests.jsonl``.
        levels: that were measured.
    """

    document: dict[str, Any]
    requests: list[dict[str, Any]]
    levels: Sequence[Level]

    def problem(self) -> Unresolved | None:
        """Why the exit code is 3; None where it is 0."""
        if self.document["valid"]:
            return None
        problems = self.document["problems"]
        found = Unresolved("; ".join(problems))
        found.problems = tuple(problems)
        return found


def run_load(url: str, options: LoadOptions, progress: Progress) -> LoadResult:
    """Measures a server under load.

    Args:
        url: of the server.
        options: what to ask, how much, how long.
        progress: watches.

    Raises:
        UsageError: options that can't be met, or that the server refuses.
        EnvironmentProblem: nobody answers at the address, or an extra is missing.
        IntegrityError: ``artefact`` is damaged.
    """
    check(options)
    address = plain_url(url)
    artefact = describe(options.artefact) if options.artefact else None
    allow_many_files()
    return asyncio.run(_run(address, options, artefact, progress))


async def _run(
    url: str, options: LoadOptions, artefact: Artefact | None, progress: Progress
) -> LoadResult:
    async with Client(url, options.api_key, options.timeout_s) as client:
        target = await look_at(client, url, options.model)
        _require_same(target, artefact)
        asking = Asking(client, target, options)
        workload = await asking.workload(_serves(artefact))
        await asking.probe(workload)
        job = _Job(client, asking, workload, options, progress)
        plan = await job.run()
    told = document(target, artefact, workload, options, job.levels, plan)
    requests = [
        record.to_json(number, level.run.begin)
        for number, level in enumerate(job.levels)
        for record in level.run.records
    ]
    return LoadResult(told, requests, job.levels)


def _require_same(target: Target, artefact: Artefact | None) -> None:
    if artefact and target.digest and target.digest != artefact.digest:
        raise UsageError(
            f"--artefact {artefact.directory} is not what {target.url} serves: its digest is "
            f"{artefact.digest[:12]}..., and the server's is {target.digest[:12]}..."
        )


def _serves(artefact: Artefact | None) -> Serves:
    if artefact is None:
        return Serves()
    known = artefact.tokenizer_digest is not None
    return Serves(artefact.directory if known else None, artefact.shape.vocab_size)


class _Job:
    """Measures level after level, and stops when the server is gone."""

    def __init__(
        self,
        client: Client,
        asking: Asking,
        workload: Workload,
        options: LoadOptions,
        progress: Progress,
    ) -> None:
        self._client, self._asking, self._workload = client, asking, workload
        self._options, self._progress = options, progress
        self._numbers = itertools.count()
        self.levels: list[Level] = []

    async def run(self) -> Plan:
        """Measures what the options ask for."""
        options = self._options
        if options.mode == "trace":
            await self._replay()
            return Plan(gone=await self._gone())
        if options.mode == "search":
            return await self._search()
        if options.mode == "sweep":
            return await self._sweep()
        if options.mode == "closed":
            return await self._each([{"concurrency": x} for x in options.concurrency])
        return await self._each([{"rate_rps": x} for x in options.rates])

    async def _each(self, offered: Sequence[dict[str, float]]) -> Plan:
        for done, level in enumerate(offered):
            where = f"[{done + 1}/{len(offered)}] "
            if "rate_rps" in level:
                await self._open(level["rate_rps"], self._options.duration_s, where)
            else:
                await self._closed(int(level["concurrency"]), self._options.requests, where)
            if await self._gone():
                return Plan(gone=True, unmeasured=list(offered[done + 1 :]))
        return Plan()

    async def _sweep(self) -> Plan:
        async def probe(places: int, requests: int) -> Level:
            return await self._closed(places, requests, "saturation: ", kept=False)

        found = await find_saturation(probe)
        offered = [{"rate_rps": rate} for rate in found.rates()]
        plan = await self._each(offered)
        return Plan(plan.gone, plan.unmeasured, found.to_json())

    async def _search(self) -> Plan:
        options = self._options
        assert options.slo
        search = Search(options.slo, options.duration_s, self._open, self._closed, self._gone)
        found = await search.run(options.rates[0] if options.rates else None)
        self.levels.sort(key=lambda level: level.offered.get("rate_rps", math.inf))
        # What was found comes first: it is what the document tells at its top.
        self.levels.sort(key=lambda level: level.offered.get("rate_rps") != found.rate_rps)
        return Plan(gone=await self._gone(), search=found.to_json())

    async def _gone(self) -> bool:
        last = self.levels[-1].failed if self.levels else {}
        return ("connect" in last or "truncated" in last) and not await answers(self._client)

    # -- levels ---------------------------------------------------------------------------------

    async def _open(self, rate: float, seconds: float, where: str = "") -> Level:
        options = self._options
        arrivals = Arrivals(rate, options.arrival, options.burstiness)
        most = None if options.mode == "search" else options.requests
        window = Window(options.before, seconds, most, options.timeout_s)
        total = most or max(1, round(rate * seconds))
        requests = self._workload.open(next(self._numbers), arrivals)
        with stage(self._progress, f"{where}{rate:g} requests a second", total):
            run = await open_loop(
                requests, self._asking.send, window, self._tell, options.concurrency_cap
            )
        return self._keep({"rate_rps": rate}, run)

    async def _replay(self) -> None:
        options, trace = self._options, self._workload.trace
        assert trace
        scale = options.rates[0] / trace.rate_rps if options.rates else 1.0
        window = Window(options.before, None, options.requests, options.timeout_s, cooldown=False)
        with stage(self._progress, "trace", len(trace.rows)):
            run = await open_loop(
                self._workload.replay(scale or 1.0),
                self._asking.send,
                window,
                self._tell,
                options.concurrency_cap,
            )
        rate = trace.rate_rps * scale
        self._keep(
            {"rate_rps": rate} if math.isfinite(rate) else {"requests": len(trace.rows)}, run
        )

    async def _closed(
        self, places: int, requests: int | None, where: str = "", *, kept: bool = True
    ) -> Level:
        options = self._options
        window = Window(options.before, options.duration_s, requests, options.timeout_s)
        # Without a number of requests the time is what passes.
        total = requests or max(1, round(options.duration_s))
        tell = self._tell if requests else lambda _: None
        drawn: Iterator[Any] = self._workload.closed(next(self._numbers))
        with stage(self._progress, f"{where}{places} under way", total):
            run = await closed_loop(drawn, self._asking.send, window, tell, places)
        return self._keep({"concurrency": places}, run, kept=kept)

    def _tell(self, _: Record) -> None:
        self._progress.advance()

    def _keep(self, offered: dict[str, float], run: Run, *, kept: bool = True) -> Level:
        exploring = self._options.mode in ("sweep", "search")
        accepted = _ANY_ERRORS if exploring else self._options.accept_errors
        level = make_level(offered, run, self._options, accept_errors=accepted)
        if kept:
            self.levels.append(level)
        return level
