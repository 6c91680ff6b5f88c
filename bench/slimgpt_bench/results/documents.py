"""What every document begins with: what was measured, by what, when, where and whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import slimgpt

SCHEMA = 1
Kind = Literal["latency", "load", "compare", "capacity", "quality"]
KINDS: tuple[str, ...] = get_args(Kind)


def envelope(
    kind: Kind,
    *,
    artefact: Mapping[str, Any] | None,
    workload: Mapping[str, Any],
    environment: Mapping[str, Any],
    valid: bool,
    problems: Sequence[str],
    **body: Any,
) -> dict[str, Any]:
    """A whole document: what ``--json`` prints and ``--save`` keeps.

    Args:
        kind: of measurement; decides what the body holds.
        artefact: the model; None where what was asked can't tell it.
        workload: what was asked of it, with its ``digest``.
        environment: as :func:`slimgpt_bench.provenance.environment` has it.
        valid: the numbers are what they seem to be.
        problems: what a reader must know, each a sentence.
        body: of this kind.
    """
    from slimgpt_bench.provenance import command

    return {
        "schema": SCHEMA,
        "kind": kind,
        "slimgpt_version": slimgpt.__version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command(),
        "environment": dict(environment),
        "artefact": None if artefact is None else dict(artefact),
        "workload": dict(workload),
        "valid": valid,
        "problems": list(problems),
        **body,
    }
