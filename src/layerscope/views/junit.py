"""Render layers as JUnit test cases for CI systems.

A finding at or above the ``fail_on`` severity is a failure; a layer that could not be measured is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from layerscope.records.findings import SEVERITIES, Finding
from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views import headline
from layerscope.views.rerun_command import report_command


def to_junit(reports: Sequence[Report], fail_on: str = "warn") -> str:
    """Create a test suite per report, with one test case per layer and one for the whole model.

    :param fail_on: lowest severity that is reported as a failure; findings below it become the case's output.
    """
    root = Element("testsuites", name="layerscope")
    for report in reports:
        root.append(_make_suite(report, SEVERITIES.index(fail_on)))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _make_suite(report: Report, min_severity: int) -> Element:
    target = printable(report.meta["target"], 500)
    suite = Element("testsuite", name=target)
    findings = headline.group_by_layer(report.findings)
    properties = SubElement(suite, "properties")
    SubElement(properties, "property", name="command", value=report_command(report))
    for row in report.rows:
        if not row.ref.axes and not row.failed:
            continue  # norms and biases are never analyzed, so they are not skipped tests
        seconds = sum(part.seconds for part in row.parts.values())
        case = SubElement(suite, "testcase", classname=target, name=printable(row.name, 500), time=f"{seconds:.3f}")
        if row.failed:
            SubElement(case, "error", message=printable(row.skipped, 600))
        elif row.skipped:
            SubElement(case, "skipped", message=printable(row.skipped, 600))
        else:
            _add_findings(case, findings.get(row.name, []), min_severity)
    case = SubElement(suite, "testcase", classname=target, name="the whole model", time="0")
    if all(row.skipped for row in report.rows):
        SubElement(case, "error", message="no layer could be analyzed")
    else:
        _add_findings(case, findings.get(None, []), min_severity)
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite.set("tests", str(len(suite.findall("testcase"))))
    for name, tag in counts.items():
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("time", f"{float(report.meta.get('seconds', 0.0)):.3f}")
    return suite


def _add_findings(case: Element, findings: list[Finding], min_severity: int) -> None:
    failures = [f for f in findings if SEVERITIES.index(f.severity) >= min_severity]
    lines = [f"{printable(f.code, 40)} {printable(f.title, 80)}: {printable(f.message, 600)}" for f in failures]
    if failures:
        codes = " ".join(dict.fromkeys(printable(f.code, 40) for f in failures))
        failure = SubElement(case, "failure", type=codes, message=lines[0])
        failure.text = "\n".join(lines)
    notes = [f for f in findings if f not in failures]
    if notes:
        SubElement(case, "system-out").text = "\n".join(
            f"{printable(f.code, 40)} {printable(f.title, 80)}: {printable(f.message, 600)}" for f in notes
        )
