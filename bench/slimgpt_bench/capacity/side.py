"""One model's part of a plan: what a replica holds, what it bears, how many there must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt_bench.accelerators import Accelerator
from slimgpt_bench.artefact import Artefact, describe
from slimgpt_bench.capacity.binding import binding, utilisations
from slimgpt_bench.capacity.evidence import Evidence, read_evidence
from slimgpt_bench.capacity.fluid import Fluid
from slimgpt_bench.capacity.levels import judged
from slimgpt_bench.capacity.money import Money, cost_of
from slimgpt_bench.capacity.number import Number, plain
from slimgpt_bench.capacity.plan import Margins, Plan, make_plan
from slimgpt_bench.capacity.rate import Rate, measured_rate, modelled_rate, no_rate
from slimgpt_bench.capacity.replica import Replica, Wishes, replica_of
from slimgpt_bench.capacity.traffic import Traffic
from slimgpt_bench.slo import Slo


@dataclass(frozen=True, slots=True)
class Terms:
    """What both models are planned under.

    Attributes:
        traffic: that comes.
        slo: to be met.
        accelerator: of every replica.
        wishes: how a replica is served.
        margins: headroom and spares.
        efficiency: of the roofline, that is assumed where nothing is measured.
        seed: of drawn requests.
    """

    traffic: Traffic
    slo: Slo
    accelerator: Accelerator
    wishes: Wishes
    margins: Margins
    efficiency: float
    seed: int


@dataclass(frozen=True, slots=True)
class Side:
    """A model's plan.

    Attributes:
        artefact: the model.
        replica: that serves it.
        fluid: the replica at the roofline's full speed.
        likely: at the efficiency that is assumed.
        evidence: that was measured; None for a model alone.
        rate: of a replica.
        plan: that follows.
        money: that it costs; None without a price.
        problems: what a reader must know.
    """

    artefact: Artefact
    replica: Replica
    fluid: Fluid
    likely: Fluid
    evidence: Evidence | None
    rate: Rate
    plan: Plan
    money: Money | None
    problems: tuple[str, ...]

    @property
    def unresolved(self) -> str | None:
        """Why there is no plan; None where there is one."""
        return self.rate.unresolved

    def replica_json(self, slo: Slo) -> dict[str, Any]:
        """The ``replica`` entry."""
        sample = "drawn from the lengths of --traffic"
        fluid = self.fluid
        used = utilisations(self.rate, self.fluid, self.likely)
        numbers = {
            "tokens_held": Number(fluid.held_tokens, "tokens", "modelled", f"mean, {sample}"),
            "tokens_at_end": Number(fluid.longest_tokens, "tokens", "modelled", f"p95, {sample}"),
            "concurrent": self._at_once(fluid.concurrent, "KV tokens over those held on average"),
            "concurrent_worst": self._at_once(
                fluid.concurrent_worst, "KV tokens over those held near the end, at p95"
            ),
            **self._floors(),
        }
        return {
            **self.replica.to_json(),
            **{name: number.to_json() for name, number in numbers.items()},
            "rate_rps": self.rate.bounds.to_json(),
            "levels": [level.to_json(slo) for level in self.rate.levels],
            "utilisation": {name: x.to_json() for name, x in used.items()},
        }

    def _at_once(self, sequences: float, source: str) -> Number:
        """What the KV cache holds, or what the server takes where that is less."""
        if sequences == self.replica.sequences:
            source = f"max_sequences: {source} would be more"
        return Number(sequences, "sequences", "modelled", source)

    def _floors(self) -> dict[str, Number]:
        source = "roofline: no engine is faster"
        median = float(sorted(self.fluid.prefill_s)[len(self.fluid.prefill_s) // 2])
        step = self.fluid.step_s(1)
        return {
            "ttft_floor_s": Number(median, "s", "modelled", f"{source}, median prompt, alone"),
            "tpot_floor_s": Number(step, "s", "modelled", f"{source}, one sequence"),
        }

    def to_json(self, slo: Slo) -> dict[str, Any]:
        """As an entry of its own: of the baseline."""
        return {
            "artefact": self.artefact.to_json(),
            "replica": self.replica_json(slo),
            "plan": {
                **self.plan.to_json(),
                "binding": binding(self.rate, self.fluid, self.likely, slo),
            },
            "money": self.money.to_json() if self.money else None,
            "evidence": [dict(x) for x in self.evidence.runs] if self.evidence else [],
            "problems": list(self.problems),
        }


def plan_side(directory: Path, evidence: Sequence[Path], flag: str, terms: Terms) -> Side:
    """Plans one model.

    Args:
        directory: of the model.
        evidence: runs that were measured on it; may be empty.
        flag: that they were given by.
        terms: of the plan.

    Raises:
        UsageError: what was given can't be used.
        EnvironmentProblem: the model does not fit the accelerator.
        Unresolved: the evidence is not of this plan.
        IntegrityError: something is damaged.
    """
    artefact = describe(directory)
    replica = replica_of(artefact, terms.accelerator, terms.wishes)
    best = Fluid(replica, terms.traffic, 1.0, terms.seed)
    likely = Fluid(replica, terms.traffic, terms.efficiency, terms.seed)
    found = None
    if evidence:
        found = read_evidence(evidence, artefact, terms.accelerator, terms.traffic, flag)
    too_long = _too_long(best)
    if too_long > 1 - terms.slo.attainment:
        rate = no_rate(_words(best, too_long) + f"so no rate can meet {terms.slo.attainment:.1%}")
    elif found:
        levels = judged(found.levels, terms.slo)
        rate = measured_rate(levels, terms.slo, found.label, found.source)
    else:
        rate = modelled_rate(best, likely, terms.slo)
    plan = make_plan(terms.traffic, rate, terms.margins, replica.degree)
    problems = [*(found.problems if found else ()), *rate.problems]
    if too_long and not rate.unresolved:
        problems.append(_words(best, too_long) + "so that they fail")
    problems += _queues(best, rate)
    return Side(
        artefact=artefact,
        replica=replica,
        fluid=best,
        likely=likely,
        evidence=found,
        rate=rate,
        plan=plan,
        money=cost_of(plan, rate, terms.traffic, best),
        problems=tuple(problems),
    )


def _too_long(fluid: Fluid) -> float:
    """Share of the requests that no server takes."""
    context = fluid.replica.context
    return 0.0 if context is None else float((fluid.sample.sum(axis=1) > context).mean())


def _words(fluid: Fluid, share: float) -> str:
    return (
        f"{share:.1%} of the requests in --traffic are longer than the model's context of "
        f"{fluid.replica.context:,} tokens, "
    )


def _queues(fluid: Fluid, rate: Rate) -> list[str]:
    """Little's law against what the replica holds."""
    found = rate.bounds.lower.value
    if not rate.measured or found is None:
        return []
    level = rate.near(found)
    if level.in_flight <= fluid.concurrent:
        return []
    return [
        f"at {plain(found)} requests/s {level.in_flight:.1f} requests were under way and "
        f"{fluid.concurrent:.1f} fit: the others waited, which is in their time to first token"
    ]
