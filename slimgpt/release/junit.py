"""Gate results as JUnit XML, which CI systems show: one test case a gate."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from slimgpt.release.gates import GateResult, render

_FORBIDDEN = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 can't hold, and the carriage return, which readers would change."""


def junit_xml(
    results: Sequence[GateResult],
    *,
    suite: str,
    seconds: float | None = None,
    properties: Mapping[str, str] | None = None,
) -> str:
    """A JUnit document.

    It has no host name and no time of day, so that equal runs give equal documents; with
    ``seconds`` they differ in that.

    Args:
        results: a missed gate is a failure of the type ``missed``, or ``unmeasured``.
        suite: name of the test suite and class of the test cases.
        seconds: that the whole run took.
        properties: of the suite.

    Returns:
        XML with its declaration; characters that XML can't hold are escaped as in Python.
    """
    missed = sum(not r.passed for r in results)
    counts = {"tests": str(len(results)), "failures": str(missed), "errors": "0"}
    time = {} if seconds is None else {"time": f"{seconds:.3f}"}
    root = ET.Element("testsuites", {"name": _text(suite), **counts, **time})
    inner = ET.SubElement(
        root, "testsuite", {"name": _text(suite), **counts, "skipped": "0"} | time
    )
    if properties:
        holder = ET.SubElement(inner, "properties")
        for name, value in properties.items():
            ET.SubElement(holder, "property", {"name": _text(name), "value": _text(value)})
    for result, line in zip(results, render(results), strict=True):
        _case(inner, suite, result, line)
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _case(suite: ET.Element, name: str, result: GateResult, line: str) -> None:
    case = ET.SubElement(suite, "testcase", {"name": _text(result.name), "classname": _text(name)})
    if not result.passed:
        kind = "unmeasured" if result.measured is None else "missed"
        message = _text(line.removeprefix("MISSED "))
        ET.SubElement(case, "failure", {"message": message, "type": kind}).text = message
    ET.SubElement(case, "system-out").text = _text(line)


def _text(text: str) -> str:
    return _FORBIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
