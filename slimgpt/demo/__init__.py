"""The embedded model and the text that ``make demo`` and the tests use: paths, nothing heavy.

Both JSONL files hold one window a line, ``{"input_ids": [...], "text": "..."}``, drawn from the
model itself by ``slimgpt.demo.make_samples``. Read ``input_ids``; ``text`` is for people (encoding
it again may give other tokens).
"""

from importlib.resources import files
from pathlib import Path
from typing import Final

# A ``Path``, not a ``Traversable``: transformers loads from a directory, so a zipped install cannot
# serve the demo.
_HERE: Final = Path(str(files(__name__)))

MODEL: Final = _HERE / "model"
"""Checkpoint directory of reference-1m (Llama, 1,730,176 parameters, bfloat16)."""

CALIBRATION: Final = _HERE / "calibration.jsonl"
"""128 windows of 256 tokens, to prune with."""

EVALUATION: Final = _HERE / "evaluation.jsonl"
"""128 windows of 128 tokens, to measure with; another seed than ``CALIBRATION``."""
