"""``check --fix``: the nearest configurations that fit, written into specplan.toml and nowhere else."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specplan.atomic import write_atomically
from specplan.deployments.read import deployment_files, is_settings_file, read_deployments
from specplan.deployments.source import Location, Source
from specplan.deployments.toml_edits import with_settings
from specplan.errors import InputError
from specplan.rules.baseline import without_known
from specplan.rules.checking import Options
from specplan.rules.finding import Configuration, Finding
from specplan.rules.registry import selected
from specplan.rules.report import Report, check_deployments
from specplan.rules.rule import Rule

#: What may be changed without asking: nothing that needs other hardware or another model.
FIXABLE = ("memory_fraction", "num_speculative_tokens", "concurrency", "context", "kv_cache_bytes")
_MOST_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Change:
    """Settings of a deployment that were changed.

    Attributes:
        location: of the finding.
        code: of the rule that asked for it.
        settings: key, value before (None where it was not said) and after.
    """

    location: Location
    code: str
    settings: tuple[tuple[str, Any, Any], ...]

    def __str__(self) -> str:
        words = (f"{key} {'(not said)' if old is None else old} -> {new}" for key, old, new in self.settings)
        return f"{self.location}: {self.code}: {', '.join(words)}"


def fix_paths(paths: Sequence[Path], options: Options) -> list[Change]:
    """Rewrite every specplan.toml among paths and in folders until no finding has a configuration to offer.

    Raises:
        InputError: a rule that is none, a broken baseline, or a table that cannot be rewritten.
        EnvironmentProblem: a file cannot be written.
    """
    rules, changes = selected(options.select, options.ignore), list[Change]()
    for path in deployment_files(paths):
        if is_settings_file(str(path)):
            changes += _fix_file(path, rules, options)
    return changes


def _fix_file(path: Path, rules: Sequence[Rule], options: Options) -> list[Change]:
    try:
        Source.read(path)  # its limits and refusals; the check that follows tells them
        original = path.read_bytes().decode()
        changed, changes = original.removeprefix("\ufeff"), list[Change]()
        set_: dict[tuple[int, str], Any] = {}
        for _ in range(_MOST_ROUNDS):
            found = _next(path, changed, rules, options, set_)
            if not found:
                break
            for table, finding, configuration in found:
                changes.append(_change(changed, table, finding, configuration))
                changed = with_settings(str(path), changed, table, configuration)
                set_.update({(table, key): value for key, value in configuration.items()})
    except (OSError, UnicodeDecodeError):
        return []
    if changes:
        write_atomically(path, ("\ufeff" if original.startswith("\ufeff") else "") + changed)
    return changes


def _next(
    path: Path, text: str, rules: Sequence[Rule], options: Options, set_: dict[tuple[int, str], Any]
) -> list[tuple[int, Finding, Configuration]]:
    """For every deployment the first finding that offers something; nothing where the file cannot be read."""
    source, report = Source(str(path), text.replace("\r\n", " \n")), Report()
    try:
        deployments = read_deployments(source)
    except InputError:
        return []
    check_deployments(source, deployments, rules, options.gpu, report)
    starts = [deployment.location for deployment in deployments]
    found: dict[int, tuple[int, Finding, Configuration]] = {}
    for finding in without_known(report, options.baseline).findings:
        table = sum(start <= finding.location for start in starts) - 1
        configuration = _applicable(finding, table, set_)
        if configuration is not None:
            found.setdefault(table, (table, finding, configuration))
    return list(found.values())


def _applicable(finding: Finding, table: int, set_: dict[tuple[int, str], Any]) -> Configuration | None:
    """The nearest configuration of settings that may be changed; what was set is only made smaller, so it ends."""
    for configuration in finding.nearest:
        if all(
            key in FIXABLE and ((table, key) not in set_ or value < set_[table, key])
            for key, value in configuration.items()
        ):
            return configuration
    return None


def _change(text: str, table: int, finding: Finding, configuration: Configuration) -> Change:
    before = tomllib.loads(text)["deployment"][table]
    settings = tuple((key, before.get(key), value) for key, value in configuration.items())
    return Change(finding.location, finding.code, settings)
