"""The hub's metadata at the head of a card: where a model comes from, and its results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.calibration import HUB_SETS
from slimgpt.errors import IntegrityError
from slimgpt.release.card.markdown import plain
from slimgpt.release.card.source_card import SourceCard

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TASK = "text-generation"
_HUB_NAME = re.compile(r"(?!.*(--|\.\.))\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_LONGEST_HUB_NAME = 96
_LARGEST_CARD_BYTES = 2**20


def front_matter(manifest: Mapping[str, Any], carried: SourceCard) -> str:
    """YAML, each line ended, without the dashes around it.

    Args:
        manifest: its ``source``, ``recipe`` and ``quality``.
        carried: what the source's card says of licence and language.
    """
    from huggingface_hub import ModelCardData

    base = _base_model(plain(manifest["source"]["name"]))
    language: Any = list(carried.language) or None
    data = ModelCardData(
        base_model=base,
        base_model_relation=_relation(manifest["recipe"]) if base else None,
        license=carried.license,
        license_name=carried.license_name,
        license_link=carried.license_link,
        language=language[0] if language and len(language) == 1 else language,
        library_name=_library(manifest["recipe"]),
        pipeline_tag=TASK,
        tags=["slimgpt", *_done(manifest["recipe"])],
        datasets=hub_sets(manifest["recipe"]) or None,
        model_name=model_name(manifest),
        eval_results=list(_results(manifest["quality"])) or None,
    )
    if data.eval_results is None:
        data.pop("model_name")  # its place is in the results
    return data.to_yaml() + "\n"


def _library(recipe: Mapping[str, Any]) -> str:
    return "onnx" if _exported(recipe).get("format") == "onnx" else "transformers"


def _relation(recipe: Mapping[str, Any]) -> str:
    """One of the hub's words; it lists quantised models apart."""
    rounded = recipe.get("quantization") or "block_size" in _exported(recipe)
    return "quantized" if rounded else "finetune"


def _exported(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the form of a checkpoint was changed."""
    export = recipe.get("export")
    return export if isinstance(export, Mapping) else {}


def _done(recipe: Mapping[str, Any]) -> Iterator[str]:
    """What was done to the source, as tags."""
    if "method" in recipe:
        yield "pruned"
    if recipe.get("recovery"):
        yield "recovered"


def _base_model(name: str) -> str | None:
    """The source's name where the hub could have it: metadata with another is refused there."""
    return name if _HUB_NAME.fullmatch(name) and len(name) <= _LONGEST_HUB_NAME else None


def is_padded(recipe: Mapping[str, Any]) -> bool:
    """Whether zeros were added since a model was pruned, so that its counts hold them too."""
    return bool(_exported(recipe).get("padded"))


def model_name(manifest: Mapping[str, Any]) -> str:
    """What the model is called beside others: its source's name, with ``-slimgpt`` behind it."""
    return plain(manifest["source"]["name"]).rstrip("/").split("/")[-1] + "-slimgpt"


def data_sources(entry: Any) -> list[str]:
    """The names in a recipe's ``calibration`` entry, or in the ``data`` of its recovery."""
    sources = entry.get("sources") if isinstance(entry, Mapping) else None
    return [str(name) for name in sources] if isinstance(sources, (list, tuple)) else []


def hub_sets(recipe: Mapping[str, Any]) -> list[str]:
    """Repositories of the hub's sets that it was made with; files of the user are none."""
    recovery = recipe.get("recovery") or {}
    named = [*data_sources(recipe.get("calibration")), *data_sources(recovery.get("data"))]
    return sorted({HUB_SETS[name].repository for name in named if name in HUB_SETS})


def results(quality: Mapping[str, Any]) -> set[tuple[str, str, float]]:
    """(data set, metric, value) of each result that a card's metadata states."""
    return {(r.dataset_name, str(r.metric_name), r.metric_value) for r in _results(quality)}


def stated_results(card: Path) -> set[tuple[str, str, float]]:
    """The same, read from a card.

    Raises:
        IntegrityError: its metadata can't be read.
    """
    import yaml
    from huggingface_hub import metadata_load
    from huggingface_hub.repocard_data import model_index_to_eval_results

    if card.stat().st_size > _LARGEST_CARD_BYTES:
        raise IntegrityError(f"{card} is larger than {_LARGEST_CARD_BYTES} bytes: no card is")
    try:
        index = (metadata_load(card) or {}).get("model-index")
        stated = model_index_to_eval_results(index)[1] if index else []
        return {(r.dataset_name, str(r.metric_name), float(r.metric_value)) for r in stated}
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise IntegrityError(f"the metadata of {card} can't be read") from None


def _results(quality: Mapping[str, Any]) -> Iterator[EvalResult]:
    for text in quality.get("texts") or ():
        protocol = f"{text['protocol']} protocol, windows of {text['window']} tokens"
        name = plain(text["text"])
        yield from _result(name, "perplexity", f"perplexity ({protocol})", text["perplexity"])
    for name, task in (quality.get("tasks") or {}).items():
        how = _how(task)
        for metric in ("acc", "acc_norm"):
            yield from _result(plain(name), "accuracy", metric + how, task.get(metric))
        for metric, measured in (task.get("metrics") or {}).items():
            yield from _result(plain(name), plain(metric), plain(metric), measured.get("value"))


def _how(task: Mapping[str, Any]) -> str:
    """What keeps a number from being set beside others of the task's name."""
    parts = []
    if task.get("num_fewshot") is not None:
        parts.append(f"{task['num_fewshot']}-shot")
    if task.get("file"):
        parts.append(f"{task.get('n')} questions of {plain(str(task['file']))}")
    elif task.get("limit"):
        parts.append(f"the first {task['limit']} questions")
    return f" ({', '.join(parts)})" if parts else ""


def _result(dataset: str, kind: str, metric: str, value: float | None) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    if value is not None:
        yield EvalResult(
            task_type=TASK,
            task_name="Text generation",
            dataset_type=Path(dataset).stem or dataset,
            dataset_name=dataset,
            metric_type=kind,
            metric_name=metric,
            metric_value=value,
        )
