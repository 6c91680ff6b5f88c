"""Saved load measurements as evidence of a plan: refused unless they are of what is planned."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from slimgpt.checkpoint.digest import file_sha256
from slimgpt.errors import IntegrityError, Unresolved, UsageError
from slimgpt_bench.accelerators import HERE, Accelerator
from slimgpt_bench.artefact import Artefact
from slimgpt_bench.capacity.levels import Raw, Request, raw_levels, require_whole
from slimgpt_bench.capacity.number import Label
from slimgpt_bench.capacity.traffic import Traffic
from slimgpt_bench.provenance import environment
from slimgpt_bench.results import read
from slimgpt_bench.results.saving import REQUESTS, RESULT

SAME, NEAR = 1.1, 1.5
"""Lengths whose means and p95 differ by no more than the first factor are those of the traffic; up
to the second the plan extrapolates, and beyond it nothing was measured."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Runs that were measured on the artefact, with levels of an open loop.

    Attributes:
        levels: of all runs.
        label: ``measured``, or ``modelled`` where lengths or arrivals are not the traffic's.
        source: for people.
        problems: what a reader must know.
        runs: name, date and digest of each.
    """

    levels: tuple[Raw, ...]
    label: Label
    source: str
    problems: tuple[str, ...]
    runs: tuple[Mapping[str, Any], ...]


def read_evidence(
    paths: Sequence[Path],
    artefact: Artefact,
    accelerator: Accelerator,
    traffic: Traffic,
    flag: str = "--evidence",
) -> Evidence:
    """Reads and checks runs.

    Args:
        paths: what ``slimgpt bench load --save`` made.
        artefact: that is planned for.
        accelerator: that it is planned on.
        traffic: that is planned for.
        flag: that they were given by, for messages.

    Raises:
        UsageError: a path is no load result of this schema.
        IntegrityError: one is damaged.
        Unresolved: one is of something else, or too far from the traffic.
    """
    levels: list[Raw] = []
    problems: list[str] = []
    runs = []
    for path in paths:
        shown = f"{flag} {path}"
        document = _document(path, shown)
        problems += _same_artefact(document, artefact, shown)
        problems += _same_device(document, accelerator, shown)
        found, left_out = raw_levels(document, _requests(path, shown), str(path))
        problems += [f"{shown}: {x}" for x in left_out]
        if not found:
            raise Unresolved(
                f"{shown} has no valid level of an open loop: {'; '.join(left_out)}; measure with "
                "slimgpt bench load URL --rate 1,2,4"
            )
        problems += _same_arrivals(document, traffic, shown)
        levels += found
        runs.append(_told(path, document))
    far = _lengths(levels, traffic, flag)
    extrapolated = bool(far) or any("extrapolated" in x for x in problems)
    label: Label = "modelled" if extrapolated else "measured"
    names = ", ".join(path.name for path in paths)
    source = f"{'extrapolated from' if extrapolated else 'levels of'} {names}"
    return Evidence(tuple(levels), label, source, (*problems, *far), tuple(runs))


def _document(path: Path, shown: str) -> dict[str, Any]:
    try:
        document = read(path)
    except UsageError as reason:
        raise UsageError(f"{shown}: {reason}") from None
    if document["kind"] != "load":
        raise UsageError(
            f"{shown} is of kind {document['kind']}: give what slimgpt bench load --save made"
        )
    return document


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _requests(path: Path, shown: str) -> list[Request]:
    """The raw requests, whose digest the result holds."""
    file = _folder(path) / REQUESTS
    try:
        with file.open(encoding="utf-8") as lines:
            return [require_whole(json.loads(line)) for line in lines]
    except OSError:
        raise IntegrityError(
            f"{shown} has no {REQUESTS}, which attainment is counted in: copy the whole directory"
        ) from None
    except ValueError as reason:
        raise IntegrityError(f"{file} is damaged: {reason}") from None


def _told(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": _folder(path).resolve().name,
        "created": document["created"],
        "sha256": file_sha256(_folder(path) / RESULT),
        "workload": document["workload"].get("digest"),
    }


def _same_artefact(document: Mapping[str, Any], artefact: Artefact, shown: str) -> list[str]:
    """Refuses what was measured on another model."""
    server = document["target"].get("server") or {}
    model = document["artefact"] or {}
    told = {x for x in (model.get("digest"), server.get("digest")) if x}
    if not told:
        raise Unresolved(
            f"{shown} does not tell which model was served: measure again with --artefact "
            f"{artefact.name}"
        )
    if told != {artefact.digest}:
        other = next(iter(told - {artefact.digest}))
        raise Unresolved(
            f"{shown} was measured on another model, of digest {other[:12]}: {artefact.name} has "
            f"{artefact.digest[:12]}; measure it, or plan for the other"
        )
    return []


def _same_device(document: Mapping[str, Any], accelerator: Accelerator, shown: str) -> list[str]:
    """Refuses what ran on something else; what a remote server runs on nobody can tell."""
    found = document["environment"]
    local = urlsplit(document["target"]["url"]).hostname in _LOOPBACK
    if not local and accelerator.name == HERE:
        raise Unresolved(
            f"{shown} was measured on a server elsewhere, and --accelerator is here: name the "
            "accelerator that it has"
        )
    same = _is_device(found, accelerator) if local else None
    if same is None:
        return [f"{shown}: that its server ran on {accelerator.name} is taken on trust"]
    if not same:
        gpus = ", ".join(x.get("name", "") for x in found.get("gpus") or [])
        raise Unresolved(
            f"{shown} was measured on {gpus or found.get('cpu')}, and the plan is for "
            f"--accelerator {accelerator.name}: measure there, or plan for what was measured"
        )
    return []


def _is_device(found: Mapping[str, Any], accelerator: Accelerator) -> bool | None:
    """Whether a machine is, or has, the accelerator; None where nobody can tell."""
    here = environment("cuda")
    same_machine = bool(found.get("cpu") == here["cpu"])
    if accelerator.name == HERE:
        return same_machine
    if accelerator.platform == "cpu":
        return None
    gpus = found.get("gpus")
    if gpus is None:  # no GPU was asked for; a machine without any is known not to have it
        return False if same_machine and not here["gpus"] else None
    model = re.escape(accelerator.name.partition("-")[0])
    return any(re.search(rf"\b{model}\b", gpu.get("name", "").lower()) for gpu in gpus)


def _same_arrivals(document: Mapping[str, Any], traffic: Traffic, shown: str) -> list[str]:
    load = document["load"]
    arrival = load["arrival"]
    burstiness = float("inf") if arrival == "constant" else float(load.get("burstiness") or 1.0)
    if arrival == "trace" or burstiness <= traffic.burstiness:
        return []
    return [
        f"{shown}: arrivals were {arrival} with burstiness {burstiness:g}, smoother than the "
        f"traffic's {traffic.burstiness:g}: its rates are extrapolated"
    ]


def _lengths(levels: Sequence[Raw], traffic: Traffic, flag: str) -> list[str]:
    """What differs of the lengths; refuses what is too far."""
    requests = [x for level in levels for x in level.requests]
    problems = []
    for name, wanted in (("prompt_tokens", traffic.prompt), ("output_tokens", traffic.output)):
        seen = [x.get(name) or x.get(f"asked_{name}") for x in requests]
        known = np.array([x for x in seen if x], dtype=np.float64)
        if not len(known):
            raise Unresolved(f"{flag}: its requests don't tell {name}: measure with --tokenizer")
        pairs = {
            "mean": (float(known.mean()), wanted.mean),
            "p95": (float(np.quantile(known, 0.95)), wanted.quantile(0.95)),
        }
        for what, (measured, planned) in pairs.items():
            apart = max(measured / planned, planned / measured)
            if abs(measured - planned) <= 1:  # a token, as tokenisers differ at the ends
                continue
            words = (
                f"{flag}: {what} of {name} is {measured:.0f} there and {planned:.0f} in --traffic"
            )
            if apart > NEAR:
                raise Unresolved(f"{words}: too far apart to say anything; measure these lengths")
            if apart > SAME:
                problems.append(f"{words}: rates are extrapolated")
    return problems
