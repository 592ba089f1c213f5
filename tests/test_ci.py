"""The GitHub Action, the pre-commit hooks and the GitLab job of docs/ci.md, run as those services run them."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from specplan.deployments.read import reader_of
from specplan.rules.checking import Options
from specplan.rules.settings import with_settings

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
GOOD = "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-model-len 4096 --max-num-seqs 8\n"
BAD = "#!/bin/sh\nvllm serve meta-llama/Llama-3.1-70B-Instruct --max-model-len 4096\n"


def examples(language: str) -> list[str]:
    """Code blocks of docs/ci.md."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL | re.MULTILINE)


def example(comment: str) -> Any:
    """The YAML example that begins with the name of its file."""
    (text,) = (text for text in examples("yaml") if text.startswith(f"# {comment}\n"))
    return yaml.safe_load(text)


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one good deployment; specplan is on PATH and in the action's environment."""
    folder = tmp_path / "repository"
    (folder / "deploy").mkdir(parents=True)
    (folder / "deploy" / "good.sh").write_text(GOOD)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    run = f'#!/bin/sh\nPYTHONPATH="{ROOT}:{ROOT / "runtime"}" exec "{sys.executable}" -m specplan "$@"\n'
    program(tmp_path / "runner" / "specplan" / "bin" / "specplan", run)
    program(tmp_path / "bin" / "specplan", run)
    program(tmp_path / "bin" / "pip", '#!/bin/sh\necho "$@" >> pip.log\n')
    return folder


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """As a step with ``shell: bash``."""
    runner = folder.parent / "runner"
    environment = {
        "PATH": f"{folder.parent / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder.parent),
        "RUNNER_TEMP": str(runner),
        "GITHUB_OUTPUT": str(runner / "output"),
        "GITHUB_STEP_SUMMARY": str(runner / "summary"),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env={**environment, **variables}, capture_output=True, text=True)


def step(name: str) -> dict[str, Any]:
    (found,) = (step for step in ACTION["runs"]["steps"] if step["name"] == name)
    assert isinstance(found, dict)
    return found


def inputs(step: dict[str, Any], **given: str) -> dict[str, str]:
    """The variables of a step, its expressions filled in."""
    values = {**{name: entry["default"] for name, entry in ACTION["inputs"].items()}, **given}
    variables = {}
    for variable, text in step["env"].items():
        (name,) = re.fullmatch(r"\$\{\{ inputs\.([\w-]+) \}\}", text).groups()  # type: ignore[union-attr]
        variables[variable] = values[name]
    return variables


def check(repository: Path, **given: str) -> subprocess.CompletedProcess[str]:
    found = step("specplan check")
    return bash(found["run"], repository, **inputs(found, **given))


def test_action_passes_and_writes_the_summary(repository: Path) -> None:
    result = check(repository, paths="deploy", gpu="rtx-4090")
    assert result.returncode == 0, result.stderr
    runner = repository.parent / "runner"
    assert (runner / "output").read_text() == "exit-code=0\n"
    summary = (runner / "summary").read_text()
    assert summary.startswith("### specplan check\n")
    assert "1 deployment in 1 file" in summary
    assert "::error" not in result.stdout


def test_action_fails_with_annotations_and_sarif(repository: Path) -> None:
    (repository / "deploy" / "bad one.sh").write_text(BAD)
    workflow = example(".github/workflows/deployments.yml")
    (used,) = (each["with"] for each in workflow["jobs"]["specplan"]["steps"] if "specplan@" in each["uses"])
    assert used.keys() <= ACTION["inputs"].keys()
    result = check(repository, **used)
    assert result.returncode == 1, result.stderr
    assert "::error file=deploy/bad one.sh,line=2,col=12,title=specplan SP101::does not fit rtx-4090" in result.stdout
    runner = repository.parent / "runner"
    assert (runner / "output").read_text() == "exit-code=1\n"
    assert "| deploy/bad one.sh:2:12 | SP101 error |" in (runner / "summary").read_text()
    sarif = json.loads((repository / used["sarif"]).read_text())
    assert [each["ruleId"] for each in sarif["runs"][0]["results"]] == ["SP101"]


def test_action_fails_closed(repository: Path) -> None:
    """No GPU, no deployment, no such path; a summary of an earlier step is not shown again."""
    assert check(repository, paths="deploy").returncode == 2
    (repository / "deploy" / "good.sh").unlink()
    result = check(repository, paths="deploy", gpu="rtx-4090")
    assert result.returncode == 2
    assert "no deployment found" in result.stderr
    assert check(repository, paths="missing", gpu="rtx-4090").returncode == 2


def test_action_takes_several_paths_and_patterns_and_runs_none_of_them(repository: Path) -> None:
    (repository / "deploy" / "bad.sh").write_text(BAD)
    result = check(repository, paths="deploy/g*.sh\ndeploy/bad.sh", gpu="rtx-4090", args="--ignore SP1 --ignore SP4")
    assert result.returncode == 0, result.stdout + result.stderr
    result = check(repository, paths="$(touch hacked) deploy", gpu="`touch hacked`", args="; touch hacked")
    assert result.returncode == 2
    assert not (repository / "hacked").exists()
    assert check(repository, paths="--help").returncode == 2, "a path is no option"


def test_action_never_puts_inputs_into_a_script() -> None:
    assert all("${{" not in each["run"] for each in ACTION["runs"]["steps"] if "run" in each)
    assert all(each["shell"] == "bash" for each in ACTION["runs"]["steps"] if "run" in each)


@pytest.mark.parametrize(("version", "installed"), [("", "/action"), ("0.1.0", "specplan==0.1.0")])
def test_action_installs_into_an_environment_of_its_own(repository: Path, version: str, installed: str) -> None:
    python, log = repository.parent / "python", repository.parent / "log"
    copies = 'if [ "$2" = venv ]; then cp "$0" "$3/bin/python"; fi'
    program(python, f'#!/bin/sh\necho "$@" >> {log}\n{copies}\n')
    result = bash(step("Install specplan")["run"], repository, PYTHON=str(python), VERSION=version, SOURCE="/action")
    assert result.returncode == 0, result.stderr
    venv, install = log.read_text().splitlines()
    assert venv == f"-m venv {repository.parent / 'runner' / 'specplan'}"
    assert install.startswith("-m pip install ")
    assert install.endswith(f" {installed}")


def test_gitlab_job(repository: Path) -> None:
    job = example(".gitlab-ci.yml")["specplan"]
    script = "\n".join(job["script"])
    assert bash(script, repository).returncode == 0
    (repository / "deploy" / "bad.sh").write_text(BAD)
    assert bash(script, repository).returncode == 1
    assert (repository / "pip.log").read_text().splitlines()[0].endswith("install --quiet specplan")
    reports = job["artifacts"]["reports"]
    (issue,) = json.loads((repository / reports["codequality"]).read_text())
    assert issue["location"] == {"path": "deploy/bad.sh", "lines": {"begin": 2}}
    assert issue["severity"] == "critical"
    suite = ElementTree.parse(repository / reports["junit"]).getroot()
    assert [case.attrib["classname"] for case in suite.iter("testcase")] == ["deploy/bad.sh", "deploy/good.sh"]
    assert suite.attrib["failures"] == "1"


def test_pre_commit_hooks_run_on_file_names(repository: Path) -> None:
    (config,) = example(".pre-commit-config.yaml")["repos"]
    used = {hook["id"]: hook for hook in config["hooks"]}
    assert used.keys() == HOOKS.keys()
    (repository / "deploy" / "bad.sh").write_text(BAD)
    (repository / "setup.sh").write_text("make all\n")
    (repository / "chart.yaml").write_text("a: {{ .Values.a }}\n")
    entry = f"{HOOKS['specplan-check']['entry']} {' '.join(used['specplan-check']['args'])}"
    assert bash(f"{entry} deploy/good.sh setup.sh chart.yaml", repository).returncode == 0
    assert bash(f"{entry} setup.sh", repository).returncode == 0
    assert bash(f"{entry} deploy/good.sh deploy/bad.sh", repository).returncode == 1


def test_pre_commit_fix_rewrites_its_file(repository: Path) -> None:
    file = repository / "specplan.toml"
    file.write_text('[[deployment]]\nmodel = "llama-3.1-8b"\ngpu = "rtx-4090"\ncontext = 131072\n')
    assert bash(f"{HOOKS['specplan-fix']['entry']} specplan.toml", repository).returncode == 0
    assert "context = 131072" not in file.read_text()


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("deploy/serve.sh", True),
        ("Dockerfile", True),
        ("a/Dockerfile.cuda", True),
        ("b.Containerfile", True),
        ("k8s/pod.yml", True),
        ("README.md", True),
        ("serve.py", True),
        ("vllm.service", True),
        ("chat.specplan.toml", True),
        ("deploy/plan.json", True),
        ("a.plan.json", True),
        ("package.json", False),
        ("pyproject.toml", False),
        ("notes.txt", False),
        ("serve.sh.bak", False),
        ("dockerfiles/x.c", False),
    ],
)
def test_pre_commit_files_are_those_that_have_a_reader(name: str, matches: bool) -> None:
    found = re.search(HOOKS["specplan-check"]["files"], name) is not None
    assert found == matches
    assert not found or reader_of(name) is not None
    assert (re.search(HOOKS["specplan-fix"]["files"], name) is not None) == name.endswith("specplan.toml")


def test_documented_settings_are_taken(tmp_path: Path) -> None:
    (settings,) = examples("toml")
    (tmp_path / "pyproject.toml").write_text(settings)
    options = with_settings(Options(), tmp_path)
    assert options == Options("rtx-4090", (), ("SP403",), tmp_path / "specplan-baseline.json")
