"""Measurements of the roofline in a process of their own.

One JSON object comes in as the only argument; one goes out on the last line of standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slimgpt.errors import EnvironmentProblem, SlimGPTError
from slimgpt_bench.roofline.layer_times import LayerTimes, LayerTimesOptions, measure_layers
from slimgpt_bench.roofline.width_cost import WidthCost, WidthCostOptions, measure_width

_LAYERS, _WIDTH = "layers", "width"


def layer_times(
    model: Path, options: LayerTimesOptions, environment: Mapping[str, str] = os.environ
) -> LayerTimes:
    """Seconds of every layer of a checkpoint.

    Raises:
        EnvironmentProblem: the process died; its last line says why.
    """
    said = _ask({"do": _LAYERS, "model": str(model), "options": asdict(options)}, environment)
    return LayerTimes(**{k: tuple(v) for k, v in said.items()})


def width_cost(options: WidthCostOptions, environment: Mapping[str, str] = os.environ) -> WidthCost:
    """What a width costs beside another; errors as :func:`layer_times`."""
    said = _ask({"do": _WIDTH, "options": asdict(options)}, environment)
    interval = said.pop("interval")
    return WidthCost(**said, interval=tuple(interval) if interval else None)


def _ask(asked: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "slimgpt_bench.roofline.apart", json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
        env=dict(environment),
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EnvironmentProblem(f"measuring {asked['do']} for the roofline ended: {last}")
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def main() -> None:
    """Reads what is asked, and answers."""
    asked = json.loads(sys.argv[1])
    try:
        if asked["do"] == _LAYERS:
            options = LayerTimesOptions(**asked["options"])
            found = asdict(measure_layers(Path(asked["model"]), options))
        else:
            found = measure_width(WidthCostOptions(**asked["options"])).to_json()
    except SlimGPTError as reason:
        sys.exit(str(reason))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
