"""Reports for services: SARIF, JUnit, GitHub annotations, Markdown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from specplan.deployments.source import Location
from specplan.output.reports import report_text
from specplan.rules.checking import Options, check_paths
from specplan.rules.finding import Finding, Unknown
from specplan.rules.registry import CODES
from specplan.rules.report import Report

DATA = Path(__file__).parent / "data" / "deployments"
ODD = 'a <b> & "c" | d: 100%, e\nf \x07'


@pytest.fixture(scope="module")
def report() -> Report:
    found = check_paths([DATA / "vllm.sh", DATA / "README.md"], Options("rtx-4090"))
    found.findings.append(
        Finding("SP101", "error", Location("my folder/a,b:c.sh", 3, 4), ODD, ODD, {"n": 1}, ({"k": 2},))
    )
    found.unknowns.append(Unknown(Location("x.sh", 1, 1), ODD, ("SP101",)))
    return found


def test_sarif_has_the_shape_of_its_schema(report: Report) -> None:
    """The required properties and value sets of SARIF 2.1.0 (OASIS), for every object that we write."""
    data = json.loads(report_text(report, "sarif"))
    assert data["version"] == "2.1.0"
    assert set(data) == {"$schema", "version", "runs"}
    (run,) = data["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "specplan"
    assert [rule["id"] for rule in driver["rules"]] == list(CODES)
    assert len({rule["name"] for rule in driver["rules"]}) == len(CODES)
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    assert len(run["results"]) == len(report.findings) + len(report.silenced)
    for result in run["results"]:
        assert result["message"]["text"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["region"]["startLine"] >= 1
        assert place["region"]["startColumn"] >= 1
        assert re.fullmatch(r"[A-Za-z0-9_.~!$&'()*+,;=:@%/\-]+", place["artifactLocation"]["uri"])
        assert all(entry["kind"] in ("inSource", "external") for entry in result.get("suppressions", []))
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    assert len(invocation["toolExecutionNotifications"]) == len(report.unknowns)


def test_junit_parses(report: Report) -> None:
    root = ElementTree.fromstring(report_text(report, "junit"))
    suite = root.find("testsuite")
    assert suite is not None
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) == len(report.findings)
    assert int(suite.attrib["errors"]) == len(suite.findall("testcase/error")) == len(report.unknowns)
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))


def test_github_annotations_have_their_form(report: Report) -> None:
    lines = report_text(report, "github").splitlines()
    assert len(lines) == len(report.findings) + len(report.unknowns)
    form = re.compile(r"::(error|warning|notice) file=([^,:]+),line=\d+,col=\d+,title=[^,:]+::\S.*")
    assert all(form.fullmatch(line) for line in lines)
    (odd,) = (line for line in lines if "my folder" in line)
    assert "file=my folder/a%2Cb%3Ac.sh," in odd
    assert "100%25, e%0Af" in odd


def test_markdown_is_one_table(report: Report) -> None:
    rows = [line for line in report_text(report, "markdown").splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report.findings) + len(report.unknowns)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_nothing_found_is_said() -> None:
    empty = Report(num_deployments=2, files=["a.sh"])
    assert report_text(empty, "text") == "2 deployments in 1 file: 0 findings\n"
    assert report_text(empty, "github") == ""
    assert ElementTree.fromstring(report_text(empty, "junit")).attrib["tests"] == "1"
    assert json.loads(report_text(empty, "json"))["exit_code"] == 0
