"""The model card says what the manifest says, and strangers' names can't say anything else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from slimgpt.checkpoint.reader import PICTURE, read_config
from slimgpt.demo import MODEL
from slimgpt.errors import IntegrityError
from slimgpt.planning import Plan, make_plan
from slimgpt.release.card.card import CardFacts, render_card, write_card
from slimgpt.release.card.markdown import inline, plain, table
from slimgpt.release.card.metadata import results, stated_results
from slimgpt.release.card.source_card import SourceCard, read_source_card
from slimgpt.release.card.widths import describe_widths, draw_widths
from slimgpt.release.manifest import describe, parameters
from tests.release_facts import GATES, HOSTILE, QUALITY, RECIPE, RECOVERY, TASK, TEXT, deep


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(read_config(MODEL).shape, 0.25)


def facts(plan: Plan, *, name: str = "org/dense", stock: bool = False, **parts: Any) -> CardFacts:
    manifest = describe(
        source={"name": name, "digest": "3" * 64},
        recipe=parts.get("recipe", RECIPE),
        shape=plan.target,
        counts=parameters(plan),
        quality=parts.get("quality", {}),
        gates=parts.get("gates"),
        device="cpu",
    )
    return CardFacts(manifest, plan.target, parts.get("before"), parts.get("card", MODEL), stock)


def full(plan: Plan, **parts: Any) -> str:
    everything = {"recipe": RECIPE | {"recovery": RECOVERY}, "quality": QUALITY, "gates": GATES}
    return render_card(facts(plan, before=plan.source, **(everything | parts)), picture=True)


def head(card: str) -> dict[str, Any]:
    """The metadata, as the hub reads it."""
    parsed = ModelCard(card)
    assert card.startswith("---\n")
    document: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    assert parsed.data.to_dict() == document
    return document


# -- text of strangers -----------------------------------------------------------------------------


def shown(markdown: str) -> str:
    """What a reader sees of a paragraph, and nothing but text in it."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    assert {t.type for t in tokens} <= {"paragraph_open", "inline", "paragraph_close"}
    children = [child for t in tokens for child in t.children or ()]
    assert {child.type for child in children} <= {"text", "text_special"}
    return "".join(child.content for child in children)


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_inline_text_is_shown_as_it_is(value: str) -> None:
    assert shown(f"x {inline(value)} y") == f"x {plain(value)} y"


@given(st.text())
def test_any_text_is_one_printable_line(value: str) -> None:
    line = plain(value)
    assert line.isprintable()
    assert len(line) <= 200
    assert shown(f"x {inline(value)} y") == f"x {line} y"


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_cell_stays_a_cell(value: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(table(("a", "b"), [(value, value)]))
    cells = [t for t in tokens if t.type == "inline"]
    assert [t.type for t in tokens].count("td_open") == 2
    assert len(cells) == 4
    assert all(c.type in ("text", "text_special") for t in cells for c in t.children or ())


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_names_cannot_add_metadata_or_headings(plan: Plan, tmp_path: Path, value: str) -> None:
    (tmp_path / "README.md").write_bytes(
        yaml.safe_dump_all([{"license": "other", "license_name": value}], explicit_start=True)
        .encode("utf-8", "replace")
        .replace(b"...\n", b"")
        + b"---\n"
    )
    recipe = RECIPE | {"calibration": RECIPE["calibration"] | {"sources": [value]}, "method": value}
    quality = {
        "texts": [TEXT | {"text": value, "how": value}],
        "tasks": {value: TASK | {"protocol": value, "harness": value}},
    }
    gates = [gate | {"name": value, "why": value, "unit": value} for gate in GATES]
    hostile = full(plan, name=value, recipe=recipe, quality=quality, gates=gates, card=tmp_path)
    honest = full(plan, quality=QUALITY | {"recovery": None}, recipe=RECIPE)
    known = head(honest).keys() | {"license_name"}
    assert head(hostile).keys() <= known
    headings = [line for line in hostile.splitlines() if line.startswith("#")]
    assert [x for x in headings if x.startswith("## ")] == [
        x for x in honest.splitlines() if x.startswith("## ")
    ]
    assert len([x for x in headings if x.startswith("# ")]) == 1
    assert "<img" not in hostile.split("---\n", 2)[2].replace("\\<", "")


# -- metadata --------------------------------------------------------------------------------------


def test_a_card_without_measurements_states_no_results(plan: Plan) -> None:
    card = render_card(facts(plan, quality={}, card=MODEL, stock=True), picture=False)
    metadata = head(card)
    assert metadata == {
        "base_model": "org/dense",
        "base_model_relation": "finetune",
        "datasets": ["allenai/c4"],
        "language": "en",
        "library_name": "transformers",
        "license": "cc0-1.0",
        "pipeline_tag": "text-generation",
        "tags": ["slimgpt", "pruned"],
    }
    assert "# org/dense, pruned by 25.0%" in card
    assert "has not been fine-tuned" in card
    assert "any tool loads it" in card
    assert "import slimgpt" not in card
    assert "mine.txt" in card, "what is no hub set is named in the text"
    assert not any(word in card for word in ("## Perplexity", "## Tasks", "## Gates", PICTURE))


def test_a_recovered_card_says_how(plan: Plan) -> None:
    recipe = RECIPE | {"recovery": RECOVERY}
    quality = {"recovery": QUALITY["recovery"]}
    card = render_card(facts(plan, recipe=recipe, quality=quality), picture=False)
    metadata = head(card)
    assert metadata["datasets"] == ["allenai/c4", "yahma/alpaca-cleaned"]
    assert "recovered" in metadata["tags"]
    for words in (
        "pruned by 25.0% and recovered",
        "fine-tuned with LoRA",
        "| recovered on | alpaca, own.json: 49,000 examples to draw from |",
        "| LoRA | rank 8, alpha 16.0 |",
        "| distillation | weight 0.5 ",
        "1.8 before, 1.2 after",
        "import slimgpt",
    ):
        assert words in card, words
    assert "| 0 | 8 | 8 |" in card, "without the dense shape, widths stand alone"


def test_a_recovery_alone_is_not_called_pruning(plan: Plan) -> None:
    card = render_card(facts(plan, recipe={"recovery": RECOVERY}), picture=False)
    assert "# org/dense, recovered\n" in card
    assert "None" not in card


def test_a_stock_copy_of_a_dense_model_is_called_that(plan: Plan) -> None:
    dense = replace(plan, target=plan.source)
    recipe = {"export": {"format": "stock", "padded": False}}
    card = render_card(facts(dense, recipe=recipe, stock=True), picture=False)
    assert "# org/dense, in a stock layout\n" in card
    assert "1,730,176 parameters, 1,205,760 of them in the decoder; none was removed." in card
    assert "Config and weights were written anew; no weight was changed." in card
    assert head(card)["tags"] == ["slimgpt"]


def test_a_padded_card_does_not_count_zeros_as_kept_or_removed(plan: Plan) -> None:
    recipe = RECIPE | {"export": {"format": "stock", "padded": True}}
    card = render_card(facts(plan, recipe=recipe, stock=True), picture=False)
    assert "# org/dense, pruned and padded to a stock layout\n" in card
    assert f"became {plan.target.parameters:,}, zeros included" in card
    assert "under Stock layout" in card
    for words in ("25.0%", "remain", "ratio achieved"):
        assert words not in card, words


@pytest.mark.parametrize("export", ["stock", ["padded"], None, {"padded": False}])
def test_an_export_entry_of_anyone_is_no_padding(plan: Plan, export: Any) -> None:
    card = render_card(facts(plan, recipe=RECIPE | {"export": export}), picture=False)
    assert "pruned by 25.0%" in card


def test_a_quantised_model_has_the_relation_of_one(plan: Plan) -> None:
    recipe = RECIPE | {"quantization": {"scheme": "fp8"}}
    card = render_card(facts(plan, recipe=recipe), picture=False)
    assert head(card)["base_model_relation"] == "quantized"


def test_a_full_card_has_every_table(plan: Plan) -> None:
    card = full(plan)
    for line in (
        "| test.txt | 128 | paper | 12.4 | 15.5 | +25.0% | 0.21 |",
        "| boolq | acc | 0.75 | 0.71 | 0.008 | 3270 | 0 |",
        "| boolq | acc_norm | 0.76 | 0.72 | 0.0079 | 3270 | 0 |",
        "- as lm-eval's boolq (lm_eval 0.4.13, seed 0)",
        "Their ratio is 0.94667 (at least 0.93 with 95% confidence; two-sided, 0.927 to 0.966)",
        "| weight_bytes | 0.82 | 0.85 | 0.03 | fraction | passed |",
        "| tensor parallel | 2 |",
        "of 352 |",
        f"]({PICTURE})",
        "--data FOLDER",
    ):
        assert line in card, line
    assert r"| kl\[test.txt@128\] | 0.21 | 0.2 | -0.01 | nats/token | missed: KL(dense" in card
    assert "align" not in card, "what constrains nothing is left out"


def test_results_of_the_metadata_are_those_of_the_manifest(plan: Plan, tmp_path: Path) -> None:
    metrics = {"longbench": {"metrics": {"qa_f1": {"value": 21.5, "stderr": None}}, "n": 9}}
    quality = QUALITY | {"tasks": QUALITY["tasks"] | metrics}
    (tmp_path / "README.md").write_text(full(plan, quality=quality), "utf-8")
    stated = stated_results(tmp_path / "README.md")
    assert stated == results(quality)
    assert stated == {
        ("test.txt", "perplexity (paper protocol, windows of 128 tokens)", 15.5),
        ("boolq", "acc (0-shot, 3270 questions of boolq.test.jsonl)", 0.71),
        ("boolq", "acc_norm (0-shot, 3270 questions of boolq.test.jsonl)", 0.72),
        ("longbench", "qa_f1", 21.5),
    }
    (index,) = head(full(plan))["model-index"]
    assert index["name"] == "dense-slimgpt"


def test_a_value_that_is_no_number_is_no_result(plan: Plan) -> None:
    quality = {"texts": [TEXT | {"perplexity": None, "kl": None}]}
    card = full(plan, quality=quality)
    assert "model-index" not in head(card)
    assert "| test.txt | 128 | paper | 12.4 |  |  |  |" in card


@pytest.mark.parametrize(
    "content",
    [
        "---\nmodel-index: 5\n---\n",
        "---\nmodel-index: [{}]\n---\n",
        "---\n[\n---\n",
        "---\n5\n---\n",
        "---\nmodel-index:\n- name: x\n  results:\n  - task: 5\n---\n",
        "---\na: " + "[" * 50_000 + "\n---\n",
        "x" * 2**21,
    ],
    ids=range(7),
)
def test_metadata_that_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "README.md").write_text(content)
    with pytest.raises(IntegrityError, match=r"metadata of .* can't be read|no card is"):
        stated_results(tmp_path / "README.md")


@pytest.mark.parametrize("name", ["my model", "a/b/c", "../x", "x--y", "x" * 97, "é", "/abs", ""])
def test_what_can_be_no_hub_name_is_no_base_model(plan: Plan, name: str) -> None:
    metadata = head(render_card(facts(plan, name=name), picture=False))
    assert "base_model" not in metadata
    assert "base_model_relation" not in metadata


# -- the source's card -----------------------------------------------------------------------------

CARDS: dict[str, tuple[str, SourceCard]] = {
    "plain": ("---\nlicense: mit\n---\n", SourceCard("mit")),
    "of its own": (
        "---\ntags:\n- a\nlicense: other\nlicense_name: llama2\nlicense_link: https://x/y\n---\n",
        SourceCard("other", "llama2", "https://x/y"),
    ),
    "languages": ("---\nlanguage:\n- en\n- no\n- 5x!\n---", SourceCard(language=("en", "no"))),
    "one language": ("---\nlanguage: de\nlicense: mit\n---\n", SourceCard("mit", language=("de",))),
    "other line ends": ("---\r\nlicense: mit\r\n---\r\n", SourceCard("mit")),
    "a mark in front": ("\ufeff---\nlicense: mit\n---\n", SourceCard("mit")),
    "a list": ("---\nlicense:\n- mit\n---\n", SourceCard("mit")),
    "several lines": ("---\nlicense: |\n  a\n  ---\n  b: c\n---\n", SourceCard("a --- b: c")),
    "damaged elsewhere": ("---\nx: [\nlicense: mit\n---\n", SourceCard("mit")),
    "damaged": ("---\nlicense: [mit\n---\n", SourceCard()),
    "nested": ("---\nx:\n  license: mit\n---\n", SourceCard()),
    "a number": ("---\nlicense: 5\n---\n", SourceCard("5")),
    "a mapping": ("---\nlicense: {a: b}\n---\n", SourceCard()),
    "itself": ("---\nlicense: &a [*a]\n---\n", SourceCard()),
    "no front matter": ("# Card\nlicense: mit\n", SourceCard()),
    "empty": ("", SourceCard()),
}


@pytest.mark.parametrize(("content", "expected"), CARDS.values(), ids=CARDS)
def test_what_a_source_card_says(tmp_path: Path, content: str, expected: SourceCard) -> None:
    (tmp_path / "README.md").write_bytes(content.encode())
    assert read_source_card(tmp_path) == expected


def test_a_source_may_have_no_card(plan: Plan, tmp_path: Path) -> None:
    assert read_source_card(tmp_path) == SourceCard()
    card = render_card(facts(plan, card=tmp_path), picture=False)
    assert "licen" not in card


def test_a_licence_is_carried_from_card_to_card(plan: Plan, tmp_path: Path) -> None:
    content = CARDS["of its own"][0]
    for generation in ("one", "two"):
        (tmp_path / "README.md").write_text(content)
        content = render_card(facts(plan, card=tmp_path), picture=False)
        assert read_source_card(tmp_path) == CARDS["of its own"][1], generation
    assert "The source's licence is llama2." in content


# -- the picture -----------------------------------------------------------------------------------


def test_a_card_shows_its_picture(plan: Plan, tmp_path: Path) -> None:
    write_card(tmp_path, facts(plan, before=plan.source))
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", PICTURE}
    card = (tmp_path / "README.md").read_text("utf-8")
    assert f"![{describe_widths(plan.target, plan.source)}]({PICTURE})" in card
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("layers", [1, 32, 80])
def test_equal_shapes_give_equal_pictures(tmp_path: Path, layers: int) -> None:
    dense, kept = deep(layers)
    one, two, other = (tmp_path / f"{i}.png" for i in range(3))
    for path in (one, two):
        draw_widths(kept, dense, path)
    draw_widths(kept, None, other)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    assert len(one.read_bytes()) < 100_000


_DRAW = """
import sys
from pathlib import Path
from slimgpt.release.card.widths import draw_widths
from tests.release_facts import deep
dense, kept = deep(32)
draw_widths(kept, dense, Path(sys.argv[1]))
"""


def test_another_process_with_another_taste_draws_the_same_bytes(tmp_path: Path) -> None:
    dense, kept = deep(32)
    draw_widths(kept, dense, tmp_path / "here.png")
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\nsavefig.dpi: 10\n")
    taste = {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "5", "PYTHONPATH": "."}
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", _DRAW, str(tmp_path / "there.png")], check=True, env=taste, cwd=root
    )
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_the_picture_is_told_in_words() -> None:
    dense, kept = deep(4)
    assert describe_widths(kept, dense) == (
        "Bars for each of the 4 layers: 0 to 32 query heads of 32, 0 to 8 KV heads of 8, "
        "0 to 9,003 FFN neurons of 11,008."
    )
    assert describe_widths(dense, None) == (
        "Bars for each of the 4 layers: 32 query heads, 8 KV heads, 11,008 FFN neurons."
    )


def test_commands_that_draw_nothing_import_no_matplotlib() -> None:
    probe = (
        "import sys, slimgpt.release.card.card\n"
        "import slimgpt.commands.verify, slimgpt.release.verify.verify\n"
        "assert not {'matplotlib', 'torch', 'model_signing'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
