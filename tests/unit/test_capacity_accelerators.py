"""Accelerators: found by name, sane, measured here, or read from a file."""

from pathlib import Path

import pytest

from slimgpt.errors import UsageError
from slimgpt_bench.accelerators import GIB, HERE, find, names

OF_VENDORS = [name for name in names() if name != HERE]
GOOD = "schema: 1\nname: mine\nmemory_gib: 32\nterabytes_per_s: 1.5\nteraflops: {float32: 50.5}\n"


@pytest.mark.parametrize("name", OF_VENDORS)
def test_what_vendors_sell_has_speeds_that_make_sense(name: str) -> None:
    found = find(name)
    assert 20 * GIB < found.memory_bytes < 200 * GIB
    assert 2e11 < found.bytes_per_s < 1e13
    assert found.flops("float32") < found.flops("bfloat16") == found.flops("float16")
    assert found.flops("float8") in (found.flops("float32"), *_twice(found.flops("bfloat16")))
    assert "datasheet" in found.source
    assert not found.measured


def _twice(flops: float) -> list[float]:
    """Datasheets round."""
    return [pytest.approx(2 * flops, rel=0.02)]  # type: ignore[list-item]


def test_names_are_taken_in_any_case_and_short() -> None:
    assert find("H200") == find("h200")
    assert find("a100_40gb") == find("A100-40GB")
    assert find("h100") == find("h100-sxm")


def test_a_type_that_is_not_listed_has_the_speed_of_float32() -> None:
    found = find("l4")
    assert found.flops("int3") == found.flops("float32")


def test_here_is_this_machine_measured() -> None:
    found = find("here", device="cpu")
    assert found.platform == "cpu"
    assert found.measured
    assert found.memory_bytes > 2**28
    assert found.bytes_per_s > 1e8
    assert found.flops("bfloat16") == found.flops("float32") > 1e8
    assert found.tile in (8, 16)


def test_an_unknown_name_is_answered_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"--accelerator h300: give one of h200, .*or a YAML file"):
        find("h300")


def test_a_file_is_in_the_units_of_datasheets(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    found = find(str(path))
    assert (found.name, found.memory_bytes, found.bytes_per_s) == ("mine", 32 * GIB, 1.5e12)
    assert found.flops_per_s == {"float32": 50.5e12}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("1.5", "-1"), r"mine.yaml:4: terabytes_per_s -1: .*greater than 0"),
        (GOOD + "watts: 700\n", r"mine.yaml:6: watts is no setting; known: schema, name"),
        (GOOD.replace("name: mine\n", ""), r"mine.yaml:1: name is missing"),
        (GOOD.replace("float32", "bfloat16"), r"mine.yaml:5: teraflops: give at least float32"),
        (GOOD.replace("schema: 1", "schema: 2"), r"mine.yaml:1: schema 2: "),
        ("", r"mine.yaml:1: no keys at the top"),
        ("[1", r"mine.yaml:1: is no valid YAML"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=told):
        find(str(path))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--accelerator .*none.yaml can't be read: No such file"):
        find(str(tmp_path / "none.yaml"))
