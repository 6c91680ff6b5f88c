"""Dense and pruned models of one shape measured in vLLM, step by step, under a time budget."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.writer import write_json
from slimgpt.errors import SlimGPTError
from slimgpt.planning import Constraints, make_plan
from slimgpt.resources import require_disk
from slimgpt.shape import ModelShape
from slimgpt_bench.probe import arithmetic, probe, same_answers
from slimgpt_bench.random_model import VALUE_BYTES, make_random_model
from slimgpt_bench.vllm_bench import vllm_bench

DENSE = "dense"
PRUNED = {
    "p25": (0.25, Constraints()),
    "p50": (0.5, Constraints()),
    "p25-align128": (0.25, Constraints(align=128)),
    "p50-align128": (0.5, Constraints(align=128)),
}


@dataclass(frozen=True)
class Scale:
    """What differs between a GPU and a rehearsal.

    Attributes:
        dense: the unpruned shape.
        models: names: dense, or of PRUNED.
        device: where weights are drawn.
        context: most tokens of a text.
        batches: texts that run together.
        lengths: tokens of prompt and answer, of latency and decoding.
        backends: of attention; the first is the one for everything else.
        iterations: of a latency.
        prompts: of a throughput.
        engine: options of ``LLM``, which are flags of ``vllm bench`` too.
        environment: of the engines.
    """

    dense: ModelShape
    models: tuple[str, ...]
    device: str
    context: int
    batches: tuple[int, ...]
    lengths: tuple[int, int]
    iterations: int
    prompts: int
    backends: tuple[str | None, ...]
    engine: dict[str, Any]
    environment: dict[str, str]

    def shape(self, model: str) -> ModelShape:
        if model == DENSE:
            return self.dense
        ratio, constraints = PRUNED[model]
        return make_plan(self.dense, ratio, constraints=constraints).target

    def flags(self) -> list[str]:
        """The engine's options as flags."""
        out = []
        for name, value in self.engine.items():
            flag = f"--{name.replace('_', '-')}"
            out += [flag] if value is True else [flag, str(value)]
        return out


@dataclass(frozen=True)
class Step:
    """One measurement.

    Attributes:
        kind: steps of one kind take about as long.
        model: that it needs.
        detail: what tells it from others of its kind and model.
    """

    kind: str
    model: str
    detail: str | int | None = None
    number: int = 0

    @property
    def key(self) -> str:
        return "/".join(str(x) for x in (self.kind, self.model, self.detail, self.number))


def steps(scale: Scale, repetitions: int) -> Iterator[Step]:
    """All steps, what is needed most first; models take turns within each kind."""
    main = [m for m in scale.models if "align" not in m]
    aligned = [m for m in scale.models if "align" in m]
    first, *others = scale.backends
    for model in main:
        yield Step("probe", model, first)
    for number in range(repetitions):
        for batch in (scale.batches[0], *scale.batches[:0:-1]):  # 1, 32, 8
            yield from (Step("latency", m, batch, number) for m in main)
        yield from (Step("throughput", m, None, number) for m in main)
    for model in main:
        yield from (Step("probe", model, backend) for backend in others)
        yield Step("eager", model, first)
    for model in aligned:
        yield Step("probe", model, first)
        yield from (Step("latency", model, batch) for batch in scale.batches)


class ShapeBench:
    """Runs steps and keeps their results."""

    def __init__(
        self,
        scale: Scale,
        work: Path,
        file: Path,
        deadline: float,
        tell: Callable[[str], None],
    ) -> None:
        """Reads what an earlier run left.

        Args:
            scale: how large everything is.
            work: folder of the models.
            file: of the results.
            deadline: by time.monotonic(); no step begins that would end after it.
            tell: is given each step's name, and what failed.
        """
        self.scale, self.work, self.file, self.deadline = scale, work, file, deadline
        self._tell = tell
        self.done: dict[str, Any] = {}
        if self.file.exists():
            self.done = json.loads(self.file.read_text("utf-8"))["steps"]
        self.environment = {**os.environ, **scale.environment}

    def run(self, planned: Sequence[Step]) -> list[str]:
        """Runs what is missing and fits the budget; keys of what is left."""
        left = []
        for i, step in enumerate(planned):
            if "seconds" not in self.done.get(step.key, {}):
                if time.monotonic() + self._expected(step.kind) > self.deadline:
                    left.append(step.key)
                    continue
                self._step(step)
            if step.model not in {x.model for x in planned[i + 1 :]} and not left:
                shutil.rmtree(self.work / step.model, ignore_errors=True)  # room for the next
        return left

    def _step(self, step: Step) -> None:
        do: dict[str, Callable[[Step, Path], dict[str, Any]]] = {
            "probe": self._probe,
            "eager": self._probe,
            "latency": self._latency,
            "throughput": self._throughput,
        }
        self._tell(step.key)
        try:
            model = self._model(step.model)
            started = time.monotonic()
            found = do[step.kind](step, model)
            found["seconds"] = time.monotonic() - started
        except SlimGPTError as reason:
            found = {"failed": str(reason)}
            self._tell(f"  {reason}")
        self.done[step.key] = found
        self.save()

    def save(self) -> None:
        """All results so far."""
        write_json(self.file, {"scale": self.scale.device, "steps": self.done})

    def _expected(self, kind: str) -> float:
        """Seconds of the slowest step of that kind so far, or of any where there was none."""
        took = {k: x["seconds"] for k, x in self.done.items() if "seconds" in x}
        alike = [s for k, s in took.items() if k.startswith(kind)]
        return max(alike or took.values(), default=0.0)

    def _model(self, name: str) -> Path:
        directory, shape = self.work / name, self.scale.shape(name)
        if not (directory / "config.json").exists():
            shutil.rmtree(directory, ignore_errors=True)
            self.work.mkdir(parents=True, exist_ok=True)
            require_disk(self.work, shape.weight_bytes(VALUE_BYTES), f"the model {name}")
            make_random_model(
                directory,
                self.scale.dense,
                shape,
                context=self.scale.context,
                seed=0,
                device=self.scale.device,
            )
        return directory

    def _probe(self, step: Step, model: Path) -> dict[str, Any]:
        options = dict(self.scale.engine)
        if step.detail:
            options["attention_backend"] = step.detail
        if step.kind == "eager":
            options["enforce_eager"] = True
        found = probe(
            step.key,
            model,
            options,
            self.environment,
            vocabulary=self.scale.dense.vocab_size,
            batches=self.scale.batches,
            lengths=self.scale.lengths,
        )
        shape = self.scale.shape(step.model)
        room = found.get("kv_cache_gib")
        found["arithmetic"] = arithmetic(shape, VALUE_BYTES, float(room) if room else None)
        reference = self.done.get(Step("probe", step.model, self.scale.backends[0]).key)
        if reference and "answers" in reference:
            found["same_as_first"] = same_answers(reference, found, "bfloat16").to_json()
        return found

    def _latency(self, step: Step, model: Path) -> dict[str, Any]:
        prompt, new = self.scale.lengths
        flags = ["--input-len", prompt, "--output-len", new, "--batch-size", step.detail]
        flags += ["--num-iters-warmup", 2, "--num-iters", self.scale.iterations]
        return self._vllm("latency", model, flags)

    def _throughput(self, step: Step, model: Path) -> dict[str, Any]:
        prompt, new = self.scale.lengths
        flags = ["--dataset-name", "random", "--random-input-len", prompt]
        return self._vllm(
            "throughput",
            model,
            [*flags, "--random-output-len", new, "--num-prompts", self.scale.prompts],
        )

    def _vllm(self, what: str, model: Path, flags: list[Any]) -> dict[str, Any]:
        backend = self.scale.backends[0]
        own = self.scale.flags() + (["--attention-backend", backend] if backend else [])
        return vllm_bench(
            what,
            model,
            [str(x) for x in (*flags, *own)],
            self.environment,
            timeout_s=max(1.0, self.deadline - time.monotonic()),
        )
