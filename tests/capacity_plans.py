"""Models, traffic, SLOs and measurements to plan with, made in a moment.

A large checkpoint is headers and a hole: planning reads no weights. A load result is made of
requests with known times, and saved as the bench saves it.
"""

from __future__ import annotations

import json
import statistics
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from slimgpt.shape import LayerShape, ModelShape
from slimgpt_bench.artefact import Artefact
from slimgpt_bench.capacity.levels import Request
from slimgpt_bench.intervals import INSUFFICIENT
from slimgpt_bench.provenance import environment
from slimgpt_bench.results import envelope, save

LLAMA_8B = ModelShape(4096, 128, 128256, (LayerShape(32, 8, 14336),) * 32)
PRUNED_8B = LLAMA_8B.with_layers((LayerShape(24, 6, 11520),) * 32)
PROMPT, OUTPUT = 512, 128
_DURATION_S = 60.0


def write_checkpoint(directory: Path, shape: ModelShape, context: int = 8192) -> Path:
    """A uniform Llama in bfloat16 whose weights are a hole in a sparse file."""
    directory.mkdir(parents=True)
    layer = shape.layers[0]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": layer.ffn,
        "num_attention_heads": layer.query_heads,
        "num_key_value_heads": layer.kv_heads,
        "head_dim": shape.head_dim,
        "num_hidden_layers": len(shape.layers),
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": context,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
    }
    (directory / "config.json").write_text(json.dumps(config))
    tensors = dict(shape.outer_tensors())
    for i, each in enumerate(shape.layers):
        tensors |= {f"model.layers.{i}.{k}": v for k, v in shape.layer_tensors(each).items()}
    header: dict[str, Any] = {}
    end = 0
    for name, size in tensors.items():
        start, end = end, end + 2 * prod(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(told)) + told)
        file.truncate(8 + len(told) + end)
    return directory


def write_traffic(path: Path, **changes: Any) -> Path:
    """A traffic file; a change to None leaves the key out. JSON is YAML."""
    told = {
        "schema": 1,
        "rate_rps": 40,
        "prompt_tokens": f"fixed:{PROMPT}",
        "output_tokens": f"fixed:{OUTPUT}",
    }
    whole = {k: v for k, v in (told | changes).items() if v is not None}
    path.write_text(json.dumps(whole))
    return path


def write_slo(path: Path, attainment: float = 0.95, **objectives: float) -> Path:
    """An SLO file, of half a second to the first token where nothing else is said."""
    told = {"schema": 1, "objectives": objectives or {"ttft_s": 0.5}, "attainment": attainment}
    path.write_text(json.dumps(told))
    return path


@dataclass(frozen=True)
class Outcome:
    """What became of the requests at one rate.

    Attributes:
        good: requests that met half a second to the first token.
        late: that needed a whole one.
        failed: that failed.
        saturated: the queue grew.
    """

    good: int
    late: int = 0
    failed: int = 0
    saturated: bool = False

    @property
    def sent(self) -> int:
        return self.good + self.late + self.failed

    def requests(
        self, level: int, prompt: int = PROMPT, output: int = OUTPUT
    ) -> list[dict[str, Any]]:
        """Raw records, misses spread evenly among those that are good."""
        kinds = ["late"] * self.late + ["failed"] * self.failed
        every = self.sent / len(kinds) if kinds else 0
        misses = {int((i + 0.5) * every): kind for i, kind in enumerate(kinds)}
        made = []
        for i in range(self.sent):
            kind = misses.get(i)
            at = _DURATION_S * i / self.sent
            made.append(_request(level, i, at, kind, prompt, output))
        return made


def _request(
    level: int, index: int, at_s: float, kind: str | None, prompt: int, output: int
) -> dict[str, Any]:
    ttft, tpot = (1.0 if kind == "late" else 0.2), 0.02
    e2e = ttft + tpot * (output - 1)
    told: dict[str, Any] = {
        "level": level,
        "index": index,
        "phase": "measured",
        "scheduled_s": at_s,
        "sent_s": at_s,
        "ended_s": at_s + e2e,
        "ok": kind != "failed",
        "failure": "http_5xx" if kind == "failed" else None,
        "asked_prompt_tokens": prompt,
        "asked_output_tokens": output,
        "prompt_tokens": None if kind == "failed" else prompt,
        "output_tokens": None if kind == "failed" else output,
    }
    times = {"ttft_s": ttft, "e2e_s": e2e, "tpot_s": tpot, "itl_max_s": tpot}
    return told if kind == "failed" else told | times


def load_result(
    model: Artefact,
    /,
    outcomes: Mapping[float, Outcome],
    *,
    prompt: int = PROMPT,
    output: int = OUTPUT,
    **changes: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The document and raw requests of an open loop on this machine, one level for each rate."""
    raw = [x.requests(i, prompt, output) for i, x in enumerate(outcomes.values())]
    levels = [
        _level(rate, outcome, requests)
        for (rate, outcome), requests in zip(outcomes.items(), raw, strict=True)
    ]
    body: dict[str, Any] = {
        "target": {"url": "http://127.0.0.1:8000", "model": "m", "server": {}},
        "load": {"arrival": "poisson", "burstiness": 1.0, "concurrency_cap": None, "seed": 0},
        "slo": None,
        "levels": levels,
        "search": None,
    }
    top = {name: levels[0][name] for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "requests")}
    document = envelope(
        "load",
        artefact=model.to_json(),
        workload={"digest": "0" * 64},
        environment=_machine(),
        valid=True,
        problems=[],
        **(body | top | {"goodput_rps": None}),
    )
    return document | changes, [x for requests in raw for x in requests]


@cache
def _machine() -> dict[str, Any]:
    return environment("cpu")


def _level(rate: float, outcome: Outcome, requests: Sequence[Request]) -> dict[str, Any]:
    ok = [x for x in requests if x["ok"]]

    def quantity(name: str) -> dict[str, Any]:
        """Without intervals, which nothing here reads and which take a while."""
        median = statistics.median(x[name] for x in ok)
        unknown = dict.fromkeys(("p95", "p99", "interval"), INSUFFICIENT)
        return {"median": median, **unknown, "n": len(ok)}

    return {
        "offered": {"rate_rps": rate},
        "duration_s": _DURATION_S,
        "achieved_rps": len(ok) / _DURATION_S,
        "ttft_s": quantity("ttft_s"),
        "tpot_s": quantity("tpot_s"),
        "itl_s": quantity("itl_max_s"),
        "e2e_s": quantity("e2e_s"),
        "requests": {
            "sent": outcome.sent,
            "ok": len(ok),
            "failed": {"http_5xx": outcome.failed} if outcome.failed else {},
        },
        "tokens": {"usage_mismatches": 0, "early_stops": 0},
        "output_tokens_per_s": sum(x["output_tokens"] for x in ok) / _DURATION_S,
        "goodput_rps": None,
        "goodput_interval": None,
        "attainment": None,
        "client": {"saturated": False},
        "steady": {},
        "saturated": outcome.saturated,
        "valid": not outcome.failed,
        "problems": [f"{outcome.failed} requests failed"] if outcome.failed else [],
    }


def save_load(
    directory: Path, model: Artefact, /, outcomes: Mapping[float, Outcome], **options: Any
) -> Path:
    """A saved load result."""
    save(directory, *load_result(model, outcomes, **options))
    return directory
