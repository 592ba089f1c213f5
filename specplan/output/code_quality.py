"""Reports as GitLab's Code Quality JSON, which merge requests show at the changed lines."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from specplan.deployments.source import Location
from specplan.rules.baseline import fingerprint
from specplan.rules.report import Report

#: GitLab's severities.
_SEVERITIES = {"error": "critical", "warning": "major", "note": "info"}


def code_quality(report: Report) -> str:
    """One entry per finding and per thing that cannot be told, with fingerprints that occur once."""
    issues, seen = [], Counter[str]()
    for finding in report.findings:
        text = f"{finding.message}. Fix: {finding.fix}" if finding.fix else finding.message
        issues.append(_issue(finding.code, _SEVERITIES[finding.severity], text, fingerprint(finding), finding.location))
    for unknown in report.unknowns:
        mark = hashlib.sha256(f"{unknown.location.file}\0{unknown.message}".encode()).hexdigest()[:32]
        issues.append(_issue("cannot tell", "blocker", f"cannot tell: {unknown.message}", mark, unknown.location))
    for issue in issues:
        mark = issue["fingerprint"]
        seen[mark] += 1
        if seen[mark] > 1:
            issue["fingerprint"] = f"{mark}-{seen[mark]}"
    return json.dumps(issues, indent=2, ensure_ascii=False) + "\n"


def _issue(name: str, severity: str, text: str, mark: str, location: Location) -> dict[str, Any]:
    return {
        "description": text,
        "check_name": name,
        "fingerprint": mark,
        "severity": severity,
        "location": {"path": location.file, "lines": {"begin": location.line}},
    }
