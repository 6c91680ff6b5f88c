"""``slimgpt capacity`` from what was asked to a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimgpt.errors import SlimGPTError, Unresolved
from slimgpt.progress import Progress
from slimgpt_bench.accelerators import find
from slimgpt_bench.capacity.difference import difference
from slimgpt_bench.capacity.fluid import EFFICIENCY
from slimgpt_bench.capacity.plan import Margins
from slimgpt_bench.capacity.replica import Wishes
from slimgpt_bench.capacity.side import Side, Terms, plan_side
from slimgpt_bench.capacity.traffic import read_traffic
from slimgpt_bench.capacity.verify import Verification, verify
from slimgpt_bench.provenance import environment
from slimgpt_bench.results import envelope
from slimgpt_bench.slo import read_slo

NOTHING_MEASURED = (
    "Nothing was measured: every rate is modelled from a roofline. Give --evidence before money "
    "is spent."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked for.

    Attributes:
        model: directory of OUT.
        traffic: file.
        slo: file.
        accelerator: name or file.
        evidence: saved load runs of the model.
        baseline: directory of the dense model.
        baseline_evidence: saved load runs of that.
        wishes: how a replica is served.
        margins: headroom and spares.
        price: of an accelerator an hour.
        efficiency: of the roofline, where nothing was measured.
        verify: address of a live replica.
        duration_s: of the verification.
        api_key: of that replica.
        device: that ``here`` means.
        seed: of drawn requests, and of the verification's.
    """

    model: Path
    traffic: Path
    slo: Path
    accelerator: str
    evidence: tuple[Path, ...] = ()
    baseline: Path | None = None
    baseline_evidence: tuple[Path, ...] = ()
    wishes: Wishes = field(default_factory=Wishes)
    margins: Margins = field(default_factory=Margins)
    price: float | None = None
    efficiency: float = EFFICIENCY
    verify: str | None = None
    duration_s: float = 60.0
    api_key: str | None = field(default=None, repr=False)
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A plan, ready to be told.

    Attributes:
        terms: that it is for.
        side: the model's plan.
        baseline: the dense model's; None where none was given.
        verification: on a live replica; None where none was asked for.
        document: as ``--json`` prints it.
        problem: why the exit code is not 0.
    """

    terms: Terms
    side: Side
    baseline: Side | None
    verification: Verification | None
    document: Mapping[str, Any]
    problem: SlimGPTError | None


def plan_capacity(asked: Asked, progress: Progress) -> Outcome:
    """Plans, and verifies where a replica was given.

    Raises:
        UsageError: something given can't be used.
        EnvironmentProblem: a model does not fit the accelerator, or a replica does not answer.
        Unresolved: the evidence is not of this plan.
        IntegrityError: something is damaged.
    """
    terms = Terms(
        traffic=read_traffic(asked.traffic).with_price(asked.price),
        slo=read_slo(asked.slo),
        accelerator=find(asked.accelerator, device=asked.device),
        wishes=asked.wishes,
        margins=asked.margins,
        efficiency=asked.efficiency,
        seed=asked.seed,
    )
    side = plan_side(asked.model, asked.evidence, "--evidence", terms)
    baseline = None
    if asked.baseline:
        flag = "--baseline-evidence"
        baseline = plan_side(asked.baseline, asked.baseline_evidence, flag, terms)
    checked = None
    if asked.verify and not side.unresolved:
        checked = verify(
            asked.verify, side, terms, asked.duration_s, progress, api_key=asked.api_key
        )
    problem = _problem(side, checked)
    document = _document(terms, side, baseline, checked, problem)
    return Outcome(terms, side, baseline, checked, document, problem)


def _problem(side: Side, checked: Verification | None) -> SlimGPTError | None:
    if side.unresolved:
        return Unresolved(side.unresolved)
    return checked.problem if checked else None


def _document(
    terms: Terms,
    side: Side,
    baseline: Side | None,
    checked: Verification | None,
    problem: SlimGPTError | None,
) -> dict[str, Any]:
    told = side.to_json(terms.slo)
    problems = [] if side.rate.measured else [NOTHING_MEASURED]
    problems += [*side.problems, *(_of_baseline(side, baseline) if baseline else [])]
    problems += [str(problem)] if problem else []
    platform = terms.accelerator.platform if terms.accelerator.measured else "cpu"
    return envelope(
        "capacity",
        artefact=side.artefact.to_json(),
        workload={"digest": terms.traffic.digest},
        environment=environment(platform),
        valid=problem is None,
        problems=problems,
        traffic=terms.traffic.to_json(),
        slo=terms.slo.to_json(),
        accelerator=terms.accelerator.to_json(),
        replica=told["replica"],
        plan=told["plan"],
        money=told["money"],
        baseline=baseline.to_json(terms.slo) if baseline else None,
        difference=difference(baseline, side) if baseline else None,
        verification=checked.to_json() if checked else None,
        evidence=told["evidence"],
    )


def _of_baseline(side: Side, baseline: Side) -> list[str]:
    found = [f"--baseline: {x}" for x in baseline.problems]
    if baseline.unresolved:
        found.append(f"--baseline: {baseline.unresolved}")
    if baseline.rate.measured != side.rate.measured:
        found.append(
            "one of the two plans is measured and the other modelled, and so is their difference: "
            "give --evidence and --baseline-evidence"
        )
    return found
