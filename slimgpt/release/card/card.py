"""The model card (README.md) of a checkpoint: what it is, how it was made, what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import CARD, PICTURE
from slimgpt.release.card.markdown import inline, table
from slimgpt.release.card.metadata import data_sources, front_matter, is_padded
from slimgpt.release.card.results import results_sections
from slimgpt.release.card.source_card import read_source_card
from slimgpt.release.card.widths import describe_widths, draw_widths
from slimgpt.shape import LayerShape, ModelShape

_PAPER = "structured pruning by the Optimal Brain Surgeon, arXiv 2412.18110"
_OF_LAYERS = "whole layers dropped by their block influence, arXiv 2403.03853"
_UNCONSTRAINED = {"align": 1, "tensor_parallel": 1, "uniform": False}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that a card says.

    Attributes:
        manifest: as :func:`slimgpt.release.manifest.describe` makes it; the card can't say other
            numbers than it does.
        after: shape of the model.
        before: shape of the dense model; None where only the pruned one is at hand.
        carried_from: directory whose card names licence and language.
        stock: whether config.json is one that any tool loads.
    """

    manifest: Mapping[str, Any]
    after: ModelShape
    before: ModelShape | None
    carried_from: Path
    stock: bool

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.manifest["recipe"]  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        """Of the dense model, as text."""
        return inline(self.manifest["source"]["name"])

    @property
    def padded(self) -> bool:
        """Whether zeros were added since it was pruned, which its counts hold too."""
        return is_padded(self.recipe)

    @property
    def beside(self) -> ModelShape | None:
        """The dense model's shape, where each of its layers has one here to be set beside."""
        same = self.before and len(self.before.layers) == len(self.after.layers)
        return self.before if same else None

    @property
    def achieved(self) -> float:
        """Fraction of the dense model's decoder parameters that is gone; not of a padded model."""
        counts: Mapping[str, int] = self.manifest["parameters"]
        return 1 - counts["decoder_after"] / counts["decoder_before"]


def write_card(directory: Path, facts: CardFacts) -> None:
    """Writes README.md, and widths.png that it shows."""
    draw_widths(facts.after, facts.beside, directory / PICTURE)
    (directory / CARD).write_text(render_card(facts, picture=True), "utf-8")


def render_card(facts: CardFacts, *, picture: bool) -> str:
    """Markdown with the hub's metadata; names of strangers can't mark anything up.

    Args:
        facts: what to say.
        picture: whether widths.png lies beside it.
    """
    carried = read_source_card(facts.carried_from)
    parts = [
        f"---\n{front_matter(facts.manifest, carried)}---\n",
        _what_it_is(facts, carried.licence),
        _how_it_was_made(facts),
        _how_to_load(facts.stock),
        *results_sections(facts.manifest),
        _layers(facts, picture),
        _how_to_verify(facts.manifest["quality"]),
    ]
    return "\n".join(parts)


def _what_it_is(facts: CardFacts, licence: str | None) -> str:
    recovered = facts.recipe.get("recovery")
    since = (
        "It was then fine-tuned with LoRA, which is merged into the weights."
        if recovered
        else "It has not been fine-tuned since."
    )
    how = _OF_LAYERS if facts.recipe.get("method") == "depth" else _PAPER
    terms = f" The source's licence is {inline(licence)}." if licence else ""
    return (
        f"# {facts.name}, {_and(_done(facts))}\n\n"
        f"Made with SlimGPT ({how}) from {facts.name}: {_counts(facts)} {since}{terms}\n"
    )


def _done(facts: CardFacts) -> list[str]:
    """What was done to the source, as the heading has it."""
    done = []
    if "method" in facts.recipe:
        done.append("pruned" if facts.padded else f"pruned by {facts.achieved:.1%}")
    if facts.recipe.get("recovery"):
        done.append("recovered")
    if "export" in facts.recipe:
        done.append("padded to a stock layout" if facts.padded else "in a stock layout")
    return done or ["written by SlimGPT"]


def _and(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _counts(facts: CardFacts) -> str:
    counts = facts.manifest["parameters"]
    if facts.padded:
        return (
            f"{counts['before']:,} parameters became {counts['after']:,}, zeros included; the "
            f"decoder's {counts['decoder_before']:,} became {counts['decoder_after']:,}. How many "
            "of them are no zeros stands under Stock layout."
        )
    if "method" not in facts.recipe:
        return (
            f"{counts['after']:,} parameters, {counts['decoder_after']:,} of them in the decoder; "
            "none was removed."
        )
    return (
        f"{counts['before']:,} parameters became {counts['after']:,}; of the decoder's "
        f"{counts['decoder_before']:,}, {counts['decoder_after']:,} remain."
    )


def _how_it_was_made(facts: CardFacts) -> str:
    rows = [*_pruning(facts), *_recovery(facts.recipe.get("recovery"))]
    if not rows:
        return (
            "## How it was made\n\nConfig and weights were written anew; no weight was changed.\n"
        )
    return f"## How it was made\n\n{table(('', ''), rows)}"


def _pruning(facts: CardFacts) -> Iterator[tuple[str, str]]:
    recipe = facts.recipe
    if "method" not in recipe:
        return
    yield "method", str(recipe["method"])
    yield "ratio asked", str(recipe.get("ratio"))
    if not facts.padded:
        yield "ratio achieved", f"{facts.achieved:.5g}"
    for key in ("schedule", "kv_heads", "align", "tensor_parallel", "uniform", "damping"):
        if recipe.get(key) not in (None, _UNCONSTRAINED.get(key)):
            yield key.replace("_", " ").replace("kv", "KV"), str(recipe[key])
    if recipe.get("dropped_layers"):
        yield "layers dropped", ", ".join(map(str, recipe["dropped_layers"]))
    calibration = recipe.get("calibration")
    if isinstance(calibration, Mapping):
        size = f"{calibration.get('samples')} windows of {calibration.get('sequence_length')}"
        yield "calibrated on", f"{', '.join(data_sources(calibration))}: {size} tokens"
        yield "calibration seed", str(calibration.get("seed"))
    else:
        yield "calibrated on", "nothing: no weight was removed"


def _recovery(recovery: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(recovery, Mapping):
        return
    data = recovery.get("data")
    examples = (
        f": {data['examples']:,} examples to draw from"
        if isinstance(data, Mapping) and data.get("examples")
        else ""
    )
    yield "recovered on", ", ".join(data_sources(data)) + examples
    yield "LoRA", f"rank {recovery.get('rank')}, alpha {recovery.get('alpha')}"
    rate = f"{recovery.get('learning_rate')}, {recovery.get('schedule')}"
    yield "learning rate", f"{rate}, {recovery.get('warmup_steps')} warm-up steps"
    length = "max_steps" if recovery.get("max_steps") else "epochs"
    yield length.replace("max_", ""), str(recovery.get(length))
    yield "batch", f"{recovery.get('batch_size')} examples of at most {recovery.get('max_length')}"
    if recovery.get("distill_weight"):
        yield "distillation", f"weight {recovery['distill_weight']} of KL(dense \u2016 model)"
    yield "recovery seed", str(recovery.get("seed"))


def _how_to_load(stock: bool) -> str:
    imported = "" if stock else "import slimgpt  # pip install slimgpt: no remote code is needed\n"
    why = (
        "All layers have the same widths: any tool loads it."
        if stock
        else "Its layers have widths of their own, which `import slimgpt` teaches transformers."
    )
    return f"""## How to load it

{why}

```python
{imported}from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(PATH)
tokenizer = AutoTokenizer.from_pretrained(PATH)
```
"""


def _layers(facts: CardFacts, picture: bool) -> str:
    shown = f"![{describe_widths(facts.after, facts.beside)}]({PICTURE})\n\n" if picture else ""
    widths = [[str(w) for w in _widths(layer)] for layer in facts.after.layers]
    if facts.beside:
        dense = map(_widths, facts.beside.layers)
        widths = [
            [f"{new} of {old}" for new, old in zip(*pair, strict=True)]
            for pair in zip(widths, dense, strict=True)
        ]
    rows = [(str(i), *row) for i, row in enumerate(widths)]
    return f"## Layers\n\n{shown}{table(('layer', 'query heads', 'KV heads', 'FFN neurons'), rows)}"


def _widths(layer: LayerShape) -> tuple[int, int, int]:
    return layer.query_heads, layer.kv_heads, layer.ffn


def _how_to_verify(quality: Mapping[str, Any]) -> str:
    measured = bool(quality.get("texts") or quality.get("tasks"))
    data = " --data FOLDER" if measured else ""
    again = """
FOLDER holds the texts and tasks above: they are measured again and the results compared, which
`--quick` leaves out.
"""
    return f"""## How to verify it

`slimgpt.json` has the recipe, the digest of the source and a SHA-256 of every file.

```
slimgpt verify PATH --source DENSE{data}
```
{again if measured else ""}"""
