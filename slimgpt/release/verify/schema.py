"""What slimgpt.json must look like: the manifest of a checkpoint that came from anyone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

import slimgpt
from slimgpt.checkpoint.reader import MANIFEST
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.errors import IntegrityError
from slimgpt.release.manifest import SCHEMA

_MOST_PROBLEMS = 5
_LARGEST = 2**53

Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, StringConstraints(min_length=1)]
Dtype = Literal["float32", "float16", "bfloat16"]


class Entry(BaseModel):
    """Strict in types; what a later version adds is left to it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Layer(Entry):
    """Widths of one layer."""

    query_heads: Count
    kv_heads: Count
    ffn: Count


class Shape(Entry):
    """As :meth:`slimgpt.shape.ModelShape.to_manifest` writes it."""

    hidden_size: Count
    head_dim: Count
    layers: list[Layer] = Field(min_length=1)


class Source(Entry):
    """The dense checkpoint."""

    name: str
    digest: Digest
    shape: Shape | None = None


class Parameters(Entry):
    """Counts of the dense model and of this one."""

    before: Count
    after: Count
    decoder_before: Annotated[Count, Field(ge=1)]
    decoder_after: Count


class TextClaim(Entry):
    """Perplexity of one text, and how it was measured; null is a value that is no number."""

    text: Name
    file: Name | None = None
    sha256: Digest
    window: int = Field(ge=2, le=2**31 - 1)
    protocol: Literal["raw", "paper"]
    how: str | None = None
    perplexity: Number | None
    baseline_perplexity: Number | None = None
    kl: Number | None = None
    dtype: Dtype | None = None


class Metric(Entry):
    """A metric that is no accuracy."""

    value: Number | None
    stderr: Number | None = None


class Scores(Entry):
    """What a model reached in a task."""

    acc: Number | None = None
    acc_stderr: Number | None = None
    acc_norm: Number | None = None
    acc_norm_stderr: Number | None = None
    metrics: dict[str, Metric] = {}


class TaskClaim(Scores):
    """Results of one task, and how they were measured."""

    n: Count
    num_fewshot: Count | None = None
    limit: Count | None = None
    file: Name | None = None
    sha256: Digest | None = None
    protocol: str | None = None
    harness: str | None = None
    seed: int = Field(0, ge=0, le=2**32 - 1)
    dtype: Dtype | None = None
    baseline: Scores | None = None

    @model_validator(mode="after")
    def _file_is_known(self) -> Self:
        if self.file is not None and self.sha256 is None:
            raise PydanticCustomError("no_digest", "a task from a file needs its sha256")
        return self

    @property
    def file_digest(self) -> str | None:
        """SHA-256 of the file that it was asked from; None where lm-eval had the questions."""
        return self.sha256 if self.file is not None else None


class AccuracyClaim(Entry):
    """Mean accuracy against the dense model's."""

    metric: str
    mean: Number | None
    baseline_mean: Number | None
    ratio: Number | None
    lower: Number | None
    upper: Number | None
    interval: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None
    confidence: Annotated[Number, Field(ge=0.5, lt=1)]
    tasks: Count
    n: Count


class Quality(Entry):
    """What was measured."""

    texts: list[TextClaim] = []
    tasks: dict[str, TaskClaim] = {}
    accuracy: AccuracyClaim | None = None


class GateClaim(Entry):
    """Outcome of a gate."""

    name: str
    measured: Number | None
    limit: Number
    margin: Number | None
    passed: bool
    unit: str
    why: str


class Manifest(Entry):
    """slimgpt.json of a checkpoint."""

    slimgpt_version: str
    source: Source
    recipe: dict[str, Any]
    shape: Shape
    parameters: Parameters
    quality: Quality
    gates: list[GateClaim] = []
    environment: dict[str, str]
    files: dict[str, Digest] = Field(min_length=1)


def parse_manifest(document: Mapping[str, Any], origin: str) -> Manifest:
    """Checks a manifest.

    Args:
        document: as JSON.
        origin: what to call it in messages.

    Raises:
        IntegrityError: of another schema, or malformed; the message names what is wrong where.
    """
    schema = document.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise IntegrityError(
            f"{origin} has schema {schema!r}, and slimgpt {slimgpt.__version__} knows {SCHEMA}: "
            "it is damaged, or a newer slimgpt wrote it"
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as reason:
        problems = [_worded(e) for e in reason.errors(include_url=False, include_input=False)]
        more = len(problems) - _MOST_PROBLEMS
        shown = "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise IntegrityError(f"{origin} is malformed: {shown}") from None


def load_manifest(directory: Path) -> tuple[Manifest, dict[str, Any]]:
    """The manifest of a checkpoint, checked, and as it stands in the file.

    Raises:
        IntegrityError: there is none, it is damaged, or parsers could read it in two ways.
    """
    path = directory / MANIFEST
    if not (path.exists() or path.is_symlink()):
        raise IntegrityError(
            f"{directory} has no manifest ({MANIFEST}): slimgpt did not make it, or not to the end"
        )
    read_json(inside(directory, path))
    try:
        document = json.loads(
            path.read_text("utf-8"), object_pairs_hook=_each_key_once, parse_constant=_no_number
        )
    except ValueError as reason:
        raise IntegrityError(f"{path} is malformed: {reason}") from None
    return parse_manifest(document, str(path)), document


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in document if keys.count(key) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return document


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _worded(error: Any) -> str:
    where = ".".join(str(key) for key in error["loc"])
    return f"{where}: {error['msg'][:1].lower()}{error['msg'][1:]}"
