"""``import slimgpt`` is all it takes for transformers' auto classes, in whatever order."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file
from transformers import AutoTokenizer

from slimgpt.autoload import MODEL_TYPES
from slimgpt.demo import __file__ as demo
from slimgpt.families import FAMILIES
from slimgpt.modeling import ARCHITECTURES
from slimgpt.tokenizer import load_tokenizer
from tests.tiny_models import LENGTH, Tiny, load, logits, random_ids

TEXT = random_ids(1, LENGTH, seed=1)
TOKENIZER = Path(demo).parent / "model"
WORDS = "Once upon a time, 12 cats  sat.\n"

IMPORTS = {
    "slimgpt-first": "import slimgpt; import transformers",
    "transformers-first": "import transformers; import slimgpt",
    "auto-classes-first": "from transformers import AutoModelForCausalLM; import slimgpt",
}
USE = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
checkpoint, expected = sys.argv[1], load_file(sys.argv[2])
assert AutoConfig.from_pretrained(checkpoint).model_type == "slimgpt_llama"
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64).eval()
assert type(model).__name__ == "SlimLlamaForCausalLM"
with torch.no_grad():
    torch.testing.assert_close(model(expected["ids"]).logits, expected["logits"])
assert AutoTokenizer.from_pretrained(checkpoint)(sys.argv[3])["input_ids"]
"""


def run(script: str, *arguments: object) -> None:
    """Runs a script in a fresh process, which must succeed."""
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def with_tokenizer(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned checkpoint whose source had a tokenizer."""
    source = tmp_path_factory.mktemp("source") / "llama"
    shutil.copytree(tiny.dense("llama-mha").path, source)
    for path in TOKENIZER.glob("tokenizer*.json"):
        shutil.copy(path, source)
    return tiny.pruned(source)


@pytest.mark.parametrize("order", IMPORTS)
def test_auto_classes_load_it_in_any_order_of_imports(
    with_tokenizer: Path, tmp_path: Path, order: str
) -> None:
    expected = tmp_path / "expected.safetensors"
    save_file({"ids": TEXT, "logits": logits(load(with_tokenizer), TEXT)}, expected)
    run(IMPORTS[order] + "\n" + USE, with_tokenizer, expected, WORDS)


def test_importing_slimgpt_imports_neither_torch_nor_transformers() -> None:
    run("import sys, slimgpt; assert not {'torch', 'transformers'} & set(sys.modules)")


def test_families_modeling_and_autoload_name_the_same_model_types() -> None:
    assert set(MODEL_TYPES) == set(ARCHITECTURES) == {f.pruned_model_type for f in FAMILIES}
    for family in FAMILIES:
        architecture = ARCHITECTURES[family.pruned_model_type]
        assert architecture.causal_lm.__name__ == family.pruned_architecture


def tokens(directory: Path) -> tuple[str, list[int]]:
    """What AutoTokenizer, and slimgpt, make of a text: the class and the ids."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(WORDS)["input_ids"]
    assert load_tokenizer(directory)(WORDS)["input_ids"] == ids
    return type(tokenizer).__name__, ids


@pytest.mark.parametrize("name", ["llama-mha", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "named", ["LlamaTokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast", None]
)
def test_a_pruned_model_gets_the_tokens_of_its_source(
    tiny: Tiny, tmp_path: Path, name: str, named: str | None
) -> None:
    """transformers chooses the class by model type too, so ours must be known to it."""
    settings = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    del settings["tokenizer_class"], settings["backend"]
    if named:
        settings["tokenizer_class"] = named
    dense = tiny.dense(name).path
    for model in (dense, tiny.pruned(dense)):
        directory = tmp_path / model.name
        directory.mkdir()
        shutil.copy(model / "config.json", directory)
        shutil.copy(TOKENIZER / "tokenizer.json", directory)
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    before, after = (tokens(directory) for directory in sorted(tmp_path.iterdir()))
    assert after == before


def test_baichuans_tokenizer_is_read_without_its_code(
    tiny: Tiny, tmp_path: Path, shared: Path
) -> None:
    source = tmp_path / "baichuan"
    shutil.copytree(tiny.dense("baichuan").path, source)
    shutil.copy(shared / "data/tokenizers/mistral-v3.model", source / "tokenizer.model")
    ids = load_tokenizer(source)(WORDS)["input_ids"]
    assert load_tokenizer(source).decode(ids) == WORDS
    assert load_tokenizer(tiny.pruned(source))(WORDS)["input_ids"] == ids


@pytest.mark.parametrize("name", ["vicuna", "baichuan"])
def test_a_conversion_leaves_a_tokenizer_that_stock_auto_classes_read_the_same(
    tiny: Tiny, tmp_path: Path, shared: Path, name: str
) -> None:
    """AutoTokenizer reads one tokenizer.model differently under llama and under mistral."""
    source = tmp_path / name
    shutil.copytree(tiny.dense(name).path, source)
    shutil.copy(shared / "data/tokenizers/mistral-v3.model", source / "tokenizer.model")
    settings: dict[str, object] = {"tokenizer_class": "LlamaTokenizer"}
    if name == "baichuan":
        own = ["tokenization_baichuan.BaichuanTokenizer", None]
        settings = {"auto_map": {"AutoTokenizer": own}}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = load_tokenizer(source)(WORDS)["input_ids"]
    out = tiny.pruned(source, uniform=True)
    assert json.loads((out / "config.json").read_text())["model_type"] in ("mistral", "llama")
    stock = "import sys; from transformers import AutoTokenizer as A; "
    stock += "sys.stdout.write(str(A.from_pretrained(sys.argv[1])(sys.argv[2])['input_ids']))"
    done = subprocess.run(
        [sys.executable, "-c", stock, str(out), WORDS], capture_output=True, text=True, check=True
    )
    assert done.stdout == str(ids)
