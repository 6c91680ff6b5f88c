"""Errors of the stages in the terms of a recipe: they come worded for verbs of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel

from slimgpt.errors import SlimGPTError
from slimgpt.release.recipe.sections import Evaluate, Export, Prune, Recover, SpeedGate

SectionName = Literal["prune", "recover", "evaluate", "exports", "gates.speedup"]
_SECTIONS: dict[SectionName, type[BaseModel]] = {
    "prune": Prune,
    "recover": Recover,
    "evaluate": Evaluate,
    "exports": Export,
    "gates.speedup": SpeedGate,
}
_CALLED_OTHERWISE: dict[SectionName, dict[str, str]] = {
    "prune": {},
    "recover": {"--lr-schedule": "recover.schedule", "--calibration": "recover.data"},
    "evaluate": {
        "--text": "evaluate.texts",
        "--window": "evaluate.texts.window",
        "--protocol": "evaluate.texts.protocol",
    },
    # An export is calibrated on what pruning was.
    "exports": {
        "--calibration": "prune.calibration",
        "--samples": "prune.samples",
        "--sequence-length": "prune.sequence_length",
    },
    "gates.speedup": {},
}
_OF_PRUNING = re.compile(r"slimgpt prune (--[a-z-]+)")
_FLAG = re.compile(r"(?<![\w/-])--[a-z]+(-[a-z]+)*")


@contextmanager
def in_recipe_terms(section: SectionName) -> Iterator[None]:
    """Runs a block whose errors name the keys of a section, not the flags of another verb."""
    try:
        yield
    except SlimGPTError as error:
        error.args = (with_keys(str(error), section),)
        raise


def with_keys(message: str, section: SectionName) -> str:
    """A message with ``--batch-size`` as ``evaluate.batch_size``; flags of compress itself stay."""
    if section == "exports":  # what is exported was pruned by this very recipe
        message = _OF_PRUNING.sub(lambda found: with_keys(found[1], "prune"), message)
    keys = {f"--{name.replace('_', '-')}": name for name in _SECTIONS[section].model_fields}
    known = {flag: f"{section}.{name}" for flag, name in keys.items()} | _CALLED_OTHERWISE[section]
    return _FLAG.sub(lambda found: known.get(found[0], found[0]), message)
