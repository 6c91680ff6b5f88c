"""The plugin as a guest in vLLM's process: what it brings along, and that vLLM finds it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.serving


def in_vllm(python: Path, code: str) -> Any:
    """What a few lines print, as JSON, in the vLLM environment."""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_vllm_finds_the_plugin_and_its_architectures(vllm_python: Path) -> None:
    found = in_vllm(
        vllm_python,
        "import json; from vllm.plugins import load_general_plugins as load; load(); load();"
        "from vllm import ModelRegistry;"
        "print(json.dumps(list(ModelRegistry.get_supported_archs())))",
    )
    assert {f"Slim{x}ForCausalLM" for x in ("Llama", "Mistral", "Qwen2", "Qwen3")} <= set(found)


def test_the_plugin_brings_nothing_heavy_along(vllm_python: Path) -> None:
    brought = in_vllm(
        vllm_python,
        "import json, sys; import vllm; from vllm import LLM, ModelRegistry;"
        "from transformers import AutoConfig; before = set(sys.modules);"
        "from slimgpt_serve.vllm_plugin import register; register();"
        "import slimgpt_serve.vllm_model;"
        "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))",
    )
    assert "slimgpt_serve" in brought
    assert not {"peft", "onnx", "onnxruntime", "click", "rich", "datasets"} & set(brought)
