"""Results of measurements as documents: made, saved whole with their raw requests, read back.

The schema that outside scripts may rely on is ``schema-1.json`` in this folder; it is made from the
models in ``schema/``.
"""

from slimgpt_bench.results.documents import KINDS, SCHEMA, Kind, envelope
from slimgpt_bench.results.reading import read
from slimgpt_bench.results.saving import require_free, save

__all__ = ["KINDS", "SCHEMA", "Kind", "envelope", "read", "require_free", "save"]
