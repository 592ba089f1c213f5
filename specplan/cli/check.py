"""``specplan check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from specplan.rules.checking import Options

_FORMATS = ("text", "json", "github", "gitlab", "sarif", "junit", "markdown")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH…")
@click.option("--gpu", metavar="G", help="Check for this device instead of the one that a plan or file names.")
@click.option("--format", "output_format", type=click.Choice(_FORMATS), default="text", show_default=True)
@click.option("--select", multiple=True, metavar="CODE", help="Only rules whose codes begin so; may be repeated.")
@click.option("--ignore", multiple=True, metavar="CODE", help="No rules whose codes begin so; may be repeated.")
@click.option("--baseline", type=click.Path(path_type=Path), metavar="FILE", help="Findings that are known already.")
@click.option("--report", "reports", multiple=True, metavar="FORMAT=FILE", help="Also write it here; may be repeated.")
@click.option(
    "--allow-empty", is_flag=True, help="Files that mention no engine are passed over, even when none is left."
)
@click.option("--fix", is_flag=True, help="Write the nearest configurations that fit into specplan.toml, then check.")
@click.option("--write-baseline", is_flag=True, help="Write today's findings into --baseline and end with 0.")
def check(
    paths: tuple[Path, ...],
    gpu: str | None,
    output_format: str,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    baseline: Path | None,
    reports: tuple[str, ...],
    allow_empty: bool,
    fix: bool,
    write_baseline: bool,
) -> int:
    """Do these deployments fit, and is their speculation sane?

    Reads plans, specplan.toml, shell scripts, Dockerfiles, compose files, Kubernetes manifests, Markdown and Python,
    and the folders they are in. Nothing is loaded and nothing is executed.

    Exit code 0: nothing to say. 1: findings. 2: something cannot be told, and what is missing is named.
    """
    from specplan.deployments.readers.exports import is_exported
    from specplan.rules.checking import Options, check_paths, is_plan
    from specplan.rules.settings import with_settings

    plain = output_format in ("text", "json") and baseline is None and not reports
    if len(paths) == 1 and is_plan(paths[0]) and not is_exported(paths[0]) and plain and not allow_empty:
        return _check_plan(paths[0], gpu, output_format)
    options = with_settings(Options(gpu, select, ignore, baseline, allow_empty), Path.cwd())
    if fix:
        _fix(paths, options)
    if write_baseline:
        return _write_baseline(paths, options)
    from specplan.output.reports import report_text, write_reports

    report = check_paths(paths, options)
    write_reports(report, reports)
    click.echo(report_text(report, output_format), nl=False)
    return report.exit_code


def _fix(paths: tuple[Path, ...], options: Options) -> None:
    from specplan.rules.fixing import fix_paths

    changes = fix_paths(paths, options)
    for change in changes:
        click.echo(f"fixed {change}", err=True)
    if not changes:
        click.echo("fixed nothing: only what specplan.toml says can be rewritten", err=True)


def _write_baseline(paths: tuple[Path, ...], options: Options) -> int:
    from specplan.rules.baseline import write_baseline
    from specplan.rules.checking import Options, check_paths

    if options.baseline is None:
        raise click.UsageError("--write-baseline needs --baseline FILE")
    report = check_paths(paths, Options(options.gpu, options.select, options.ignore, None))
    write_baseline(options.baseline, report.findings)
    click.echo(f"wrote {len(report.findings)} findings to {options.baseline}", err=True)
    return 2 if report.unknowns else 0


def _check_plan(path: Path, gpu: str | None, output_format: str) -> int:
    """A single plan, in the words of its own."""
    import json

    from specplan import planfile
    from specplan.checks import check_plan, peak_on
    from specplan.devices.resolve import resolve_device
    from specplan.strict import encode
    from specplan.units import format_bytes

    loaded = planfile.load(path)
    device = resolve_device(gpu) if gpu is not None else loaded.inputs.device
    findings = check_plan(loaded, None if gpu is None else device)
    peak, memory = peak_on(loaded, device), int(device.memory_bytes.value)
    if output_format == "json":
        result = {"plan": str(path), "device": device.name, "fits": not findings, "peak_bytes": peak}
        click.echo(
            json.dumps({**result, "memory_bytes": memory, "findings": encode(findings)}, indent=2, sort_keys=True)
        )
    elif findings:
        for finding in findings:
            click.echo(f"{path}: {finding.kind}: {finding.message}")
    else:
        spread = loaded.spread
        where = device.name if spread is None else f"{device.name}, rank {spread.binding_rank}, which binds"
        click.echo(
            f"{path}: fits {where}: {format_bytes(peak)} of {format_bytes(memory)}, and its models are unchanged"
        )
    return 1 if findings else 0
