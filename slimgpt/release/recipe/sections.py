"""The sections of a recipe. The text below each key is what users read in ``recipe init``.

No torch, so that a recipe is checked in an instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from slimgpt.calibration import SELF
from slimgpt.planning import KvHeads
from slimgpt.release.recipe.file_name import File, FileName, Source
from slimgpt.schedule import Schedule

CONTRADICTION = "contradiction"


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Sources = Annotated[tuple[Source, ...], BeforeValidator(_one_or_more), Field(strict=False)]


def refuse(problems: Iterable[tuple[str, str]]) -> None:
    """Raises what a validator must raise for each pair of a key and what is wrong with it."""
    found = tuple(problems)
    if found:
        words = "; ".join(f"{key}: {problem}" for key, problem in found)
        raise PydanticCustomError(CONTRADICTION, "{words}", {"words": words, "problems": found})


class Section(BaseModel):
    """Strict: a number in quotes is no number, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        refuse(self._contradictions())
        return self

    def _contradictions(self) -> Iterable[tuple[str, str]]:
        """Pairs of a key and what is wrong with it beside the others."""
        return ()


_OF_WIDTHS = {
    *("schedule", "first_layer_ratio", "kv_heads", "align", "tensor_parallel", "uniform"),
    "damping",
}


class Prune(Section):
    """What is removed, and what is calibrated on; as the options of `slimgpt prune`."""

    ratio: float = Field(ge=0, lt=1, examples=[0.25])
    """Fraction of decoder parameters to remove."""
    method: Literal["exact", "slimgpt", "depth"] = "exact"
    """`slimgpt` is the paper's algorithm; `exact` scores groups exactly and refits; `depth` drops
    whole layers, those that change the hidden states least."""
    schedule: Schedule = "log"
    """How the ratio grows over depth; `log` is the paper's."""
    first_layer_ratio: float | None = Field(default=None, ge=0, lt=1)
    """Smallest ratio of the schedule; null is 1/16, less below a ratio of 0.2."""
    kv_heads: KvHeads | None = None
    """Grouped-query models: `keep` all KV heads (null), or `prune` whole KV groups. Where none is
    shared, each KV head goes with its query head."""
    align: int = Field(default=1, ge=1)
    """FFN widths are a multiple of this."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Every layer splits over this many GPUs."""
    uniform: bool = False
    """Same widths in all layers: loads as a stock model."""
    damping: float | None = Field(default=None, ge=0, le=10)
    """Relative damping of the Gram matrix; null is 0.01."""
    calibration: Sources = Field(default=(FileName("c4"),), min_length=1, examples=[["c4"]])
    """Text to calibrate on: files (.txt, .jsonl, .json), or c4, wikitext2, alpaca or gpt4-alpaca
    from the hub, or self for samples of the model itself."""
    samples: int = Field(default=128, ge=1)
    """Calibration windows."""
    sequence_length: int | None = Field(default=None, ge=2)
    """Tokens in a calibration window; null is 2048, or the model's context."""

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.method == "depth":
            for name in _OF_WIDTHS & self.model_fields_set:
                if getattr(self, name) != type(self).model_fields[name].default:
                    yield name, "prune.method depth changes no width: leave this out"
        if self.uniform and "schedule" in self.model_fields_set and self.schedule != "uniform":
            yield "schedule", "prune.uniform gives all layers the same widths: leave this out"
        if self.uniform and self.first_layer_ratio is not None:
            yield (
                "first_layer_ratio",
                "prune.uniform gives all layers the same widths: leave this out",
            )
        if len(self.calibration) > 1 and SELF in [f.written for f in self.calibration]:
            yield "calibration", "self can't be mixed with other sources: give one or the other"


class Recover(Section):
    """Low-rank training (LoRA) that heals the pruned model; without this section there is none."""

    data: Sources = Field(min_length=1, examples=[["alpaca.json"]])
    """What to train on: files (.txt, .jsonl, .json), or sets of the hub as for calibration."""
    rank: int = Field(default=8, ge=1)
    """Rank of the low-rank updates."""
    alpha: float = Field(default=16, gt=0)
    """Updates are scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of the updates' inputs that is zeroed while training."""
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    """Highest learning rate of the schedule."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up."""
    warmup_steps: int = Field(default=10, ge=0)
    """Optimiser steps over which the learning rate rises from zero."""
    batch_size: int = Field(default=64, ge=1)
    """Examples an optimiser step."""
    micro_batch: int = Field(default=16, ge=1)
    """Examples in memory at once; gradients of several are added up to a batch."""
    max_length: int = Field(default=256, ge=2)
    """Tokens that an example is cut to."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the data."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps instead of epochs; null is no limit."""
    held_out: int = Field(default=2000, ge=1)
    """Examples kept back and watched; at most a tenth of the data."""
    evaluations: int = Field(default=10, ge=1)
    """How often the held-out loss is measured."""
    gradient_checkpointing: bool = False
    """Computes activations twice in order to hold fewer of them."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    prompt: Literal["alpaca", "chat", "none"] = "alpaca"
    """How an instruction is put: Alpaca's template, the model's own chat template, or as it is."""
    distill_weight: float = Field(default=0.0, ge=0, le=1)
    """Weight of KL(dense || model) against the data's cross-entropy; 0 is no distillation."""
    temperature: float = Field(default=1.0, gt=0)
    """Softens both distributions of that KL."""

    @property
    def examples_at_once(self) -> int:
        """``micro_batch``, or a whole batch where that is smaller."""
        return min(self.micro_batch, self.batch_size)

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        size = f"{self.micro_batch} with recover.batch_size {self.batch_size}"
        if self.micro_batch > self.batch_size:
            if "micro_batch" in self.model_fields_set:
                yield "micro_batch", f"{size}: no more than a batch can be in memory at once"
        elif self.batch_size % self.micro_batch:
            yield "micro_batch", f"{size}: give a divisor, as a step adds up whole micro-batches"


class ScoredText(Section):
    """A text whose perplexity is measured, and how."""

    file: File = Field(examples=["wikitext2/test.txt"])
    """A .txt, .jsonl or .json file."""
    window: int = Field(default=128, ge=2)
    """Tokens in a disjoint window; numbers of different windows are different quantities."""
    protocol: Literal["raw", "paper"] = "raw"
    """`raw` scores the file as it is; `paper` joins its lines by blank lines and puts one BOS in
    front, as the paper does with WikiText-2."""


class Evaluate(Section):
    """What is measured on the dense model and on the result."""

    texts: tuple[ScoredText, ...] = Field(
        default=(), strict=False, examples=[[{"file": "wikitext2/test.txt", "protocol": "paper"}]]
    )
    """Texts for perplexity and KL(dense || model): each has a file, a window (128 tokens) and a
    protocol (raw, or paper as for WikiText-2)."""
    tasks: Sources = Field(default=(), examples=[["boolq", "piqa"]])
    """Tasks by their name in lm-eval, or files of questions."""
    task_data: File | None = None
    """Folder with NAME*.jsonl for the paper's seven tasks, which then need no network."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Solved examples in front of each question; null is what the task says."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first questions of each task, for a quick look; null is all."""
    batch_size: int = Field(default=16, ge=1)
    """Sequences scored together."""

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if not self.texts and not self.tasks:
            yield "", "nothing to measure: give evaluate.texts, evaluate.tasks or both"
        texts = Counter((t.file.written, t.window, t.protocol) for t in self.texts)
        for (file, window, protocol), times in texts.items():
            if times > 1:
                yield "texts", f"{file} in windows of {window} ({protocol}) stands there {times}x"
        for task, times in Counter(t.written for t in self.tasks).items():
            if times > 1:
                yield "tasks", f"{task} stands there {times}x: give each task once"


class AccuracyGate(Section):
    """Mean task accuracy relative to the dense model's: its lower confidence bound counts."""

    ratio: float = Field(gt=0, le=1, examples=[0.95])
    """The least that the lower bound may be."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Confidence of that bound."""


class SpeedGate(Section):
    """The dense model's time over the result's, on this machine: its lower confidence bound counts.

    Both models run in turn, in fresh processes; times are not part of the release itself.
    """

    at_least: float = Field(gt=0, le=1000, examples=[1.2])
    """The least that the lower bound may be: 1.2 is a fifth faster."""
    quantity: Literal["tpot_s", "ttft_s", "prefill_s", "e2e_s"] = "tpot_s"
    """What is timed: per output token, to the first token, the prompt alone, or end to end."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs both models."""
    batch: int = Field(default=1, ge=1)
    """Sequences that run together."""
    prompt: int = Field(default=128, ge=1)
    """Tokens of each prompt."""
    output: int = Field(default=64, ge=1)
    """Tokens of each answer."""
    rounds: int = Field(default=4, ge=3)
    """Rounds of both models, each of which runs twice in a round."""
    trials: int = Field(default=10, ge=1)
    """Timed answers of a run."""

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.quantity == "tpot_s" and self.output == 1:
            yield "output", "a single token has no time per output token: give 2 or more"


class Gates(Section):
    """What the result must meet to be released; what can't be measured is not met (exit code 1)."""

    perplexity_increase: float | None = Field(default=None, ge=0, examples=[0.10])
    """At most, relative to the dense model, on every text: 0.10 is 10 %."""
    kl: float | None = Field(default=None, ge=0, examples=[0.10])
    """KL(dense || model) at most, in nats a token, on every text."""
    accuracy: AccuracyGate | None = Field(
        default=None, examples=[{"ratio": 0.95, "confidence": 0.95}]
    )
    """Mean task accuracy over the dense model's: its lower bound, at this confidence, is at least
    this ratio."""
    weight_bytes: float | None = Field(default=None, gt=0, le=1, examples=[0.85])
    """Bytes of the weights: at most this fraction of the dense model's."""
    kv_bytes: float | None = Field(default=None, gt=0, le=1, examples=[0.80])
    """KV-cache bytes a token: at most this fraction of the dense model's."""
    speedup: SpeedGate | None = Field(default=None, examples=[{"at_least": 1.2}])
    """The dense model's time over the result's, measured on this machine: its lower bound is at
    least this. Keys: at_least, quantity (tpot_s, ttft_s, prefill_s or e2e_s), engine (transformers
    or vllm), batch, prompt, output, rounds, trials."""

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            names = ", ".join(type(self).model_fields)
            yield "", f"no gate in it: give at least one of {names}, or leave the section out"


_EXPORT_KEYS: dict[str, tuple[str, ...]] = {
    "cyclonedx": (),
    "stock": ("out", "pad"),
    "quantized": (
        *("out", "scheme", "group_size", "runs_on", "tensor_parallel", "text", "window", "max_kl"),
    ),
    "onnx": (
        *("out", "precision", "block_size", "asymmetric", "accuracy_level", "activations"),
        *("keep", "text", "portable"),
    ),
}


_PARTS = {"first", "last", "head"}


class Export(Section):
    """Another form of the result, for other tools."""

    format: Literal["cyclonedx", "stock", "quantized", "onnx"]
    """`cyclonedx` is a bill of materials (ML-BOM) in OUT; `stock`, `quantized` and `onnx` are
    directories of their own, as `slimgpt export` makes them."""
    out: File | None = Field(default=None, examples=["stock"])
    """Where such a form goes: a directory that does not exist."""
    pad: bool = False
    """`stock`: fills layers up with zeros to the same widths, where they differ."""
    scheme: Literal["fp8", "w8a8", "w4a16"] | None = None
    """`quantized`: 8-bit floats, 8-bit integers, or 4-bit weights."""
    group_size: Literal[32, 64, 128] = 128
    """`w4a16`: inputs that share a scale."""
    runs_on: Literal["gpu", "cpu"] = "gpu"
    """`quantized`: where it is to be served."""
    tensor_parallel: int = Field(default=1, ge=1)
    """`quantized`: GPUs that share every layer when it is served."""
    text: File | None = None
    """`quantized`: what to measure on; null is windows of the calibration text that were not
    used. `onnx`: what logits and KL are measured on; null is English text that comes with
    slimgpt."""
    window: int | None = Field(default=None, ge=2)
    """`quantized`: tokens in a window of that text; null is as in the calibration."""
    max_kl: float | None = Field(default=None, ge=0)
    """`quantized`: KL(result || quantised) at most, in nats a token."""
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] | None = None
    """`onnx`: of the weights."""
    block_size: Literal[16, 32, 64, 128, 256] = 32
    """`onnx`, int8 and int4: values of a row that share a scale, at most."""
    asymmetric: bool = False
    """`onnx`, int8 and int4: stores a zero point a block too."""
    accuracy_level: Literal[0, 4] = 4
    """`onnx`, int8 and int4: 4 computes in int8, 0 in the type of the activations."""
    activations: Literal["float32", "float16", "bfloat16"] = "float32"
    """`onnx`, int8 and int4: what activations are."""
    keep: str = "auto"
    """`onnx`, int8 and int4: what stays at higher precision: auto, none, or some of first, last
    and head, with commas between."""
    portable: bool = False
    """`onnx`: standard operators alone, for other runtimes."""

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        known = _EXPORT_KEYS[self.format]
        for name, field in type(self).model_fields.items():
            if name not in ("format", *known) and getattr(self, name) != field.default:
                yield name, f"means nothing to {self.format}: leave it out"
        if "out" in known and self.out is None:
            yield "out", f"is missing: {self.format} goes to a directory of its own"
        if "scheme" in known and self.scheme is None:
            yield "scheme", "is missing: give fp8, w8a8 or w4a16"
        if "precision" in known and self.precision is None:
            yield "precision", "is missing: give fp32, fp16, bf16, int8 or int4"
        if self.precision in ("fp32", "fp16", "bf16"):
            for name in ("block_size", "asymmetric", "accuracy_level", "activations", "keep"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    yield name, f"goes with int8 and int4, not with {self.precision}"
        if self.keep not in ("auto", "none") and {x.strip() for x in self.keep.split(",")} - _PARTS:
            yield "keep", "names no part: give auto, none, or some of first, last, head"
        if self.group_size != 128 and self.scheme in ("fp8", "w8a8"):
            yield "group_size", f"goes with w4a16: {self.scheme} has one scale a row"
        if self.window is not None and self.text is None:
            yield "window", "goes with text: give the file to measure on"

    def to_document(self) -> dict[str, Any]:
        """The entry with the keys of its format alone."""
        document = self.model_dump(mode="json")
        return {key: document[key] for key in ("format", *_EXPORT_KEYS[self.format])}


class Sign(Section):
    """An OpenSSF model signature over all files."""

    key: File = Field(examples=["signing-key.pem"])
    """Private key, PEM."""


class Push(Section):
    """Uploads the result to the hub, with the token in the environment variable HF_TOKEN."""

    repository: str = Field(
        pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$", examples=["org/name"]
    )
    """Repository of the hub."""
    private: bool = True
    """Makes a new repository private, and refuses one that exists and is public."""
