"""Files to plan with on a desk of their own, and the command that is given them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt_bench.artefact import Artefact, describe
from tests.capacity_plans import (
    LLAMA_8B,
    PRUNED_8B,
    Outcome,
    save_load,
    write_checkpoint,
    write_slo,
    write_traffic,
)

SWEEP: Mapping[float, Outcome] = {
    2: Outcome(500),
    4: Outcome(500),
    8: Outcome(96, 4),
    16: Outcome(300, 200),
}
CPU = "schema: 1\nname: box\nplatform: cpu\nmemory_gib: 64\nterabytes_per_s: 9\n"
CPU += "teraflops: {float32: 900}\n"
"""A machine as fast as no other: what the roofline says is then never in the way."""


class Desk:
    """Files to plan with, and the command."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self._capture = root, capture
        self.dense = write_checkpoint(root / "dense", LLAMA_8B)
        self.pruned = write_checkpoint(root / "pruned", PRUNED_8B)
        self.traffic = write_traffic(root / "traffic.yaml")
        self.slo = write_slo(root / "slo.yaml")
        (root / "box.yaml").write_text(CPU)

    @property
    def artefact(self) -> Artefact:
        return describe(self.pruned)

    def sweep(
        self, name: str = "run", outcomes: Mapping[float, Outcome] = SWEEP, **options: Any
    ) -> Path:
        """A saved measurement of the pruned model."""
        return save_load(self.root / name, self.artefact, outcomes, **options)

    def plan(self, *options: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        given = [str(x) for x in options]
        fixed = ["--traffic", self.traffic, "--slo", self.slo]
        if "--accelerator" not in given:
            fixed += ["--accelerator", self.root / "box.yaml"]
        self._capture.readouterr()
        code = run(["capacity", str(self.pruned), *map(str, fixed), *given])
        return code, *self._capture.readouterr()

    def document(self, *options: str | Path) -> dict[str, Any]:
        """What ``--json`` prints."""
        _, stdout, _ = self.plan("--json", *options)
        found: dict[str, Any] = json.loads(stdout)
        return found
