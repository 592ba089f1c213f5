"""Reports for services: SARIF, JUnit, GitHub annotations, Markdown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jsonschema import Draft4Validator

from specplan.deployments.source import Location
from specplan.errors import InputError
from specplan.output.reports import report_text, write_reports
from specplan.rules.checking import Options, check_paths
from specplan.rules.finding import Finding, Unknown
from specplan.rules.registry import CODES
from specplan.rules.report import Report

DATA = Path(__file__).parent / "data" / "deployments"
SCHEMA = Path(__file__).parent / "data" / "sarif" / "sarif-2.1.0-rtm.5.json"
ODD = 'a <b> & "c" | d: 100%, e\nf \x07'


@pytest.fixture(scope="module")
def report() -> Report:
    found = check_paths([DATA / "vllm.sh", DATA / "README.md"], Options("rtx-4090"))
    found.findings.append(
        Finding("SP101", "error", Location("my folder/a,b:c.sh", 3, 4), ODD, ODD, {"n": 1}, ({"k": 2},))
    )
    found.unknowns.append(Unknown(Location("x.sh", 1, 1), ODD, ("SP101",)))
    return found


def test_sarif_validates(report: Report) -> None:
    """Against the published schema of SARIF 2.1.0; what it cannot say about references is asserted by itself."""
    data = json.loads(report_text(report, "sarif"))
    schema = json.loads(SCHEMA.read_text())
    assert [f"{error.json_path}: {error.message}" for error in Draft4Validator(schema).iter_errors(data)] == []
    data["runs"][0]["results"][0]["level"] = "fatal"
    assert list(Draft4Validator(schema).iter_errors(data)) != []
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


def test_junit_is_read_by_a_common_reader(report: Report) -> None:
    junitparser = pytest.importorskip("junitparser")
    read = junitparser.JUnitXml.fromstring(report_text(report, "junit"))
    assert (read.failures, read.errors) == (len(report.findings), len(report.unknowns))
    cases = [case for suite in read for case in suite]
    assert len(cases) == read.tests
    assert {case.classname for case in cases} >= {finding.location.file for finding in report.findings}
    kinds = [type(result).__name__ for case in cases for result in case.result]
    assert (kinds.count("Failure"), kinds.count("Error")) == (read.failures, read.errors)


def test_gitlab_code_quality_has_its_fields(report: Report) -> None:
    issues = json.loads(report_text(report, "gitlab"))
    assert len(issues) == len(report.findings) + len(report.unknowns)
    assert len({issue["fingerprint"] for issue in issues}) == len(issues)
    for issue in issues:
        assert issue.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert not issue["location"]["path"].startswith("./")
        assert issue["location"]["lines"]["begin"] >= 1


def test_equal_findings_of_a_file_have_fingerprints_of_their_own() -> None:
    found = [Finding("SP403", "note", Location("a.sh", line, 1), "not pinned") for line in (1, 5)]
    first, second = json.loads(report_text(Report(findings=found), "gitlab"))
    assert first["fingerprint"] != second["fingerprint"]


def test_reports_are_written_beside(tmp_path: Path, report: Report) -> None:
    write_reports(report, [f"sarif={tmp_path / 'a.sarif'}", f"junit={tmp_path / 'a=b.xml'}"])
    assert (tmp_path / "a.sarif").read_text() == report_text(report, "sarif")
    assert (tmp_path / "a=b.xml").read_text() == report_text(report, "junit")
    for wrong in ("sarif", "sarif=", "html=x"):
        with pytest.raises(InputError, match=r"FORMAT=FILE|html"):
            write_reports(report, [wrong])


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
