"""Paths to a ``Report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specplan.deployments.read import deployment_files, mentions_engine, read_deployments
from specplan.deployments.source import Location, Source
from specplan.errors import InputError
from specplan.rules.baseline import without_known
from specplan.rules.finding import Unknown
from specplan.rules.registry import selected
from specplan.rules.report import Report, check_deployments


@dataclass(frozen=True, slots=True)
class Options:
    """How to check.

    Attributes:
        gpu: goes before the device that a file names.
        select, ignore: beginnings of codes.
        baseline: a file of findings that are known.
        allow_empty: files that mention no engine are passed over, also when they were named, and none need be left.
    """

    gpu: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    baseline: Path | None = None
    allow_empty: bool = False


def is_plan(path: Path) -> bool:
    """Whether a path is to be read as a plan: by its name alone, so that a missing or broken one is said to be so."""
    return path.suffix == ".json" and not path.is_dir()


def check_paths(paths: Sequence[Path], options: Options) -> Report:
    """Check all deployments in files and folders. A file that cannot be read is an unknown, the rest is checked.

    Raises:
        InputError: a rule that is none, a broken baseline, or nothing to check at all.
    """
    rules, report, named = selected(options.select, options.ignore), Report(), set(paths)
    for path in deployment_files(paths):
        try:
            source = Source.read(path)
            if (options.allow_empty or path not in named) and not mentions_engine(source):
                continue
            deployments = read_deployments(source)
        except InputError as error:
            report.unknowns.append(Unknown(Location(str(path), 1, 1), str(error)))
            continue
        if deployments:
            check_deployments(source, deployments, rules, options.gpu, report)
    if not report.num_deployments and not report.unknowns and not options.allow_empty:
        raise InputError(f"cannot tell: no deployment found in {', '.join(map(str, paths))}")
    return without_known(report, options.baseline)
