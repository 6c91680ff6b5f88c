"""ONNX exports to be served in tests: the embedded model whole, cut short, and spoiled."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx

from slimgpt_serve.onnx_runtime.artefact import CONCATENATED, read_artefact
from slimgpt_serve.onnx_runtime.runner import Runner
from slimgpt_serve.onnx_runtime.session import open_session
from slimgpt_serve.onnx_runtime.tokens import Tokenizer, load_tokenizer
from tests.command_line import write_small
from tests.onnx_exports import Exports

CHAT_TEMPLATE = """\
{%- for m in messages -%}
{%- if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif -%}
{{ m.role }}: {{ m.content + '\\n' }}
{%- endfor -%}
assistant:{{ ending }}"""


def export_small(root: Path) -> Path:
    """The embedded model cut to two layers, exported: it answers in a millisecond a token."""
    write_small(root / "small")
    return Exports(root).make(root / "small").out


def spoil_position(export: Path, out: Path, position: int) -> Path:
    """A copy that gives NaN to every text that reaches a position, and to no other."""
    shutil.copytree(export, out)
    (out / "slimgpt.json").unlink()  # it says what the files were
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    [table] = [x for x in graph.initializer if x.name == "rope.cos"]
    where = {entry.key: entry.value for entry in table.external_data}
    row_bytes = int(where["length"]) // table.dims[0]
    with (out / where["location"]).open("r+b") as data:
        data.seek(int(where["offset"]) + position * row_bytes)
        data.write(np.full(table.dims[1], np.nan, np.float32).tobytes())
    return out


def say_portable(export: Path, out: Path) -> Path:
    """A copy whose metadata says that its caches are copied; making one takes far longer."""
    shutil.copytree(export, out)
    model = onnx.load(out / "model.onnx", load_external_data=False)
    [entry] = [x for x in model.metadata_props if x.key == "slimgpt.cache"]
    entry.value = CONCATENATED
    onnx.save(model, out / "model.onnx")
    (out / "slimgpt.json").unlink()  # it lists the graph as it was
    return out


def with_chat_template(directory: Path, out: Path) -> Path:
    """A copy whose tokenizer has a chat template."""
    shutil.copytree(directory, out)
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return out


def make_runner(export: Path, *, slots: int, capacity: int = 256) -> Runner:
    """A runner of one thread on the CPU."""
    return Runner(open_session(read_artefact(export), device="cpu", threads=1), capacity, slots)


def tokenizer_of(export: Path) -> Tokenizer:
    return load_tokenizer(export)
