"""Render findings as SARIF 2.1.0 for code-scanning tools: one rule per finding code, one result per finding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from layerscope import registry
from layerscope.records.findings import Finding
from layerscope.records.report import Report
from layerscope.text import printable
from layerscope.views.rerun_command import report_command

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warn": "warning", "info": "note"}


def to_sarif(reports: Sequence[Report]) -> str:
    """Create one SARIF run per report.

    A layer is a logical location. The physical location is the path of the model file as the user gave it, because
    tools ignore results without one. A layer that could not be measured is a notification of the run, not a result.
    """
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [_make_run(r) for r in reports]}, indent=2) + "\n"


def _make_run(report: Report) -> dict[str, Any]:
    codes = sorted({finding.code for finding in report.findings})
    failed = [row for row in report.rows if row.failed]
    notes = [
        {"level": "error", "message": {"text": f"{printable(row.name)}: {printable(row.skipped, 600)}"}}
        for row in failed
    ]
    if all(row.skipped for row in report.rows):
        notes.append({"level": "error", "message": {"text": "no layer could be analyzed"}})
    return {
        "automationDetails": {"id": f"layerscope/{quote(printable(report.meta['target']))}/"},
        "tool": {
            "driver": {
                "name": "layerscope",
                "version": printable(report.meta.get("layerscope", ""), 40),
                "rules": [_make_rule(code) for code in codes],
            }
        },
        "invocations": [
            {
                "executionSuccessful": not notes,
                "commandLine": report_command(report),
                **({"toolExecutionNotifications": notes} if notes else {}),
            }
        ],
        "results": [_make_result(report, finding, codes.index(finding.code)) for finding in report.findings],
        "columnKind": "unicodeCodePoints",
    }


def _make_rule(code: str) -> dict[str, Any]:
    plugin = registry.plugins("rules").get(code)
    if plugin is None:  # the report was created by another version
        return {"id": printable(code, 40)}
    text = plugin.doc.replace("``", "`")
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in plugin.meta["title"].replace("-", " ").split()),
        "shortDescription": {"text": plugin.meta["title"]},
        "fullDescription": {"text": plugin.title},
        "help": {"text": text.replace("**", ""), "markdown": f"{text}\n\n**Reference.** {plugin.meta['ref']}"},
        "defaultConfiguration": {"level": LEVELS[plugin.meta["severity"]]},
    }


def _make_result(report: Report, finding: Finding, rule: int) -> dict[str, Any]:
    where = printable(finding.where, 600)
    target = str(report.meta["target"])
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": target_uri(target)}, "region": {"startLine": 1}},
    }
    if finding.layer is not None:
        location["logicalLocations"] = [{"fullyQualifiedName": where, "kind": "member"}]
    key = hashlib.sha256(f"{finding.code}\0{finding.layer}".encode("utf-8", "replace")).hexdigest()
    return {
        "ruleId": printable(finding.code, 40),
        "ruleIndex": rule,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{where}: {printable(finding.title, 80)}: {printable(finding.message, 600)}"},
        "locations": [location],
        "partialFingerprints": {"layerscope/v1": key},
    }


def target_uri(target: str) -> str:
    """Convert a target to a URI reference: relative paths stay relative, absolute paths become file:// URLs.

    URLs are kept unchanged.
    """
    if "://" in target:
        return quote(target.encode("utf-8", "surrogateescape"), safe=":/?&=%~")
    path = PurePath(target).as_posix()
    quoted = quote(path.encode("utf-8", "surrogateescape"))
    return f"file://{quoted}" if path.startswith("/") else quoted
