"""A wrong recipe: every problem, with its line, what was given and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes import PRUNE, RATIO, problems

SOURCES = "give a list of file names or names"
GATES = "perplexity_increase, kl, accuracy, weight_bytes, kv_bytes, speedup"
TEXT = "texts: [{file: t.txt}]"

WRONG: dict[str, tuple[str, list[str]]] = {
    "no ratio": (
        "seed: 1",
        [f"r.yaml:1: prune.ratio is missing: {RATIO}; or give --ratio"],
    ),
    "no ratio in a section": (
        "seed: 1\nprune:\n  align: 2",
        [f"r.yaml:2: prune.ratio is missing: {RATIO}; or give --ratio"],
    ),
    "percent": ("prune: {ratio: 25%}", [f"r.yaml:1: prune.ratio '25%': {RATIO}"]),
    "ratio 1": ("prune:\n  ratio: 1", [f"r.yaml:2: prune.ratio 1: {RATIO}"]),
    "nan": ("prune: {ratio: .nan}", [f"r.yaml:1: prune.ratio nan: {RATIO}"]),
    "infinite": ("prune: {ratio: -.inf}", [f"r.yaml:1: prune.ratio -inf: {RATIO}"]),
    "number in quotes": ("prune: {ratio: '0.2'}", [f"r.yaml:1: prune.ratio '0.2': {RATIO}"]),
    "list for a number": ("prune: {ratio: [1]}", [f"r.yaml:1: prune.ratio a list: {RATIO}"]),
    "version": (PRUNE + "version: 2", ["r.yaml:2: version 2: give 1"]),
    "seed": (
        PRUNE + "seed: -1",
        ["r.yaml:2: seed -1: give a whole number, at least 0 and at most 4294967295"],
    ),
    "unknown key": (
        "prune: {ratio: 0.2, metod: exact}",
        ["r.yaml:1: prune.metod is no setting: did you mean prune.method?"],
    ),
    "key of elsewhere": (
        PRUNE + "samples: 3",
        ["r.yaml:2: samples is no setting: did you mean prune.samples?"],
    ),
    "key of nowhere": (
        PRUNE + "sign: {key: t.txt, zzz: 1}",
        ["r.yaml:2: sign.zzz is no setting: known here: key"],
    ),
    "choice": (
        "prune: {ratio: 0.2, method: magic}",
        ["r.yaml:1: prune.method 'magic': give exact, slimgpt or depth"],
    ),
    "truth for a choice": (
        "prune: {ratio: 0.2, kv_heads: true}",
        ["r.yaml:1: prune.kv_heads true: give keep or prune, or null"],
    ),
    "yes": (
        "prune: {ratio: 0.2, uniform: yes}",
        ["r.yaml:1: prune.uniform 'yes': give true or false"],
    ),
    "truth for a number": (
        "prune: {ratio: 0.2, samples: true}",
        ["r.yaml:1: prune.samples true: give a whole number, at least 1"],
    ),
    "fraction for a count": (
        "prune: {ratio: 0.2, samples: 1.5}",
        ["r.yaml:1: prune.samples 1.5: give a whole number, at least 1"],
    ),
    "null": (
        "prune: {ratio: 0.2, align: null}",
        ["r.yaml:1: prune.align null: give a whole number, at least 1"],
    ),
    "number for a name": (
        PRUNE + "evaluate:\n  tasks:\n    - boolq\n    - 12",
        ["r.yaml:5: evaluate.tasks[1] 12: give a file name or a name, in quotes"],
    ),
    "empty name": (
        "prune: {ratio: 0.2, calibration: ['']}",
        ["r.yaml:1: prune.calibration[0] '': give a file name or a name"],
    ),
    "no calibration": (
        "prune: {ratio: 0.2, calibration: []}",
        [f"r.yaml:1: prune.calibration an empty list: {SOURCES}, like [c4]"],
    ),
    "stranger": (
        "prune: {ratio: 0.2, calibration: ~nobody-here/x.txt}",
        [
            "r.yaml:1: prune.calibration[0] '~nobody-here/x.txt': ~nobody-here is no user's home; "
            "give a file name or a name"
        ],
    ),
    "self and more": (
        "prune: {ratio: 0.2, calibration: [self, t.txt]}",
        [
            "r.yaml:1: prune.calibration: self can't be mixed with other sources: give one or the "
            "other"
        ],
    ),
    "uniform and a schedule": (
        "prune: {ratio: 0.2, uniform: true,\n  schedule: log, first_layer_ratio: 0.1}",
        [
            f"r.yaml:2: prune.{name}: prune.uniform gives all layers the same widths: leave this"
            for name in ("schedule", "first_layer_ratio")
        ],
    ),
    "section that is none": (
        PRUNE + "recover: alpaca.json",
        ["r.yaml:2: recover 'alpaca.json': give a section with data, rank, alpha"],
    ),
    "empty section": (PRUNE + "recover:", [f"r.yaml:2: recover.data is missing: {SOURCES}"]),
    "micro batch": (
        PRUNE + "recover: {data: t.txt, batch_size: 64, micro_batch: 24}",
        ["r.yaml:2: recover.micro_batch: 24 with recover.batch_size 64: give a divisor"],
    ),
    "micro batch beyond the batch": (
        PRUNE + "recover: {data: t.txt, batch_size: 8, micro_batch: 16}",
        ["r.yaml:2: recover.micro_batch: 16 with recover.batch_size 8: no more than a batch can"],
    ),
    "batch beyond the micro batch": (
        PRUNE + "recover: {data: t.txt, batch_size: 24}",
        ["r.yaml:2: recover.micro_batch: 16 with recover.batch_size 24: give a divisor"],
    ),
    "learning rate 0": (
        PRUNE + "recover: {data: t.txt, learning_rate: 0}",
        ["r.yaml:2: recover.learning_rate 0: give a number, above 0 and at most 1"],
    ),
    "nothing to measure": (
        PRUNE + "evaluate: {limit: 3}",
        ["r.yaml:2: evaluate: nothing to measure: give evaluate.texts, evaluate.tasks or both"],
    ),
    "a text that is no section": (
        PRUNE + "evaluate: {texts: [t.txt]}",
        ["r.yaml:2: evaluate.texts[0] 't.txt': give a section with file, window, protocol"],
    ),
    "a text twice": (
        PRUNE + "evaluate: {texts: [{file: t.txt}, {file: t.txt, window: 128}]}",
        ["r.yaml:2: evaluate.texts: t.txt in windows of 128 (raw) stands there 2x"],
    ),
    "a task twice": (
        PRUNE + "evaluate: {tasks: [piqa, piqa]}",
        ["r.yaml:2: evaluate.tasks: piqa stands there 2x: give each task once"],
    ),
    "gates commented out": (
        PRUNE + "gates:\n#  kl: 0.1",
        [f"r.yaml:2: gates: no gate in it: give at least one of {GATES}, or leave the section out"],
    ),
    "gates of nothing": (PRUNE + "gates: {kl: null}", ["r.yaml:2: gates: no gate in it"]),
    "gates on texts without texts": (
        PRUNE + "evaluate: {tasks: [piqa]}\ngates:\n  kl: 1\n  perplexity_increase: 1",
        [
            "r.yaml:4: gates.kl: can't be measured without a text: give evaluate.texts",
            "r.yaml:5: gates.perplexity_increase: can't be measured without a text",
        ],
    ),
    "accuracy without tasks": (
        PRUNE + f"evaluate: {{{TEXT}}}\ngates: {{accuracy: {{ratio: 0.9}}}}",
        ["r.yaml:3: gates.accuracy: can't be measured without a task: give evaluate.tasks"],
    ),
    "accuracy in percent": (
        PRUNE + "evaluate: {tasks: [piqa]}\ngates: {accuracy: {ratio: 95}}",
        ["r.yaml:3: gates.accuracy.ratio 95: give a number, above 0 and at most 1, like 0.95"],
    ),
    "export": (
        PRUNE + "exports: [{format: gguf}]",
        ["r.yaml:2: exports[0].format 'gguf': give cyclonedx, stock, quantized or onnx"],
    ),
    "export without a place": (
        PRUNE + "exports:\n  - {format: stock}\n  - {format: quantized}",
        [
            "r.yaml:3: exports[0].out: is missing: stock goes to a directory of its own",
            "r.yaml:4: exports[1].out: is missing: quantized goes to a directory of its own",
            "r.yaml:4: exports[1].scheme: is missing: give fp8, w8a8 or w4a16",
        ],
    ),
    "keys of another export": (
        PRUNE + "exports:\n  - {format: cyclonedx, out: x}\n"
        "  - {format: stock, out: y, max_kl: 0.1}\n"
        "  - {format: quantized, out: z, scheme: fp8, pad: true, group_size: 64}",
        [
            "r.yaml:3: exports[0].out: means nothing to cyclonedx: leave it out",
            "r.yaml:4: exports[1].max_kl: means nothing to stock: leave it out",
            "r.yaml:5: exports[2].pad: means nothing to quantized: leave it out",
            "r.yaml:5: exports[2].group_size: goes with w4a16: fp8 has one scale a row",
        ],
    ),
    "values of an export": (
        PRUNE + "exports: [{format: quantized, out: x, scheme: w4a16, group_size: 48,\n"
        "  window: 64, max_kl: -1}]",
        [
            "r.yaml:2: exports[0].group_size 48: give 32, 64 or 128",
            "r.yaml:3: exports[0].max_kl -1: give a number, at least 0, or null",
        ],
    ),
    "a window of no text": (
        PRUNE + "exports: [{format: quantized, out: x, scheme: fp8, window: 64}]",
        ["r.yaml:2: exports[0].window: goes with text: give the file to measure on"],
    ),
    "a text of an export that is not there": (
        PRUNE + "exports: [{format: quantized, out: x, scheme: fp8, text: no.txt}]",
        ["r.yaml:2: exports[0].text 'no.txt': {folder}/no.txt is no file"],
    ),
    "two exports to one place": (
        PRUNE + "exports: [{format: stock, out: x}, {format: quantized, out: x, scheme: fp8}]",
        ["r.yaml:2: exports: x stands there 2x: give it once"],
    ),
    "export of onnx without a precision": (
        PRUNE + "exports: [{format: onnx, out: x}]",
        ["r.yaml:2: exports[0].precision: is missing: give fp32, fp16, bf16, int8 or int4"],
    ),
    "export of onnx with parts of whole weights": (
        PRUNE + "exports: [{format: onnx, out: x, precision: fp16, block_size: 64}]",
        ["r.yaml:2: exports[0].block_size: goes with int8 and int4, not with fp16"],
    ),
    "export of onnx with a part that is none": (
        PRUNE + "exports: [{format: onnx, out: x, precision: int8, keep: 'first, tail'}]",
        ["r.yaml:2: exports[0].keep: names no part: give auto, none, or some of first, last, head"],
    ),
    "export twice": (
        PRUNE + "exports: [{format: cyclonedx}, {format: cyclonedx}]",
        ["r.yaml:2: exports: cyclonedx stands there 2x: give it once"],
    ),
    "repository": (
        PRUNE + "push: {repository: name}",
        ["r.yaml:2: push.repository 'name': give text, like org/name"],
    ),
    "files that are not there": (
        "prune: {ratio: 0.2, calibration: [c5]}\nrecover: {data: self}\n"
        "evaluate: {texts: [{file: no.txt}], tasks: [no.jsonl, unknown], task_data: t.txt}\n"
        "sign: {key: no.pem}",
        [
            "r.yaml:1: prune.calibration[0] 'c5': {folder}/c5 is no file, and no name like c4, "
            "wikitext2, alpaca, gpt4-alpaca, self",
            "r.yaml:2: recover.data[0] 'self': {folder}/self is no file, and no name like c4, ",
            "r.yaml:3: evaluate.texts[0].file 'no.txt': {folder}/no.txt is no file",
            "r.yaml:3: evaluate.tasks[0] 'no.jsonl': {folder}/no.jsonl is no file",
            "r.yaml:3: evaluate.task_data 't.txt': {folder}/t.txt is no folder",
            "r.yaml:4: sign.key 'no.pem': {folder}/no.pem is no file",
        ],
    ),
    "a name beyond the system's": (
        "prune: {ratio: 0.2, calibration: " + "x" * 300 + ".txt}",
        ["r.yaml:1: prune.calibration[0] '" + "x" * 60 + "...': {folder}/xxx"],
    ),
    "empty": ("# nothing\n", ["r.yaml:1: is empty: slimgpt recipe init writes a commented one"]),
    "a list at the top": ("- prune", ["r.yaml:1: no sections at the top: give keys, like prune:"]),
    "text at the top": ("prune", ["r.yaml:1: no sections at the top"]),
    "tab": (
        "prune:\n\tratio: 0.2",
        [
            "r.yaml:2: is no valid YAML: while scanning for the next token found character '\\t' "
            "that cannot start any token; indent with spaces"
        ],
    ),
    "bracket": ("prune: [\n", ["r.yaml:2: is no valid YAML: while parsing a flow node"]),
    "quote": ("a: 'b\n", ["r.yaml:2: is no valid YAML: while scanning a quoted scalar"]),
    "escape": ('a: "\\U00110000"', ["r.yaml:1: is no valid YAML: chr() arg not in range"]),
    "control character": (PRUNE + "\x07", ["r.yaml:2: is no text: it holds control characters"]),
    "two documents": (
        "a: 1\n---\nb: 2",
        ["r.yaml:2: is no valid YAML: expected a single"],
    ),
    "no such anchor": ("a: *b", ["r.yaml:1: is no valid YAML: found undefined alias"]),
    "a key twice": (
        "prune:\n  ratio: 0.2\n  ratio: 0.3",
        ["r.yaml:3: ratio stands here for the second time, after {folder}/r.yaml:2"],
    ),
    "list as a key": (PRUNE + "? [a]\n: b", ["r.yaml:2: a list or section can't be a key"]),
    "merge key": ("<<: {a: 1}\n" + PRUNE, ["r.yaml:1: merge keys (<<) aren't read"]),
    "tag": (
        PRUNE + "sign: {key: !!python/object/apply:os.system [id]}",
        ["r.yaml:2: 'this' can't be read as !!python/object/apply:os.system: leave the tag out"],
    ),
    "wrong tag": (
        "prune: {ratio: !!float x}",
        ["r.yaml:1: 'x' can't be read as !!float: leave the tag out"],
    ),
    "line end in a name": (
        'prune: {ratio: 0.2, calibration: "a\\nb"}',
        ["r.yaml:1: text can't hold line ends or control characters"],
    ),
    "long number": (
        "prune: {ratio: 0." + "1" * 99 + "}",
        ["r.yaml:1: a number of 101 characters: give a short one"],
    ),
    "large number": (
        "prune: {ratio: 0.2, samples: 4294967297}",
        ["r.yaml:1: 4294967297 is beyond any setting: give less"],
    ),
    "deep": ("a: " + "[" * 25 + "]" * 25, ["r.yaml:1: holds more than a recipe may"]),
    "very deep": ("[" * 5000, ["r.yaml:1: is nested too deeply for a recipe"]),
    "its own alias": (
        "a: &a [*a]",
        ["r.yaml:1: holds more than a recipe may, 10,000 values"],
    ),
    "alias bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
        "e: [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c, *c]",
        ["r.yaml:1: holds more than a recipe may"],
    ),
    "very many values": ("a: [" + "x, " * 30_000, ["r.yaml:1: holds more than a recipe may"]),
    "very many problems": (
        "".join(f"a{i}: 1\n" for i in range(150)),
        [*["r.yaml:"] * 100, "and 51 more problems"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG)
def test_a_wrong_recipe(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = problems(tmp_path, text)
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start.replace("{folder}", str(tmp_path)))


def test_all_problems_are_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "sed: 1\nprune: {ratio: 2}\npush: {repository: x, private: on}\nprune: 3\ngates:"
    found = problems(tmp_path, text, "prune.align=0", "x")
    assert [line.split(": ")[0] for line in found] == [
        "--set x",
        "--set prune.align=0",
        *(f"r.yaml:{n}" for n in (1, 2, 3, 3, 4, 5)),
    ]
