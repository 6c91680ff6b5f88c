"""What a reader takes home: the first thing on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from slimgpt_bench.intervals import INSUFFICIENT
from slimgpt_bench.report.blocks import Block, Fact, Facts, Mark, Prose, Section
from slimgpt_bench.report.models import Model, is_pruned
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.cells import NAMES, VERDICTS, machine, place
from slimgpt_bench.report.sections.drawn import name_of
from slimgpt_bench.report.sections.loads import attained
from slimgpt_bench.report.sections.plans import accelerator
from slimgpt_bench.report.sections.speed import QUANTITIES
from slimgpt_bench.report.told import count, interval, number, percent, perplexity

Document = Mapping[str, Any]


def verdict(pages: Pages) -> Section:
    """Sentences, and the few numbers behind them."""
    said = list(_sentences(pages)) or ["Measurements of models that slimgpt made."]
    facts = [
        *_speed_facts(pages),
        *_size_facts(pages),
        *_quality_facts(pages),
        *_load_facts(pages),
        *_plan_facts(pages),
    ]
    blocks: list[Block] = [Prose(text) for text in said]
    blocks += [Facts(tuple(facts))] if facts else []
    return Section("verdict", title(pages), tuple(blocks))


def title(pages: Pages) -> str:
    """What the page is about."""
    pruned = [x.name for x in pages.models if is_pruned(x) and not x.origin]
    names = pruned or [x.name for x in pages.models]
    if not names:
        return "Measurements"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentences(pages: Pages) -> Iterator[str]:
    """Speed of what was compared, each with its size and quality, then the sizes of the others."""
    told = set()
    for document in pages.of("compare"):
        pruned = pages.model(document["pruned"])
        yield _speed(pages, document)
        yield from _other_times(document)
        yield from _against_third(pages, document)
        if pruned.digest not in told and not pruned.origin:
            yield from _size(pruned, "It")
        told.add(pruned.digest)
    for model in pages.models:
        if origin := pages.origin(model):
            yield (
                f"{model.name} is {origin.name}, exported: what is said of the quality of "
                f"{origin.name} was measured before that."
            )
        elif model.digest not in told:
            yield from _size(model, model.name)
    yield from _borne(pages)
    yield from _planned(pages)


def _borne(pages: Pages) -> Iterator[str]:
    for document in pages.of("load"):
        if document["slo"] and document["valid"] and (found := attained(document)):
            yield f"{name_of(pages, document)} answers {found[0]:g} requests/s within the SLO."


def _planned(pages: Pages) -> Iterator[str]:
    for document in pages.of("capacity"):
        value = _accelerators(document).get("value")
        if document["valid"] and isinstance(value, int | float):
            label = _accelerators(document).get("label")
            yield (
                f"The planned traffic takes {value:,.0f} accelerators ({accelerator(document)}) "
                f"with {name_of(pages, document)}, spares among them; its rates are {label}."
            )


def _accelerators(document: Document) -> Mapping[str, Any]:
    plan = document["plan"]
    found: Mapping[str, Any] = plan.get("planned_accelerators") or plan["replicas"]["point"]
    return found


def _speed(pages: Pages, document: Document) -> str:
    dense, pruned = (pages.model(document[side]).name for side in ("dense", "pruned"))
    found = document[_headline(document)]
    if not document["valid"]:
        return f"The comparison of {pruned} with {dense} is not valid."
    ratio = f"{number(found['ratio'])} {interval(found['interval'])}"
    first = document["cells"][0]
    lengths = f"{first['prompt_tokens']:,} tokens read, {first['output_tokens']:,} written"
    where = f" (batch {first['batch']:,}, {lengths})"
    match found["verdict"]:
        case "faster":
            return f"{pruned} generates {ratio} times as fast as {dense}{where}."
        case "slower":
            return f"{pruned} is slower than {dense}: it generates {ratio} times as fast{where}."
        case "no difference":
            return f"{pruned} generates as fast as {dense}: {ratio} times as fast{where}."
    told = "too few samples" if found["interval"] == INSUFFICIENT else f"{ratio} times as fast"
    return f"Whether {pruned} generates faster than {dense} can't be told: {told}{where}."


_OTHERS = {"ttft_s": "the first token", "e2e_s": "the whole answer"}


def _other_times(document: Document) -> Iterator[str]:
    """What the first sentence leaves out, so that one good number does not stand for all."""
    if not document["valid"]:
        return
    told = []
    for name, words in _OTHERS.items():
        found = document[name]
        if (
            name == _headline(document)
            or found["verdict"] == document[_headline(document)]["verdict"]
        ):
            continue
        said = "can't be told" if found["verdict"] == "unresolved" else found["verdict"]
        ratio = "too few samples" if found["ratio"] == INSUFFICIENT else number(found["ratio"])
        shown = "" if found["interval"] == INSUFFICIENT else f" {interval(found['interval'])}"
        told.append(f"{words}: {said}, {ratio}{shown}")
    if told:
        yield f"Not so of {'; '.join(told)}."


def _against_third(pages: Pages, document: Document) -> Iterator[str]:
    """A third model of equal size, where one ran beside the two."""
    found = (document[_headline(document)].get("third") or {}).get("pruned_against_third")
    if not (document["valid"] and document.get("third") and found):
        return
    pruned, third = (pages.model(document[side]).name for side in ("pruned", "third"))
    if found["verdict"] == "unresolved":
        yield f"Whether {pruned} is faster than {third} can't be told."
    else:
        shown = f"{number(found['ratio'])} {interval(found['interval'])}"
        yield f"Against {third} it is {found['verdict']}: {shown} times as fast."


def _headline(document: Document) -> str:
    """Time per output token, or the whole time where there is but one."""
    return "tpot_s" if document["cells"][0]["output_tokens"] > 1 else "e2e_s"


def _size(model: Model, name: str) -> Iterator[str]:
    before = model.dense_parameters
    if before and model.parameters and model.parameters < before and is_pruned(model):
        less = percent(1 - model.parameters / before)
        text = next(iter(model.quality.get("texts") or ()), None)
        yield f"{name} has {less} fewer parameters than its dense model{_at(text)}."


def _at(text: Mapping[str, Any] | None) -> str:
    value, dense = (text or {}).get("perplexity"), (text or {}).get("baseline_perplexity")
    if not text:
        return "; its quality was not measured"
    against = f" against {number(dense)}" if isinstance(dense, int | float) else ""
    told = "that is not finite" if value is None else f"of {number(value)}"
    return f", at a perplexity {told}{against} on {text.get('text')}"


def _speed_facts(pages: Pages) -> Iterator[Fact]:
    for document in pages.of("compare"):
        first, name = document["cells"][0], _headline(document)
        found = document[name]
        verdicts = Counter(
            cell[kind]["verdict"] for cell in document["cells"] for kind in QUANTITIES
        )
        tally = ", ".join(f"{n} {kind}" for kind, n in verdicts.items())
        mark: Mark = VERDICTS[found["verdict"]] if document["valid"] else "bad"
        said = found["verdict"] if document["valid"] else "not valid"
        yield Fact(
            f"{number(found['ratio'])}×" if found["ratio"] != INSUFFICIENT else INSUFFICIENT,
            _of(pages, f"speed, {NAMES[name].lower()}", document["pruned"]),
            f"{said}, {interval(found['interval'])}; {place(first)} tokens, {document['engine']} "
            f"on {machine(document)}. All cells and quantities: {tally}.",
            mark,
        )


def _named(pages: Pages, what: str, model: Model) -> str:
    """With the model's name where there are several pruned ones."""
    several = sum(map(is_pruned, pages.models)) > 1 or not is_pruned(model)
    return f"{what}, {model.name}" if several else what


def _of(pages: Pages, what: str, artefact: Document) -> str:
    return _named(pages, what, pages.model(artefact))


def _size_facts(pages: Pages) -> Iterator[Fact]:
    for model in pages.models:
        before = model.dense_parameters
        if before and model.parameters is not None and is_pruned(model) and not model.origin:
            yield Fact(
                f"{'−' if model.parameters <= before else '+'}"
                f"{percent(abs(1 - model.parameters / before))}",
                _named(pages, "parameters", model),
                f"{count(model.parameters)} of {count(before)}",
            )


def _quality_facts(pages: Pages) -> Iterator[Fact]:
    """A speed without a quality is no result: what was not measured is said."""
    for model in pages.models:
        if not is_pruned(model) or (model.origin and not model.quality.get("texts")):
            continue
        texts = model.quality.get("texts") or ()
        for text in texts:
            value, dense = text.get("perplexity"), text.get("baseline_perplexity")
            kl = text.get("kl")
            told = [f"dense {number(dense)}"] if dense is not None else []
            told += [f"KL {number(kl)}"] if kl is not None else []
            told += [f"window {text.get('window')}, {text.get('protocol')}"]
            label = _named(pages, f"perplexity on {text.get('text')}", model)
            yield Fact(perplexity(value), label, "; ".join(told), "bad" if value is None else "")
        if not texts:
            yield Fact(
                "not measured",
                _named(pages, "quality", model),
                "its manifest has no perplexity: slimgpt compress or slimgpt bench quality",
                "unsure",
            )


def _load_facts(pages: Pages) -> Iterator[Fact]:
    for document in pages.of("load"):
        if not document["slo"]:
            continue
        name = name_of(pages, document)
        found = attained(document) if document["valid"] else None
        if found:
            rate, share = found
            detail = f"{number(share['value'])} {interval(share['interval'])} of requests met it"
            yield Fact(f"{rate:g}/s", f"highest measured rate within the SLO, {name}", detail)
        else:
            why = (
                "no measured level meets it with its whole interval"
                if document["valid"]
                else "the run is not valid"
            )
            yield Fact("none", f"measured rate within the SLO, {name}", why, "unsure")


def _plan_facts(pages: Pages) -> Iterator[Fact]:
    for document in pages.of("capacity"):
        planned = _accelerators(document)
        low, high = (document["plan"]["replicas"][k]["value"] for k in ("lower", "upper"))
        known = [f"at least {low:,.0f}"] if isinstance(low, int | float) else []
        known += [f"at most {high:,.0f}"] if isinstance(high, int | float) else []
        value = planned.get("value")
        yield Fact(
            f"{value:,.0f}" if isinstance(value, int | float) else "no plan",
            f"accelerators ({accelerator(document)}), {name_of(pages, document)}",
            f"rates are {planned.get('label')}; replicas: {', '.join(known) or 'not known'}",
            "" if document["valid"] else "bad",
        )
