"""Which difference between a graph and torch is rounding, and which is another function."""

import pytest

from slimgpt.errors import GateMissed
from slimgpt_export.onnx.parity import Difference, Parity, require_parity
from slimgpt_export.onnx.precision import Name, Precision


def parity(prefill: float, decode: float, computed_in: str) -> Parity:
    first, second = (Difference(x, x / 10, 1.0, 16) for x in (prefill, decode))
    return Parity(first, second, 112, "a text", "CPUExecutionProvider", computed_in, None)


ROUNDING: list[tuple[Name, str, float]] = [
    ("fp32", "float32", 1e-5),
    ("bf16", "float32", 1e-5),
    ("fp16", "float16", 0.02),
    ("bf16", "bfloat16", 0.2),  # on a GPU
    ("int8", "float32", 0.3),
    ("int4", "bfloat16", 0.3),
]


@pytest.mark.parametrize(("name", "computed_in", "apart"), ROUNDING)
def test_rounding_passes_and_another_function_does_not(
    name: Name, computed_in: str, apart: float
) -> None:
    precision = Precision(name)
    require_parity(parity(apart, apart, computed_in), precision)
    for worst in (2.0, float("nan"), float("inf")):
        for sides in ((worst, apart), (apart, worst)):
            with pytest.raises(GateMissed, match="another function"):
                require_parity(parity(*sides, computed_in), precision)


def test_weights_of_bfloat16_computed_in_float32_have_no_more_room_than_float32() -> None:
    with pytest.raises(GateMissed, match="is rounding at bf16 in float32"):
        require_parity(parity(0.01, 0.01, "float32"), Precision("bf16", "bfloat16"))


def test_float16_is_told_of_its_range() -> None:
    with pytest.raises(GateMissed, match="give --precision fp32, or on GPUs bf16"):
        require_parity(parity(3.0, 3.0, "float16"), Precision("fp16", "float16"))
