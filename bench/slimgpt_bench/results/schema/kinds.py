"""One model for each kind of document, and the union of them all."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from slimgpt_bench.results.schema.parts import (
    Amount,
    Artefact,
    Count,
    Ends,
    Envelope,
    Insufficient,
    Number,
    Part,
    Quantity,
    Ratio,
    Requests,
    Share,
    Slo,
)

Memory = dict[str, dict[str, Any]]
Label = Literal["measured", "modelled", "assumed"]


class Cell(Part):
    """One batch size and one pair of lengths on one engine."""

    batch: Count
    prompt_tokens: Count
    output_tokens: Count
    prefill_s: Quantity
    ttft_s: Quantity
    tpot_s: Quantity
    itl_s: Quantity
    e2e_s: Quantity
    decode_tokens_per_s: Quantity
    requests: Requests
    valid: bool
    problems: list[str]


class Latency(Envelope):
    """How fast the model alone is; the quantities at the top are the first cell's."""

    kind: Literal["latency"]
    engine: str
    settings: dict[str, Any]
    protocol: dict[str, Any]
    cells: list[Cell] = Field(min_length=1)
    memory: Memory
    ttft_s: Quantity
    tpot_s: Quantity
    itl_s: Quantity
    e2e_s: Quantity
    requests: Requests
    goodput_rps: Amount | Insufficient | None


class Level(Part):
    """One offered rate, or one number of concurrent clients."""

    offered: dict[str, Number]
    duration_s: Amount
    achieved_rps: Amount
    ttft_s: Quantity
    tpot_s: Quantity
    itl_s: Quantity
    e2e_s: Quantity
    requests: Requests
    tokens: dict[str, Any]
    output_tokens_per_s: Amount
    goodput_rps: Amount | Insufficient | None
    goodput_interval: Ends | Insufficient | None
    attainment: Share | None
    client: dict[str, Any]
    saturated: bool
    valid: bool
    problems: list[str]


class Target(Part):
    """The server that was asked, and what it tells of itself."""

    url: str
    model: str | None
    server: dict[str, Any] | None


class Load(Envelope):
    """How a server does under load; the quantities at the top are the first level's."""

    kind: Literal["load"]
    target: Target
    load: dict[str, Any]
    slo: Slo | None
    levels: list[Level] = Field(min_length=1)
    search: dict[str, Any] | None
    ttft_s: Quantity
    tpot_s: Quantity
    itl_s: Quantity
    e2e_s: Quantity
    requests: Requests
    goodput_rps: Amount | Insufficient | None


class Pair(Part):
    """One cell, on both models."""

    batch: Count
    prompt_tokens: Count
    output_tokens: Count
    prefill_s: Ratio
    ttft_s: Ratio
    tpot_s: Ratio
    e2e_s: Ratio


class Sides(Part):
    """One kind of memory of each model."""

    dense: dict[str, Any] | None = None
    pruned: dict[str, Any] | None = None
    third: dict[str, Any] | None = None


class Compare(Envelope):
    """Two models in one experiment; the ratios at the top are the first cell's."""

    kind: Literal["compare"]
    dense: Artefact
    pruned: Artefact
    third: Artefact | None
    engine: str
    protocol: dict[str, Any]
    cells: list[Pair] = Field(min_length=1)
    memory: dict[str, Sides]
    predicted: dict[str, Any] | None
    differences: list[str]
    ttft_s: Ratio
    tpot_s: Ratio
    e2e_s: Ratio


class Labelled(Part):
    """A number, and how far it may be trusted."""

    value: Number | str | None
    unit: str
    label: Label
    source: str


class Bounds(Part):
    """The same number in the worst case, as expected and in the best case."""

    lower: Labelled
    point: Labelled
    upper: Labelled


class Replica(Part):
    """What one replica can do."""

    rate_rps: Bounds


class Plan(Part):
    """What has to be bought."""

    replicas: Bounds


class Capacity(Envelope):
    """How many accelerators a traffic needs under an SLO."""

    kind: Literal["capacity"]
    traffic: dict[str, Any]
    slo: Slo
    accelerator: dict[str, Any]
    replica: Replica
    plan: Plan
    money: dict[str, Any] | None
    baseline: dict[str, Any] | None
    difference: dict[str, Any] | None
    verification: dict[str, Any] | None
    evidence: list[Any]


class Text(Part):
    """One text, scored by a model and by the dense one; None is beyond any number."""

    text: str
    window: Count
    protocol: str
    tokens: Count
    perplexity: Amount | None
    baseline_perplexity: Amount | None
    kl: Number | None


class Judged(Part):
    """One model and what it makes of the texts."""

    artefact: Artefact
    texts: list[Text]


class Quality(Envelope):
    """Perplexity and KL of models beside the dense one, which is the artefact."""

    kind: Literal["quality"]
    models: list[Judged] = Field(min_length=1)


Document = Annotated[Latency | Load | Compare | Capacity | Quality, Field(discriminator="kind")]


@cache
def adapter() -> TypeAdapter[Any]:
    """Checks documents of every kind."""
    return TypeAdapter(Document)


def schema_text() -> str:
    """What ``schema-1.json`` holds."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Result of a slimgpt measurement, schema version 1",
        **adapter().json_schema(),
    }
    return json.dumps(schema, indent=1) + "\n"
