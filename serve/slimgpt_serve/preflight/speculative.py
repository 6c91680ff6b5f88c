"""Speculative decoding: a smaller model drafts tokens, which the served one accepts or rejects."""

from __future__ import annotations

import json

from slimgpt.errors import UsageError
from slimgpt_serve.preflight.artefact import Artefact
from slimgpt_serve.preflight.limits import own_class

PROBE = (
    "The quick brown fox jumps over 13 lazy dogs; naïve café, 東京 and Здравствуй.\n"
    "\tdef f(x): return x**2  # 3.14159\n"
)
"""Two tokenizers that have one vocabulary and split this alike are taken for the same."""


def speculative_config(draft: Artefact, tokens: int, degree: int) -> str:
    """What vLLM takes for ``--speculative-config``, in 0.26 to 0.33."""
    return json.dumps(
        {
            "method": "draft_model",
            "model": str(draft.directory.resolve()),
            "num_speculative_tokens": tokens,
            # vLLM refuses a degree that is not the served model's, and takes 1 where none is given.
            "draft_tensor_parallel_size": degree,
        }
    )


def require_fitting_draft(model: Artefact, draft: Artefact, platform: str) -> None:
    """Refuses a draft whose tokens mean something else, or that would make nothing faster.

    Raises:
        UsageError: saying what differs.
    """
    if draft.shape.vocab_size != model.shape.vocab_size:
        raise UsageError(
            f"--draft {draft.name} has a vocabulary of {draft.shape.vocab_size}, and {model.name} "
            f"has {model.shape.vocab_size}: give a draft pruned from the same model"
        )
    if draft.shape.parameters >= model.shape.parameters:
        raise UsageError(
            f"--draft {draft.name} has {draft.shape.parameters:,} parameters, and {model.name} has "
            f"{model.shape.parameters:,}: a draft must be smaller"
        )
    if not _same_tokenizer(model, draft):
        raise UsageError(
            f"--draft {draft.name} splits text otherwise than {model.name}: give a draft with the "
            "same tokenizer, like one pruned from the same model"
        )
    if own_class(draft.meta, platform):
        raise UsageError(
            f"--draft {draft.name}: vLLM's own class does not run this stock checkpoint on "
            f"{platform}, and a draft can't be given another class: give one with per-layer widths"
        )


def _same_tokenizer(model: Artefact, draft: Artefact) -> bool:
    """Equal files; or one vocabulary, and equal tokens of a text that has all sorts of things."""
    ours, theirs = (x.directory / "tokenizer.json" for x in (model, draft))
    if ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes():
        return True
    from slimgpt.tokenizer import load_tokenizer

    a, b = (load_tokenizer(x.directory) for x in (model, draft))
    same: bool = a.get_vocab() == b.get_vocab()
    return same and a(PROBE)["input_ids"] == b(PROBE)["input_ids"]
