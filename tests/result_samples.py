"""Documents of every kind, made from given numbers by the bench's own statistics."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np

from slimgpt_bench.intervals import INSUFFICIENT, paired_ratio, verdict
from slimgpt_bench.quantity import of_requests, of_runs, share_of
from slimgpt_bench.results import envelope
from tests.model_samples import LAYERS as LAYERS
from tests.model_samples import artefact as artefact
from tests.model_samples import digest as digest
from tests.model_samples import environment as environment
from tests.model_samples import fixed as fixed
from tests.model_samples import layer_errors as layer_errors
from tests.model_samples import manifest as manifest
from tests.model_samples import quality as quality
from tests.model_samples import shape as shape

SLO = {"ttft_s": 0.5, "tpot_s": 0.05}


def _runs(middle: float, runs: int, trials: int, seed: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [list(middle * rng.lognormal(0, 0.02, trials)) for _ in range(runs)]


def cell(batch: int, prompt: int, output: int, *, speed: float = 1.0, runs: int = 6) -> Any:
    """One cell; times fall with ``speed``."""
    step, prefill = 0.021 * (1 + 0.04 * batch) / speed, 0.00035 * prompt * batch / speed
    middles = {
        "prefill_s": prefill,
        "ttft_s": prefill + 0.002,
        "tpot_s": step,
        "itl_s": step,
        "e2e_s": prefill + 0.002 + step * (output - 1),
        "decode_tokens_per_s": batch / step,
    }
    found = {
        name: of_runs(_runs(middle, runs, 10, seed=i)).to_json()
        for i, (name, middle) in enumerate(middles.items())
    }
    sent = 10 * runs * batch
    return {
        "batch": batch,
        "prompt_tokens": prompt,
        "output_tokens": output,
        **found,
        "steady": {"slope": 0.0, "interval": [-0.01, 0.01]},
        "requests": {"sent": sent, "ok": sent, "failed": {}},
        "goodput_rps": None,
        "valid": True,
        "problems": [],
    }


def memory(scale: float = 1.0) -> dict[str, Any]:
    weights = round(13_476_831_232 * scale)
    return {
        "weights": {"file_bytes": weights, "resident_bytes": weights},
        "kv": {"bytes_per_token": round(524_288 * scale), "token_capacity": round(98_000 / scale)},
        "allocator": {
            "peak_allocated_bytes": None,
            "peak_reserved_bytes": None,
            "reason": "no CUDA device",
        },
        "device": {"total_bytes": None, "used_bytes": None, "reason": "no CUDA device"},
        "process": {"pss_bytes": weights + 310_000_000, "high_water_bytes": weights + 420_000_000},
    }


def latency(**changes: Any) -> dict[str, Any]:
    """Two batch sizes and two prompts on transformers."""
    cells = [cell(b, p, 128, speed=1.2) for b in (1, 8) for p in (128, 1024)]
    told = envelope(
        "latency",
        artefact=artefact("llama-7b-p25", 0.75),
        workload={"digest": digest("tokens"), "vocabulary": 32000},
        environment=environment(),
        valid=True,
        problems=[],
        engine="transformers",
        settings={"dtype": "float32", "compiled": False, "threads": 1},
        protocol={"runs": 6, "trials": 10, "warmup": 3, "preset": None},
        cells=cells,
        memory=memory(0.76),
        **{k: cells[0][k] for k in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "requests")},
        goodput_rps=None,
    )
    return fixed(told) | changes


def records(rate: float, count: int, *, capacity: float, level: int = 0) -> list[dict[str, Any]]:
    """Requests as a load measurement keeps them; they wait as the rate nears the capacity."""
    rng = np.random.default_rng(level)
    load = min(rate / capacity, 1.4)
    wait = 0.05 * load / (1 - load) if load < 0.97 else 1.5 * load
    found = []
    for i in range(count):
        ttft = 0.12 + float(rng.exponential(wait))
        gaps = [float(x) for x in 0.022 * (1 + 0.5 * load) * rng.lognormal(0, 0.05, 63)]
        found.append(
            {
                "level": level,
                "index": i,
                "phase": "measured",
                "scheduled_s": i / rate,
                "ok": True,
                "ttft_s": ttft,
                "gaps_s": gaps,
                "tpot_s": sum(gaps) / 63,
                "e2e_s": ttft + sum(gaps),
                "prompt_tokens": 128,
                "output_tokens": 64,
            }
        )
    return found


def level(rate: float, sent: list[dict[str, Any]], *, capacity: float) -> dict[str, Any]:
    good = [r["ttft_s"] <= SLO["ttft_s"] and r["tpot_s"] <= SLO["tpot_s"] for r in sent]
    share, duration = share_of(good), len(sent) / rate
    names = ("ttft_s", "tpot_s", "e2e_s")
    return {
        "offered": {"rate_rps": rate},
        "duration_s": duration,
        "achieved_rps": min(rate, capacity),
        **{name: of_requests([[r[name]] for r in sent]).to_json() for name in names},
        "itl_s": of_requests([r["gaps_s"] for r in sent]).to_json(),
        "queue": {"median_s": 0.0},
        "requests": {"sent": len(sent), "ok": len(sent), "failed": {}},
        "tokens": {"prompt": 128 * len(sent), "output": 64 * len(sent), "usage_mismatches": 0},
        "output_tokens_per_s": 64 * min(rate, capacity),
        "goodput_rps": share.value * rate,
        "goodput_interval": [x * rate for x in share.interval],
        "attainment": share.to_json(),
        "client": {"lag_p99_s": 0.001, "cpu_share": 0.2, "saturated": False},
        "steady": {"slope": 0.0},
        "saturated": rate > capacity,
        "valid": True,
        "problems": [],
    }


def load(
    capacity: float = 8.5, model: Mapping[str, Any] | None = None, **changes: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A sweep over five rates, and its raw records."""
    told, sent = deepcopy(_swept(capacity))
    return told | {"artefact": model or artefact("llama-7b-p25", 0.75)} | changes, sent


@cache
def _swept(capacity: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rates = (1.0, 2.0, 4.0, 8.0, 10.0)
    sent = [records(r, 320, capacity=capacity, level=i) for i, r in enumerate(rates)]
    levels = [level(r, s, capacity=capacity) for r, s in zip(rates, sent, strict=True)]
    told = envelope(
        "load",
        artefact=None,
        workload={
            "digest": digest("synthetic"),
            "source": {"kind": "token ids", "vocabulary": 32000},
            "prompt_tokens": {"kind": "fixed", "mean": 128, "parameters": [128.0]},
            "output_tokens": {"kind": "normal", "mean": 64, "parameters": [64.0, 8.0]},
        },
        environment=environment(),
        valid=True,
        problems=[],
        target={
            "url": "http://127.0.0.1:8000",
            "model": "llama-7b-p25",
            "server": {"software": "vllm", "version": "0.26.0"},
        },
        load={
            "arrival": "poisson",
            "burstiness": 1.0,
            "concurrency_cap": None,
            "duration_s": 60,
            "seed": 0,
        },
        slo={"objectives": SLO, "attainment": 0.95, "confidence": 0.95, "digest": digest("slo")},
        levels=levels,
        search=None,
        **{k: levels[0][k] for k in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "requests")},
        goodput_rps=levels[0]["goodput_rps"],
    )
    return fixed(told), [r for one in sent for r in one]


def told_ratio(above: list[list[float]], below: list[list[float]]) -> dict[str, Any]:
    medians = [[float(np.median(x)) for x in side] for side in (above, below)]
    value, interval = paired_ratio(*medians)
    ends = list(interval) if interval else INSUFFICIENT
    return {"ratio": value, "interval": ends, "verdict": verdict(interval)}


def ratio(
    above: float, below: float, runs: int = 6, seed: int = 0, *, third: float | None = None
) -> dict[str, Any]:
    """Dense over pruned; with ``third`` the time of a third model too."""
    dense, pruned = _runs(above, runs, 10, seed), _runs(below, runs, 10, seed + 100)
    found = told_ratio(dense, pruned) | {
        "dense": of_runs(dense).to_json(),
        "pruned": of_runs(pruned).to_json(),
        "third": None,
    }
    if third:
        other = _runs(third, runs, 10, seed + 200)
        found["third"] = told_ratio(dense, other) | {
            "third": of_runs(other).to_json(),
            "pruned_against_third": told_ratio(other, pruned),
        }
    return found


def compare(
    speed: float = 1.24, runs: int = 6, third: float | None = None, **changes: Any
) -> dict[str, Any]:
    """Dense against pruned, at two batch sizes; ``third`` is the speed of a third model."""
    cells = []
    for batch, prompt in ((1, 128), (8, 128), (8, 1024)):
        slow, fast = cell(batch, prompt, 128), cell(batch, prompt, 128, speed=speed)
        names = ("prefill_s", "ttft_s", "tpot_s", "e2e_s")
        ratios = {
            n: ratio(
                slow[n]["median"],
                fast[n]["median"],
                runs,
                seed=batch + i,
                third=slow[n]["median"] / third if third else None,
            )
            for i, n in enumerate(names)
        }
        sizes = {"batch": batch, "prompt_tokens": prompt, "output_tokens": 128}
        cells.append(sizes | ratios)
    dense, pruned = memory(), memory(0.76)
    told = envelope(
        "compare",
        artefact=artefact("llama-7b-p25", 0.75),
        workload={"digest": digest("tokens"), "vocabulary": 32000},
        environment=environment(),
        valid=True,
        problems=[],
        dense=artefact(),
        pruned=artefact("llama-7b-p25", 0.75),
        third=artefact("llama-7b-shallow", 0.76) if third else None,
        engine="transformers",
        protocol={"rounds": 6, "order": "ABBA", "trials": 10, "warmup": 3},
        cells=cells,
        memory={
            kind: {"dense": dense[kind], "pruned": pruned[kind], "ratio": 0.76} for kind in dense
        },
        predicted=None,
        differences=[],
        **{k: cells[0][k] for k in ("ttft_s", "tpot_s", "e2e_s", "prefill_s")},
    )
    return fixed(told) | changes


def labelled(value: float | str, unit: str, label: str = "measured") -> dict[str, Any]:
    return {"value": value, "unit": unit, "label": label, "source": "load result 1f2e, level 3"}


def bounds(values: tuple[float, float, float], unit: str) -> dict[str, Any]:
    names = ("lower", "point", "upper")
    return {n: labelled(v, unit) for n, v in zip(names, values, strict=True)}


def capacity(**changes: Any) -> dict[str, Any]:
    """A plan from a measured sweep, with money and a comparison."""
    told = envelope(
        "capacity",
        artefact=artefact("llama-7b-p25", 0.75),
        workload={"digest": digest("traffic")},
        environment=environment(),
        valid=True,
        problems=[],
        traffic={"peak_rps": labelled(120, "requests/s", "assumed")},
        slo={"objectives": SLO, "attainment": 0.95, "confidence": 0.95, "digest": digest("slo")},
        accelerator={"name": "h200", "memory_bytes": 151_397_597_184, "source": "datasheet"},
        replica={
            "rate_rps": bounds((6.1, 7.4, 8.0), "requests/s"),
            "kv_tokens": labelled(240_000, "tokens", "modelled"),
        },
        plan={
            "replicas": bounds((22, 25, 30), "replicas"),
            "demand_rps": labelled(172.8, "requests/s", "assumed"),
            "planned_replicas": labelled(30, "replicas"),
            "accelerators": bounds((22, 25, 30), "accelerators"),
            "planned_accelerators": labelled(30, "accelerators"),
            "per_replica_rps": labelled(5.96, "requests/s"),
            "spares": labelled(1, "replicas", "assumed"),
            "headroom": labelled(0.2, "share", "assumed"),
            "binding": labelled("decode bandwidth", "", "modelled"),
        },
        money={
            "price_per_accelerator_hour": labelled(3.5, "USD/h", "assumed"),
            "per_year": bounds((674_520, 919_800, 919_800), "USD/year"),
            "per_million_tokens": {
                "prompt": labelled(0.11, "USD"),
                "output": labelled(0.43, "USD"),
            },
        },
        baseline=None,
        difference={
            "accelerators": bounds((5, 7, 11), "accelerators"),
            "money_per_year": bounds((153_300, 214_620, 337_260), "USD/year"),
        },
        verification=None,
        evidence=[],
    )
    return fixed(told) | changes


def judged(**changes: Any) -> dict[str, Any]:
    """Two models on one text."""
    models = [artefact(f"llama-7b-p{p}", 1 - p / 100) for p in (25, 50)]
    told = envelope(
        "quality",
        artefact=artefact(),
        workload={"digest": digest("wikitext2"), "texts": []},
        environment=environment(),
        valid=True,
        problems=[],
        models=[{"artefact": m, "texts": m["quality"]["texts"]} for m in models],
    )
    return fixed(told) | changes
