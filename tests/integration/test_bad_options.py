"""Wrong options of every verb: one line, the right exit code, nothing written."""

import pytest

from slimgpt.demo import EVALUATION
from tests.command_line import ENVIRONMENT, USAGE, Desk

RATIO = "give a fraction of at least 0 and below 1"
DAMPING = "give a number from 0 to 10"

WRONG_OPTIONS: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "ratio negative": (["--ratio", "-0.1"], USAGE, ("--ratio -0.1", RATIO)),
    "ratio 1": (["--ratio", "1"], USAGE, ("--ratio 1", RATIO)),
    "ratio 1.5": (["--ratio", "1.5"], USAGE, ("--ratio 1.5", RATIO)),
    "ratio nan": (["--ratio", "nan"], USAGE, ("--ratio nan", RATIO)),
    "ratio infinite": (["--ratio", "inf"], USAGE, ("--ratio inf", RATIO)),
    "ratio no number": (["--ratio", "a fifth"], USAGE, ("'--ratio'", "'a fifth'")),
    "less than one head": (
        ["--ratio", "0.97", "--schedule", "uniform"],
        USAGE,
        ("--ratio 0.97", "layer 0 would keep less than one head", "possible ratio below it is 0.9"),
    ),
    "more than a layer": (
        ["--ratio", "0.9"],
        USAGE,
        ("--ratio 0.9", "--schedule log", "layer 1 would have to lose", "possible ratio below"),
    ),
    "first layer ratio nan": (["--first-layer-ratio", "nan"], USAGE, ("--first-layer-ratio nan",)),
    "first layer ratio 1": (["--first-layer-ratio", "1"], USAGE, ("--first-layer-ratio 1",)),
    "damping nan": (["--damping", "nan"], USAGE, ("--damping nan", DAMPING)),
    "damping negative": (["--damping", "-1"], USAGE, ("--damping -1", DAMPING)),
    "damping infinite": (["--damping", "inf"], USAGE, ("--damping inf", DAMPING)),
    "align 0": (["--align", "0"], USAGE, ("--align 0", "positive whole number")),
    "align negative": (["--align", "-4"], USAGE, ("--align -4", "positive whole number")),
    "align beyond the width": (
        ["--align", "1000"],
        USAGE,
        ("352 FFN neurons, fewer than 1000", "no ratio is possible", "relax --align"),
    ),
    "tensor parallel 0": (
        ["--tensor-parallel", "0"],
        USAGE,
        ("--tensor-parallel 0", "positive whole number"),
    ),
    "tensor parallel beyond the heads": (
        ["--tensor-parallel", "64"],
        USAGE,
        ("--tensor-parallel 64 divides no head count", "8 query heads", "possible here: 1, 2"),
    ),
    "uniform with schedule": (
        ["--uniform", "--schedule", "linear"],
        USAGE,
        ("--uniform", "leave out --schedule"),
    ),
    "uniform with first layer ratio": (
        ["--uniform", "--first-layer-ratio", "0.1"],
        USAGE,
        ("--uniform", "--first-layer-ratio"),
    ),
    "kv heads kept without groups": (
        ["--kv-heads", "keep"],
        USAGE,
        ("--kv-heads keep needs grouped-query attention", "use --kv-heads prune"),
    ),
    "kv heads unknown": (["--kv-heads", "some"], USAGE, ("'--kv-heads'", "'keep', 'prune'")),
    "method unknown": (["--method", "magic"], USAGE, ("'--method'", "'exact', 'slimgpt'")),
    "schedule unknown": (["--schedule", "steep"], USAGE, ("'--schedule'", "'log', 'linear'")),
    "samples 0": (["--samples", "0"], USAGE, ("--samples 0", "at least 1")),
    "samples negative": (["--samples", "-3"], USAGE, ("--samples -3", "at least 1")),
    "samples beyond the rows": (
        ["--samples", "129"],
        USAGE,
        ("128 rows of at least 32", "too short for 129", "lower --samples"),
    ),
    "samples beyond memory": (
        ["--samples", "1000000000", "--calibration", "self"],
        ENVIRONMENT,
        ("--samples 1000000000 x 32 tokens needs", "of memory", "lower --samples"),
    ),
    "sequence length 0": (["--sequence-length", "0"], USAGE, ("--sequence-length 0", "at least 2")),
    "sequence length 1": (["--sequence-length", "1"], USAGE, ("--sequence-length 1", "at least 2")),
    "sequence length beyond the context": (
        ["--sequence-length", "257"],
        USAGE,
        ("--sequence-length 257", "context of 256"),
    ),
    "self and a file": (
        ["--calibration", "self", "--calibration", str(EVALUATION)],
        USAGE,
        ("--calibration self can't be mixed",),
    ),
    "seed negative": (["--seed", "-1"], USAGE, ("'--seed'", "-1")),
    "seed of 33 bits": (["--seed", "4294967296"], USAGE, ("'--seed'", "4294967296")),
    "no GPU": (["--device", "cuda:63"], ENVIRONMENT, ("--device cuda:63", "use --device cpu")),
    "device unknown": (["--device", "tpu"], USAGE, ("--device tpu", "give auto, cpu, cuda")),
    "device without its number": (["--device", "cuda:"], USAGE, ("--device cuda:", "give auto")),
    "dtype unknown": (["--dtype", "int8"], USAGE, ("'--dtype'", "'float16'")),
    "log file nowhere": (
        ["--log-file", "{root}/no/log"],
        USAGE,
        ("--log-file", "can't be written: No such file"),
    ),
    "option unknown": (["--rate", "0.2"], USAGE, ("--rate",)),
}


@pytest.mark.parametrize(("options", "code", "says"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_a_wrong_option_of_prune(
    desk: Desk, options: list[str], code: int, says: tuple[str, ...]
) -> None:
    desk.refuses(desk.prune(*desk.fill(options)), code, *says)


EVALUATE = ["evaluate", "{model}", "--text", str(EVALUATION)]
GENERATE = ["generate", "{model}", "Once"]

WRONG_COMMANDS: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "unknown verb": (["prunes"], USAGE, ("prunes",)),
    "prune without arguments": (["prune"], USAGE, ("MODEL",)),
    "prune without ratio": (["prune", "{model}", "{out}"], USAGE, ("--ratio",)),
    "plan of nothing": (["plan", "{root}/no", "--ratio", "0.2"], USAGE, ("{root}/no does not",)),
    "plan ratio": (["plan", "{model}", "--ratio", "2"], USAGE, ("--ratio 2", RATIO)),
    "plan damping": (
        ["plan", "{model}", "--ratio", "0.2", "--damping", "nan"],
        USAGE,
        ("--damping nan", DAMPING),
    ),
    "plan samples": (
        ["plan", "{model}", "--ratio", "0.2", "--samples", "0"],
        USAGE,
        ("--samples 0",),
    ),
    "plan sequence length": (
        ["plan", "{model}", "--ratio", "0.2", "--sequence-length", "257"],
        USAGE,
        ("--sequence-length 257", "context of 256"),
    ),
    "window 1": ([*EVALUATE, "--window", "1"], USAGE, ("--window 1", "at least 2")),
    "window beyond the context": (
        [*EVALUATE, "--window", "257"],
        USAGE,
        ("--window 257", "context of 256"),
    ),
    "text missing": (["evaluate", "{model}"], USAGE, ("--text",)),
    "baseline missing": ([*EVALUATE, "--baseline", "{root}/no"], USAGE, ("{root}/no does not",)),
    "protocol unknown": ([*EVALUATE, "--protocol", "own"], USAGE, ("'--protocol'", "'paper'")),
    "evaluate without GPU": (
        [*EVALUATE, "--device", "cuda:63"],
        ENVIRONMENT,
        ("--device cuda:63",),
    ),
    "temperature nan": ([*GENERATE, "--temperature", "nan"], USAGE, ("--temperature nan",)),
    "temperature infinite": ([*GENERATE, "--temperature", "inf"], USAGE, ("--temperature inf",)),
    "temperature negative": ([*GENERATE, "--temperature", "-1"], USAGE, ("'--temperature'",)),
    "no new tokens": ([*GENERATE, "--max-new-tokens", "0"], USAGE, ("'--max-new-tokens'",)),
    "prompt too long": (
        ["generate", "{model}", "word " * 300],
        USAGE,
        ("PROMPT has 3", "context of 256"),
    ),
    "inspect of a file": (["inspect", "{model}/config.json"], USAGE, ("config.json is a file",)),
    "demo ratio": (["demo", "--ratio", "nan"], USAGE, ("--ratio nan", RATIO)),
    "demo kept over something": (["demo", "--keep", "{model}"], USAGE, ("--keep {model} exists",)),
}


@pytest.mark.parametrize(("command", "code", "says"), WRONG_COMMANDS.values(), ids=WRONG_COMMANDS)
def test_a_wrong_command(desk: Desk, command: list[str], code: int, says: tuple[str, ...]) -> None:
    desk.refuses(desk.fill(command), code, *desk.fill(says))


def test_a_baseline_of_another_vocabulary(desk: Desk) -> None:
    other = Desk(desk.root, "other")
    other.model.mkdir()
    (other.model / "config.json").write_text((desk.model / "config.json").read_text())
    other.edit_config(vocab_size=300)
    command = [*EVALUATE, "--baseline", str(other.model)]
    desk.refuses(desk.fill(command), USAGE, "--baseline", "vocabulary of 300", "one of 4096")
