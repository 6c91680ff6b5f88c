"""`slimgpt bench latency --engine vllm` with a real engine."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from slimgpt_bench.artefact import describe
from tests.serving.engines import KERNEL_HEAD, Engines
from tests.tiny_models import Tiny

pytestmark = [pytest.mark.serving, pytest.mark.slow]

SMALL = ["--prompt", "8", "--output", "5", "--runs", "1", "--trials", "4", "--warmup", "1"]
UNRESOLVED = 3


def test_a_pruned_model_is_measured_token_by_token(engines: Engines, tiny: Tiny) -> None:
    model = tiny.pruned(tiny.dense("llama-mha").path)
    command = [str(engines.python), "-P", "-m", "slimgpt", "bench", "latency", str(model), *SMALL]
    done = subprocess.run(
        [*command, "--engine", "vllm", "--batch", "1,3", "--json", "--quiet"],
        env=engines.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == UNRESOLVED, done.stderr  # one run has no interval
    assert "an interval needs 3 runs, and 1 gave times" in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["engine"], found["settings"]["dtype"]) == ("vllm", "float32")
    for cell in found["cells"]:
        assert cell["requests"]["ok"] == 4 * cell["batch"]
        assert cell["itl_s"]["n"] == 4 * 4  # every gap was seen
        assert 0 < cell["tpot_s"]["median"] < cell["ttft_s"]["median"] < cell["e2e_s"]["median"]
    kv, shape = found["memory"]["kv"], describe(model).shape
    # The engine's own tensors and tokens: what the widths say, in heads as wide as its kernels'.
    wider = KERNEL_HEAD / shape.head_dim
    assert kv["bytes_per_token"] == shape.kv_bytes_per_token(4)
    assert kv["measured_bytes_per_token"] == pytest.approx(wider * kv["bytes_per_token"], rel=0.01)
    assert kv["token_capacity_source"] == "told by the engine"
    assert kv["token_capacity"] * kv["measured_bytes_per_token"] == kv["reserved_bytes"]
