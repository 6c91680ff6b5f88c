"""JUnit XML that a CI system takes: structure, counts, and names from anywhere."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from slimgpt.release.gates import GateResult
from slimgpt.release.junit import junit_xml

PASSED = GateResult("kv_bytes", 0.75, 0.8, 0.05, True, "fraction", "less")
MISSED = GateResult("kl[a.txt@128]", 0.2, 0.1, -0.1, False, "nats/token", 'KL <&> "quoted"')
UNMEASURED = GateResult("accuracy", None, 0.95, None, False, "fraction", "no tasks")
ALL = (PASSED, MISSED, UNMEASURED)

# Jenkins' junit-10.xsd: elements, their attributes (! is required) and what may be inside.
COUNTS = {"tests!", "failures!", "errors!"}
SCHEMA = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name!", *COUNTS, "group", "time", "skipped", "timestamp", "hostname", "id", "package"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name!", "value!"}, set()),
    "testcase": (
        {"name!", "time", "classname", "group"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}


def conforms(element: ET.Element) -> None:
    attributes, children = SCHEMA[element.tag]
    assert {a.removesuffix("!") for a in attributes} >= set(element.attrib)
    assert {a.removesuffix("!") for a in attributes if a.endswith("!")} <= set(element.attrib)
    for child in element:
        assert child.tag in children
        conforms(child)


def parsed(*results: GateResult, suite: str = "slimgpt gates", **more) -> ET.Element:
    root = ET.fromstring(junit_xml(results, suite=suite, **more).encode())
    conforms(root)
    return root


def test_a_case_a_gate_and_a_failure_for_each_missed():
    root = parsed(*ALL, seconds=12.3456, properties={"ratio": "0.25"})
    (suite,) = root
    for level in (root, suite):
        assert (level.get("tests"), level.get("failures"), level.get("errors")) == ("3", "2", "0")
        assert level.get("time") == "12.346"
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [r.name for r in ALL]
    assert {case.get("classname") for case in cases} == {"slimgpt gates"}
    failures = [case.find("failure") for case in cases]
    assert [f is None or f.get("type") for f in failures] == [True, "missed", "unmeasured"]
    assert failures[1] is not None
    assert failures[1].get("message") == failures[1].text
    assert failures[1].text == (
        'kl[a.txt@128]: measured 0.2 nats/token, limit at most 0.1, margin -0.1 (KL <&> "quoted")'
    )
    assert [(p.get("name"), p.get("value")) for p in suite.iter("property")] == [("ratio", "0.25")]
    assert (cases[0].findtext("system-out") or "").startswith("passed kv_bytes: measured 0.75")


def test_equal_runs_give_equal_documents():
    document = junit_xml(ALL, suite="gates")
    assert document == junit_xml(ALL, suite="gates")
    assert "time" not in document
    assert document.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')


def test_no_gates_are_an_empty_suite():
    root = parsed()
    assert root.get("tests") == root[0].get("tests") == "0"
    assert len(root[0]) == 0


def test_what_xml_forbids_is_escaped():
    name = "kl[\x1b[31m\0\ufffe\r\ud800.txt]"
    case = parsed(GateResult(name, None, 0.1, None, False, "", "\x07")).find(".//testcase")
    assert case is not None
    assert case.get("name") == r"kl[\x1b[31m\x00\ufffe\r\ud800.txt]"


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
def test_any_name_gives_xml(name: str, why: str, suite: str) -> None:
    result = GateResult(name, None, 0.1, None, False, "", why)
    root = parsed(result, suite=suite, properties={name: why})
    assert len(root.findall(".//failure")) == 1
