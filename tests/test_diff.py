"""``specplan diff``: what changed between two plans, in files and in git revisions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from specplan import planfile
from specplan.cli.main import cli
from specplan.differences import Difference, difference
from specplan.errors import InputError
from specplan.git_files import git_file, is_git_name
from specplan.output.differences import to_text
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from tests.conftest import tiny_plan


def plain(**changes: Any) -> Plan:
    return tiny_plan(drafters=("none",), draft=None, **changes)


def both(**changes: Any) -> Difference:
    return difference(plain(), plain(**changes))


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["diff", *arguments], standalone_mode=False)


def test_a_plan_equals_itself() -> None:
    found = difference(plain(), plain())
    assert found.is_empty
    assert [*found.settings, *found.items, *found.estimates, *found.others] == []


def test_bytes_by_item_add_up_to_the_difference_of_the_ledgers() -> None:
    before, after = plain(), plain(context=512)
    found = difference(before, after)
    totals = [sum(item.bytes for item in plan.ledger.items) for plan in (before, after)]
    assert sum(change.added_bytes for change in found.items) == totals[1] - totals[0]
    # 256 more slots of 2 layers · 2 (K, V) · 2 heads · 4 · 4 B
    (kv,) = [change for change in found.items if change.name == "target.kv_cache"]
    assert kv.added_bytes == 256 * 2 * 2 * 2 * 4 * 4
    assert found.after.bytes - found.before.bytes == after.peak_bytes - before.peak_bytes
    assert [abs(change.added_bytes) for change in found.items] == sorted(
        (abs(change.added_bytes) for change in found.items), reverse=True
    )


def test_items_are_added_and_removed() -> None:
    before, after = plain(), tiny_plan(drafters=("none", "draft_model"), num_speculative_tokens=2, must_speculate=True)
    there = difference(before, after)
    added = {change.name: change for change in there.items if change.before is None}
    assert added["draft.weights"].after == after.ledger.by_name()["draft.weights"].bytes
    assert added["draft.weights"].added_bytes == added["draft.weights"].after
    back = {change.name: change for change in difference(after, before).items}
    assert back["draft.weights"].after is None
    assert {name: -change.added_bytes for name, change in back.items()} == {
        change.name: change.added_bytes for change in there.items
    }


@pytest.mark.parametrize(
    ("changes", "name", "before", "after"),
    [
        ({"context": 512}, "workload.context", 256, 512),
        ({"batch_size": 2}, "workload.batch_size", 1, 2),
        ({"budget_bytes": 2 << 30}, "inputs.budget_bytes", 4 << 30, 2 << 30),
        ({"kv_dtype": "bfloat16"}, "workload.kv_dtype", "float32", "bfloat16"),
        ({"keep": 0.5}, "inputs.keep", 0.96, 0.5),
    ],
)
def test_settings_are_named(changes: dict[str, Any], name: str, before: object, after: object) -> None:
    found = {change.name: change for change in both(**changes).settings}
    assert json.loads(found[name].before or "") == before
    assert json.loads(found[name].after or "") == after


def test_a_budget_alone_moves_no_bytes() -> None:
    found = both(budget_bytes=2 << 30)
    assert [change.name for change in found.settings] == ["inputs.budget_bytes"]
    assert found.items == ()
    assert found.before == found.after
    assert not found.is_empty


def test_how_models_are_spread_is_a_setting() -> None:
    def spread(**options: Any) -> Plan:
        usual: dict[str, Any] = {"model": "smollm2-135m", "gpu": "rtx-3060", "context": 256, "drafter": "none"}
        result = analyze(ask(**usual | options))
        assert isinstance(result, Plan)
        return result

    alone, two, three = spread(), spread(num_gpus=2), spread(num_gpus=3, pipeline_parallel=3)
    changed = {change.name: (change.before, change.after) for change in difference(two, three).settings}
    assert changed["parallelism.stage_layers"] == ("[15, 15]", "[10, 10, 10]")
    assert json.loads(changed["devices"][1] or "") == ["rtx-3060"] * 3
    assert "spread" in difference(two, three).others
    for before, after in ((alone, two), (two, alone)):
        (row,) = [line.split() for line in to_text(difference(before, after)).splitlines() if "parallelism" in line]
        assert row[0] == "parallelism"
        assert "none" in row
        assert "tensor_parallel" in row


def test_a_draft_that_went_is_one_line() -> None:
    with_draft = tiny_plan(drafters=("none", "draft_model"), num_speculative_tokens=2, must_speculate=True)
    lines = to_text(difference(with_draft, plain())).splitlines()
    (line,) = [line for line in lines if line.startswith("inputs.draft")]
    assert line.split()[-1] == "none"
    assert any(change.name == "inputs.draft.arch.vocab_size" for change in difference(with_draft, plain()).settings)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two plans that differ in their context."""
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, plan in zip(paths, (plain(), plain(context=512)), strict=True):
        planfile.save(plan, path)
    return [str(path) for path in paths]


@pytest.mark.parametrize("output_format", ["text", "json", "markdown"])
def test_exit_codes_and_formats(output_format: str, files: list[str]) -> None:
    first, second = files
    equal = command(first, first, "--format", output_format)
    assert equal.return_value == 0
    different = command(first, second, "--format", output_format)
    assert different.return_value == 1
    assert "workload.context" in different.stdout
    if output_format == "json":
        data = json.loads(different.stdout)
        assert json.loads(equal.stdout)["equal"] is True
        (context,) = [change for change in data["settings"] if change["name"] == "workload.context"]
        assert (context["before"], context["after"]) == (256, 512)
        assert {item["name"]: item["added_bytes"] for item in data["items"]}["target.kv_cache"] == 256 * 128
    else:
        assert equal.stdout == "The plans are equal.\n"
        assert "+32 768" in different.stdout
        assert ("| target.kv_cache" in different.stdout) == (output_format == "markdown")


def test_bad_input(files: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for name in (str(broken), str(tmp_path / "none.json")):
        with pytest.raises(InputError):
            CliRunner().invoke(cli, ["diff", files[0], name], standalone_mode=False, catch_exceptions=False)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose first commit has one plan, and whose working tree another one of that name."""
    folder = tmp_path / "repository"
    (folder / "plans").mkdir(parents=True)
    monkeypatch.chdir(folder)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init", "--quiet")
    planfile.save(plain(), folder / "plans" / "plan.json")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    git("tag", "v1.0")
    planfile.save(plain(context=512), folder / "plans" / "plan.json")
    return folder


@pytest.mark.parametrize("name", ["HEAD:plans/plan.json", "v1.0:plans/plan.json", "HEAD^{commit}:./plans/plan.json"])
def test_a_revision_against_the_working_tree(name: str, repository: Path) -> None:
    result = command(name, "plans/plan.json")
    assert result.return_value == 1
    assert "workload.context" in result.stdout
    assert command(name, name).return_value == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HEAD:none.json", "does not exist"),
        ("nowhere:plans/plan.json", "nowhere"),
        ("HEAD:binary", "not UTF-8"),
        ("HEAD:plans", "not a JSON plan"),
        ("--output=x:plan.json", "expected a file"),
        ("-p:plan.json", "expected a file"),
        ("HEAD..v1.0:plan.json", "expected a file"),
        ("HEAD --all:plan.json", "expected a file"),
        (":plan.json", "expected a file"),
        ("HEAD:", "expected a file"),
        ("HEAD:a\nb", "expected a file"),
    ],
)
def test_names_that_git_has_no_plan_for(name: str, words: str, repository: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        planfile.loads(git_file(name), name)
    assert "\n" not in str(error.value)
    assert not (repository / "x").exists()


def test_a_file_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_git_name("a:b.json")
    (tmp_path / "a:b.json").write_text("{}")
    assert not is_git_name("a:b.json")
