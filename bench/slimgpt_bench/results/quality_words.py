"""A manifest's quality in one line, for tables that say how good what they time is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOT_MEASURED = "not measured"


def in_words(quality: Mapping[str, Any]) -> str:
    """Perplexities, accuracy and tasks; the errors of the layers are no quality of the model.

    >>> in_words({"texts": [{"text": "a", "window": 8, "protocol": "raw", "perplexity": 7.0}]})
    'a (window 8, raw): perplexity 7'
    """
    return "; ".join([*_texts(quality), *_tasks(quality)]) or NOT_MEASURED


def _texts(quality: Mapping[str, Any]) -> Iterator[str]:
    for text in quality.get("texts") or ():
        dense, kl = text.get("baseline_perplexity"), text.get("kl")
        told = f"{text.get('text')} (window {text.get('window')}, {text.get('protocol')}): "
        told += f"perplexity {_number(text.get('perplexity'))}"
        told += f", dense {_number(dense)}" if dense is not None else ""
        yield told + (f", KL {_number(kl)}" if kl is not None else "")


def _tasks(quality: Mapping[str, Any]) -> Iterator[str]:
    for name, task in (quality.get("tasks") or {}).items():
        for metric in ("acc_norm", "acc"):
            if task.get(metric) is not None:
                yield f"{name}: {metric} {_number(task[metric])}"
                break


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "infinite or not finite"
