"""`slimgpt compress --dry-run`: the plan, what it will cost here, and what stands in its way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slimgpt.calibration import load_calibration, window_length
from slimgpt.checkpoint.reader import BYTES_PER_VALUE, Checkpoint, ConfigOnly
from slimgpt.compress import inputs
from slimgpt.compress.preflight import preflight
from slimgpt.compress.recipe_terms import in_recipe_terms
from slimgpt.compress.settings import Settings
from slimgpt.compress.speed import speed_cost
from slimgpt.errors import EnvironmentProblem
from slimgpt.machine_speed import measure_speed
from slimgpt.pipeline_cost import (
    Calibrating,
    Computing,
    Judging,
    StageCost,
    Training,
    evaluate_cost,
    machine_check,
    prune_cost,
    recover_cost,
)
from slimgpt.planning import Plan
from slimgpt.recover.options import RecoverOptions
from slimgpt.release.gates import GateResult, evaluate_gates, render, require_all
from slimgpt.release.recipe.recipe import Recipe
from slimgpt.release.recipe.sections import Recover
from slimgpt.resources import human_bytes, resolve_device

_SAMPLED_PROMPTS = 200


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a job would do.

    Attributes:
        plan: shapes and ratios.
        bytes_per_value: of a stored weight.
        costs: a stage each.
        problems: why it can't be done here; none if it can.
        uncounted: training data and tasks of the hub, whose time is not in the estimate.
        exports: directories that will be made of the release, whose time is not either.
        gates: those of size, which the plan decides before anything is measured.
    """

    plan: Plan
    bytes_per_value: int
    costs: tuple[StageCost, ...]
    problems: tuple[str, ...]
    uncounted: str
    exports: tuple[str, ...]
    gates: tuple[GateResult, ...]

    def to_json(self) -> dict[str, Any]:
        """The document of ``slimgpt compress --dry-run --json``."""
        before, after = self.plan.source, self.plan.target
        return {
            "ratio": {"asked": self.plan.ratio, "achieved": self.plan.achieved},
            "shape": after.to_manifest(),
            "parameters": {"before": before.parameters, "after": after.parameters},
            "weight_bytes": {
                "before": before.weight_bytes(self.bytes_per_value),
                "after": after.weight_bytes(self.bytes_per_value),
            },
            "kv_bytes_per_token": {
                "before": before.kv_bytes_per_token(self.bytes_per_value),
                "after": after.kv_bytes_per_token(self.bytes_per_value),
            },
            "costs": [asdict(cost) for cost in self.costs],
            "problems": list(self.problems),
            "uncounted": self.uncounted,
            "exports": list(self.exports),
            "gates": [asdict(gate) for gate in self.gates],
        }

    def page(self) -> RenderableType:
        """The same for people."""
        from slimgpt.commands.shapes import layer_table, totals_table

        costs = Table("stage", "seconds", "memory", "disk", "for", title="estimate, this machine")
        for cost in self.costs:
            sizes = (human_bytes(cost.memory_bytes), human_bytes(cost.disk_bytes))
            costs.add_row(cost.stage, f"{cost.seconds:.0f}", *sizes, cost.basis)
        verdict = "\n".join(self.problems) or "This machine can carry it; nothing was written."
        if self.uncounted:
            verdict += f"\nThe time is without what is on the hub: {self.uncounted}."
        if self.exports:
            verdict += f"\nThe time is without the exports to {', '.join(self.exports)}."
        verdict += "".join(f"\n{line}" for line in render(self.gates))
        shapes = [("dense", self.plan.source), ("planned", self.plan.target)]
        return Group(
            layer_table(self.plan.target, self.plan),
            totals_table(shapes, self.bytes_per_value),
            costs,
            Text(verdict),
        )

    def require_possible(self) -> None:
        """Passes if nothing stands in the way.

        Raises:
            EnvironmentProblem: all that does.
            GateMissed: the plan itself misses a gate.
        """
        if self.problems:
            raise EnvironmentProblem("; ".join(self.problems))
        require_all(self.gates)


def look_ahead(model: Path, out: Path, recipe: Recipe, settings: Settings) -> Outlook:
    """Checks a job and estimates it; reads configs, headers and local data, and writes nothing.

    Args:
        model: the dense checkpoint.
        out: where the release would go.
        recipe: what to do.
        settings: where and how to compute.

    Raises:
        SlimGPTError: as :func:`slimgpt.compress.preflight.preflight`, or data that can't be used.
    """
    checkpoint, plan = preflight(model, out, recipe, settings)
    device = resolve_device(settings.device)
    stored = checkpoint.meta.bytes_per_value
    value_bytes = 4 if device.type == "cpu" else stored
    if settings.dtype != "auto":
        value_bytes = BYTES_PER_VALUE[settings.dtype]
    computing = Computing(measure_speed(str(device), value_bytes), stored, value_bytes)
    costs = [prune_cost(plan, _calibrating(recipe, checkpoint), computing)]
    if recipe.recover:
        options = inputs.recover_options(recipe.recover, recipe.seed, settings)
        training = _training(recipe.recover, options, checkpoint.meta)
        costs.append(recover_cost(plan, training, computing))
    if recipe.evaluate:
        judging = _judging(recipe, checkpoint.meta)
        costs.append(evaluate_cost(plan, judging, computing))
    if recipe.gates and recipe.gates.speedup:
        costs.append(speed_cost(plan, recipe.gates.speedup, computing))
    problems = machine_check(costs, out, str(device))
    if not problems:
        _check_calibration(recipe, checkpoint)
    uncounted, gates = ", ".join(_uncounted(recipe)), _gates_of_size(recipe, plan, stored)
    exports = tuple(str(e.out.path) for e in recipe.exports if e.out)
    return Outlook(plan, stored, tuple(costs), tuple(problems), uncounted, exports, gates)


def _gates_of_size(recipe: Recipe, plan: Plan, stored_bytes: int) -> tuple[GateResult, ...]:
    if recipe.gates is None:
        return ()
    measured = {"perplexity_increase": None, "kl": None, "accuracy": None, "speedup": None}
    of_size = recipe.gates.model_copy(update=measured)
    return tuple(evaluate_gates(of_size, {}, plan.source, plan.target, stored_bytes))


def _uncounted(recipe: Recipe) -> Iterator[str]:
    """Training data and tasks of the hub."""
    from slimgpt.evaluate.tasks import choose_tasks

    if recipe.recover:
        yield from (f.written for f in recipe.recover.data if inputs.is_hub_set(f))
    asked = inputs.tasks(recipe)
    if asked:
        chosen = choose_tasks(asked.names, task_data=asked.task_data)
        yield from (name for name, local in chosen.tokens.items() if local is None)


def _calibrating(recipe: Recipe, checkpoint: Checkpoint) -> Calibrating:
    section = recipe.prune
    length = window_length(checkpoint.meta.context_length, section.samples, section.sequence_length)
    return Calibrating(section.samples, length)


def _check_calibration(recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Local text is long enough; the hub and the model itself are not asked."""
    section = recipe.prune
    if all(f.path.is_file() for f in section.calibration):
        with in_recipe_terms("prune"):
            load_calibration(
                checkpoint,
                [f.source for f in section.calibration],
                samples=section.samples,
                sequence_length=section.sequence_length,
                seed=recipe.seed,
            )


def _training(section: Recover, options: RecoverOptions, meta: ConfigOnly) -> Training:
    """What the data comes to, tokenised as it will be; sets of the hub are not fetched."""
    from slimgpt.recover.data import load_training_data

    known = Training(
        examples=0,
        held_out=0,
        tokens=options.max_length,
        longest=options.max_length,
        rank=options.rank,
        batch_size=options.batch_size,
        micro_batch=options.examples_at_once,
        epochs=options.epochs,
        max_steps=options.max_steps,
        evaluations=options.evaluations,
        distills=options.distill_weight > 0,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    if any(inputs.is_hub_set(f) for f in section.data):
        return known
    with in_recipe_terms("recover"):
        data = load_training_data(meta, [f.source for f in section.data], options)
    tokens = _mean([len(e.ids) for e in (*data.train, *data.held_out)])
    return replace(known, examples=len(data.train), held_out=len(data.held_out), tokens=tokens)


def _judging(recipe: Recipe, meta: ConfigOnly) -> Judging:
    """Tokens of the texts, and sequences of the local tasks; those of the hub are not known."""
    from slimgpt.evaluate.tasks import choose_tasks
    from slimgpt.evaluate.windows import load_text
    from slimgpt.tokenizer import encode, load_tokenizer

    texts = [load_text(meta, t.path, t.window, t.protocol) for t in inputs.texts(recipe)]
    asked = inputs.tasks(recipe)
    requests, sampled = 0, []
    if asked:
        chosen = choose_tasks(asked.names, task_data=asked.task_data)
        prompts = [p for t in chosen.tokens.values() if t for p in t.prompts[: asked.limit]]
        requests = sum(max(len(p.contexts), len(p.targets)) for p in prompts)
        tokenizer = load_tokenizer(meta.directory)
        some = prompts[:: max(1, len(prompts) // _SAMPLED_PROMPTS)]
        sampled = [len(encode(tokenizer, f"{p.contexts[0]} {p.targets[0]}")) for p in some]
    return Judging(
        text_tokens=sum(text.windows.numel() for text in texts),
        window=max((text.windows.shape[1] for text in texts), default=128),
        requests=requests,
        request_tokens=_mean(sampled) if sampled else 128,
        batch_size=asked.batch_size if asked else 1,
    )


def _mean(counts: Sequence[int]) -> int:
    return max(1, round(sum(counts) / len(counts)))
