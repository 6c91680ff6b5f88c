"""What is read of an ONNX export, and that a broken or hostile one never reaches ONNX Runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from slimgpt.checkpoint.onnx_export import is_onnx
from slimgpt.errors import IntegrityError, SlimGPTError
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.graph_file import AGAIN
from tests.onnx_graphs import (
    CONTEXT,
    DATA,
    END,
    VOCABULARY,
    Edit,
    stored,
    told,
    with_caches,
    write_table,
)

WIDTHS = json.dumps({"layers": [{"kv_heads": 2}, {"kv_heads": 0}, {"kv_heads": 1}]})
CACHES = (("b", 2, "past", 4), ("b", 1, "past", 4))


def test_everything_that_a_server_needs_is_read_without_running_it(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        with_caches(*CACHES)(model)
        told(shape=WIDTHS)(model)

    found = read_artefact(write_table(tmp_path, edit=edit))
    assert (found.kv_heads, found.head_dim) == ((2, 1), 4)
    assert (found.vocabulary, found.context_length) == (VOCABULARY, CONTEXT)
    assert found.eos == {END}
    assert (found.dtype, found.precision, found.cache) == ("float32", "fp32", "in_place")
    assert found.weight_bytes == VOCABULARY * VOCABULARY * 4
    # Keys and values of 3 heads of 4 float32 numbers.
    assert found.kv_bytes(capacity=10, slots=2) == 2 * 3 * 4 * 4 * 10 * 2


def test_a_model_without_attention_has_no_caches(tmp_path: Path) -> None:
    found = read_artefact(write_table(tmp_path))
    assert (found.kv_heads, found.kv_bytes(100, 100)) == ((), 0)


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"genai_config.json": {"model": {"eos_token_id": [2, 5]}}}, {2, 5}),
        ({"genai_config.json": {"model": {}}}, set()),
        ({"generation_config.json": {"eos_token_id": 3}, "config.json": {"eos_token_id": 4}}, {3}),
        ({"config.json": {"eos_token_id": 4}}, {4}),
        ({"config.json": {"eos_token_id": [4, VOCABULARY]}}, {4}),  # one that never comes
        ({}, set()),
    ],
)
def test_end_tokens_come_from_the_first_file_that_there_is(
    tmp_path: Path, files: dict[str, Any], ids: set[int]
) -> None:
    write_table(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.unlink()
    for name, document in files.items():
        (tmp_path / name).write_text(json.dumps(document))
    assert read_artefact(tmp_path).eos == ids


def test_an_export_is_told_from_a_checkpoint(tmp_path: Path) -> None:
    export = write_table(tmp_path / "export")
    assert is_onnx(export)
    (export / "model.onnx").unlink()
    assert is_onnx(export), "its weights are left, and what is missing should be named"
    assert not is_onnx(tmp_path)
    (export / "model.safetensors").touch()
    assert not is_onnx(export)


# -- broken ----------------------------------------------------------------------------------------


def other_operator(model: Any) -> None:
    model.graph.node[0].domain = "evil.example"


def hidden_operator(model: Any) -> None:
    """An operator from elsewhere in the branch of an If."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Run", [], ["x"], domain="evil.example")
    branch = helper.make_graph([node], "branch", [], [value])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch))


def hidden_data(model: Any) -> None:
    """A constant inside a node that is stored outside the directory."""
    tensor = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    model.graph.node.append(helper.make_node("Constant", [], ["x"], value=tensor))


def endless(model: Any) -> None:
    """A loop that ONNX Runtime would run for ever."""
    body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n", "c", "x"], ["y"], body=body))


def hidden_loop(model: Any) -> None:
    """A loop in the branch of an If."""
    inner = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    node = helper.make_node("Scan", ["x"], ["y"], body=inner, num_scan_inputs=1)
    branch = helper.make_graph([node], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch))


def functions(model: Any) -> None:
    """A function that calls itself."""
    call = helper.make_node("F", ["x"], ["y"], domain="own")
    imports = [helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [call], imports))


def endless_logits(model: Any) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 2**40


def no_logits(model: Any) -> None:
    model.graph.output[0].name = "scores"


def odd_logits(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def lone_key(model: Any) -> None:
    with_caches(*CACHES)(model)
    told(shape=WIDTHS)(model)
    del model.graph.input[-1]


GRAPHS: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "by another tool": (told(schema=None), ("not written by slimgpt export onnx",)),
    "another layout": (told(schema="2"), ("the layout '2'", "reads '1'")),
    "no context": (told(context_length=None), ("lacks slimgpt.context_length", AGAIN)),
    "context no number": (told(context_length="1e9"), ("slimgpt.context_length '1e9'", AGAIN)),
    "context 0": (told(context_length="0"), ("slimgpt.context_length '0'", AGAIN)),
    "unknown caches": (told(cache="paged"), ("slimgpt.cache 'paged'", "in_place", "concatenated")),
    "shape no JSON": (told(shape="{"), ("no widths of layers", AGAIN)),
    "shape without layers": (told(shape="{}"), ("no widths of layers", AGAIN)),
    "other caches": (with_caches(*CACHES), ("caches of [2, 1] KV heads", "says []", AGAIN)),
    "caches of no size": (with_caches(("b", "heads", "past", 4)), ("a cache 0 of no known form",)),
    "a key alone": (lone_key, ("3 caches of keys and values", AGAIN)),
    "no logits": (no_logits, ("no input_ids or no logits", AGAIN)),
    "odd logits": (odd_logits, ("logits of no known form", AGAIN)),
    "operator": (other_operator, ("an operator Gather of 'evil.example'", "com.microsoft")),
    "hidden operator": (hidden_operator, ("an operator Run of 'evil.example'",)),
    "loop": (endless, ("has a loop (Loop)", AGAIN)),
    "hidden loop": (hidden_loop, ("has a loop (Scan)", AGAIN)),
    "functions": (functions, ("has functions", AGAIN)),
    "logits of no size": (endless_logits, ("logits of no known form", AGAIN)),
    "precision": (told(precision="\x1b[31m"), ("slimgpt.precision '\\x1b[31m'", "fp32", AGAIN)),
    "long path": (stored(location="a" * 5000), ("a path outside the directory", AGAIN)),
    "absolute path": (stored(location="/etc/passwd"), ("'/etc/passwd', a path outside",)),
    "path upwards": (stored(location="a/../../b"), ("'a/../../b', a path outside", AGAIN)),
    "Windows path": (stored(location=r"c:\x"), ("a path outside the directory",)),
    "no path": (stored(location=""), ("'', a path outside the directory",)),
    "hidden path": (hidden_data, ("'../secret', a path outside",)),
    "missing file": (stored(location="other.data"), ("lacks other.data", "copy both files")),
    "a folder": (stored(location="."), ("is no file",)),
    "beyond the end": (stored(offset="64"), ("is truncated: it has 256 bytes", "ends at 320")),
    "before the beginning": (stored(offset="-4"), ("needs 256 bytes", "256 at -4")),
    "too short": (stored(length="8"), ("needs 256 bytes and is said to have 8",)),
    "no numbers": (stored(offset="x"), ("no numbers for offset and length",)),
}


@pytest.mark.parametrize(("edit", "says"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_is_no_export_of_ours(
    tmp_path: Path, edit: Edit, says: tuple[str, ...]
) -> None:
    _refused(write_table(tmp_path, edit=edit), *says)


def _cut(name: str, size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:size])

    return spoil


def _written(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def _link_out(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        secret = folder.parent / f"secret-{name}"
        shutil.move(folder / name, secret)
        (folder / name).symlink_to(secret)

    return spoil


def _end_token(value: Any) -> Callable[[Path], None]:
    document = {"model": {"eos_token_id": value}}
    return _written("genai_config.json", json.dumps(document).encode())


FILES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "graph missing": (lambda folder: (folder / "model.onnx").unlink(), ("no model.onnx", AGAIN)),
    "graph cut": (_cut("model.onnx", 100), ("is truncated or damaged", AGAIN)),
    "graph empty": (_cut("model.onnx", 0), ("holds no graph", AGAIN)),
    "graph garbage": (_written("model.onnx", b"\xff" * 64), ("is truncated or damaged",)),
    "graph a link": (_link_out("model.onnx"), ("link to a file outside",)),
    "weights missing": (lambda folder: (folder / DATA).unlink(), (f"lacks {DATA}",)),
    "weights cut": (_cut(DATA, 255), ("is truncated: it has 255 bytes", "copy it again")),
    "weights a link": (_link_out(DATA), ("link to a file outside",)),
    "end token a word": (_end_token("</s>"), ("eos_token_id </s>",)),
    "end token true": (_end_token(True), ("eos_token_id True",)),
    "settings no JSON": (_written("genai_config.json", b"{"), ("not valid JSON",)),
}


@pytest.mark.parametrize(("spoil", "says"), FILES.values(), ids=FILES)
def test_files_that_are_damaged_or_lead_elsewhere(
    tmp_path: Path, spoil: Callable[[Path], None], says: tuple[str, ...]
) -> None:
    folder = write_table(tmp_path / "export")
    spoil(folder)
    _refused(folder, *says)


def test_a_graph_larger_than_any_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimgpt_serve.onnx_runtime.graph_file._LARGEST_GRAPH_BYTES", 100)
    _refused(write_table(tmp_path), "beyond any graph with its weights beside it")


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SlimGPTError, match=r"pip install 'slimgpt\[onnx\]'") as caught:
        read_artefact(write_table(tmp_path))
    assert caught.value.exit_code == 4


def test_a_look_at_an_export_loads_neither_torch_nor_a_runtime(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from slimgpt_serve.onnx_runtime import artefact;"
        "artefact.read_artefact(Path(sys.argv[1]));"
        "sys.exit(bool({'torch', 'onnxruntime', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(write_table(tmp_path))], check=True)


def _refused(folder: Path, *says: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        read_artefact(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    for words in says:
        assert words in message


def test_a_graph_that_its_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path)
    (tmp_path / "slimgpt.json").write_text(json.dumps({"files": {"model.onnx": "0" * 64}}))
    with pytest.raises(IntegrityError, match="was changed since it was exported"):
        read_artefact(tmp_path)
