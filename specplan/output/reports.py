"""Reports of ``check`` in every format: for people, for programs, and for the services that run it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from specplan.atomic import write_atomically
from specplan.deployments.source import Location
from specplan.errors import InputError
from specplan.output.code_quality import code_quality
from specplan.output.junit import junit
from specplan.output.sarif import sarif
from specplan.rules.finding import Finding, Unknown
from specplan.rules.report import Report
from specplan.rules.text import plural
from specplan.strict import encode

_SHOWN_CODES = 4
#: Levels of GitHub's workflow commands.
_ANNOTATIONS = {"error": "error", "warning": "warning", "note": "notice"}


def report_text(report: Report, output_format: str) -> str:
    """The report as text that ends in a newline, or is empty.

    Raises:
        InputError: no such format.
    """
    if output_format not in _FORMATS:
        raise InputError(f"format {output_format!r}: one of {', '.join(_FORMATS)}")
    return _FORMATS[output_format](report)


def write_reports(report: Report, files: Sequence[str]) -> None:
    """Write the report into files, each said as ``FORMAT=FILE``.

    Raises:
        InputError: not of that form, or no such format.
        EnvironmentProblem: a file cannot be written.
    """
    for file in files:
        output_format, equals, path = file.partition("=")
        if not equals or not path:
            raise InputError(f"--report {file!r}: write FORMAT=FILE, for example sarif=specplan.sarif")
        write_atomically(Path(path), report_text(report, output_format))


def _text(report: Report) -> str:
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.location}: {finding.severity}: {finding.code} {finding.message}")
        lines += [f"    fix: {finding.fix}"] if finding.fix else []
    lines += [f"{unknown.location}: cannot tell: {unknown.message}{_needed(unknown)}" for unknown in report.unknowns]
    return "\n".join([*lines, summary(report)]) + "\n"


def _needed(unknown: Unknown) -> str:
    """Which rules wait for it."""
    if len(unknown.codes) > _SHOWN_CODES:
        return f" ({len(unknown.codes)} rules)"
    return f" ({', '.join(unknown.codes)})" if unknown.codes else ""


def summary(report: Report) -> str:
    """One line: how many of everything."""
    counts = {
        "finding": len(report.findings), "thing that cannot be told": len(report.unknowns),
        "silenced": len(report.silenced),
    }  # fmt: skip
    checked = f"{plural(report.num_deployments, 'deployment')} in {plural(len(set(report.files)), 'file')}"
    parts = [plural(counts["finding"], "finding")]
    if counts["thing that cannot be told"]:
        parts.append(f"{counts['thing that cannot be told']} cannot be told")
    if counts["silenced"]:
        parts.append(f"{counts['silenced']} silenced")
    return f"{checked}: {', '.join(parts)}"


def _json(report: Report) -> str:
    data = {
        "num_deployments": report.num_deployments,
        "findings": encode(report.findings),
        "unknowns": encode(report.unknowns),
        "silenced": encode(report.silenced),
        "exit_code": report.exit_code,
    }
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _github(report: Report) -> str:
    lines = [
        _annotation(_ANNOTATIONS[finding.severity], finding.location, f"{finding.code}", _with_fix(finding))
        for finding in report.findings
    ]
    lines += [_annotation("error", unknown.location, "cannot tell", unknown.message) for unknown in report.unknowns]
    return "".join(f"{line}\n" for line in lines)


def _with_fix(finding: Finding) -> str:
    return f"{finding.message}. Fix: {finding.fix}" if finding.fix else finding.message


def _annotation(level: str, location: Location, title: str, message: str) -> str:
    """A workflow command; its properties and its text have escapes of their own."""
    file, title = _escaped(location.file, True), _escaped(f"specplan {title}", True)
    return f"::{level} file={file},line={location.line},col={location.column},title={title}::{_escaped(message, False)}"


def _escaped(text: str, is_property: bool) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if is_property else text


def _markdown(report: Report) -> str:
    lines = ["### specplan check", "", summary(report), ""]
    if report.findings or report.unknowns:
        lines += ["| where | what | message | fix |", "|---|---|---|---|"]
    for finding in report.findings:
        lines.append(_row(str(finding.location), f"{finding.code} {finding.severity}", finding.message, finding.fix))
    for unknown in report.unknowns:
        lines.append(_row(str(unknown.location), "cannot tell", unknown.message, ""))
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


_FORMATS: dict[str, Callable[[Report], str]] = {
    "text": _text, "json": _json, "github": _github, "gitlab": code_quality, "markdown": _markdown, "sarif": sarif,
    "junit": junit,
}  # fmt: skip
