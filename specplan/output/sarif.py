"""Reports as SARIF 2.1.0 (OASIS), which code-scanning services read."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from specplan import __version__
from specplan.deployments.source import Location
from specplan.rules.baseline import fingerprint
from specplan.rules.finding import Finding
from specplan.rules.registry import rules
from specplan.rules.report import Report
from specplan.rules.rule import Rule

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(report: Report) -> str:
    """One run: rules, findings as results, what could not be told as notifications of the tool."""
    codes = list(rules())
    run = {
        "tool": {
            "driver": {
                "name": "specplan",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(rule) for rule in rules().values()],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, codes, False) for finding in report.findings]
        + [_result(finding, codes, True) for finding in report.silenced],
        "invocations": [
            {
                "executionSuccessful": not report.unknowns,
                "exitCode": report.exit_code,
                "toolExecutionNotifications": [
                    {
                        "level": "error",
                        "message": {"text": f"cannot tell: {unknown.message}"},
                        "locations": [_location(unknown.location)],
                    }
                    for unknown in report.unknowns
                ],
            }
        ],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.title.replace(",", "").split()),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(finding: Finding, codes: list[str], silenced: bool) -> dict[str, Any]:
    text = f"{finding.message}. Fix: {finding.fix}" if finding.fix else finding.message
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": finding.severity,
        "message": {"text": text},
        "locations": [_location(finding.location)],
        "partialFingerprints": {"specplan/v1": fingerprint(finding)},
    }
    if finding.figures:
        result["properties"] = {"figures": finding.figures, "nearest": list(finding.nearest)}
    if silenced:
        result["suppressions"] = [{"kind": "inSource"}]
    return result


def _location(location: Location) -> dict[str, Any]:
    region = {"startLine": location.line, "startColumn": location.column}
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(location.file)}, "region": region}}


def _uri(file: str) -> str:
    """A relative reference for relative paths, a file URI for absolute ones."""
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
