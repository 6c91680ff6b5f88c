"""An accelerator that is not in our list, from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from slimgpt_bench.accelerators import GIB, TERA, Accelerator
from slimgpt_bench.settings_file import read_settings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Dtype = Literal["float32", "float16", "bfloat16", "float8"]


class AcceleratorFile(BaseModel):
    """``--accelerator FILE.yaml``, in the units of datasheets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = Field(alias="schema")
    name: Annotated[str, Field(min_length=1, max_length=80)]
    memory_gib: Positive
    terabytes_per_s: Positive
    teraflops: dict[Dtype, Positive]
    sms: Annotated[int, Field(gt=0)] | None = None
    tile: Annotated[int, Field(gt=0)] = 64
    platform: Literal["cpu", "cuda"] = "cuda"
    source: Annotated[str, Field(min_length=1, max_length=200)] = "given by the user"

    @field_validator("teraflops")
    @classmethod
    def _has_float32(cls, value: dict[str, float]) -> dict[str, float]:
        if "float32" not in value:
            raise ValueError("give at least float32, and the type that is served")
        return value


def read_accelerator(path: Path) -> Accelerator:
    """Reads an accelerator.

    Raises:
        UsageError: the file is wrong.
    """
    told = read_settings(path, AcceleratorFile, "--accelerator")
    return Accelerator(
        told.name,
        int(told.memory_gib * GIB),
        told.terabytes_per_s * TERA,
        {str(dtype): value * TERA for dtype, value in told.teraflops.items()},
        told.sms,
        told.tile,
        told.source,
        told.platform,
    )
