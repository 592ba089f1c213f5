"""``specplan calibrate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from specplan.errors import EnvironmentProblem, InputError, UnsupportedError

_PATH = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option("--model", required=True, metavar="M", help="Target: a folder or a .gguf file.")
@click.option("--draft", metavar="D", help="Draft model, named in the same ways.")
@click.option("--device", default="local", metavar="G", help="What to measure: only local, this machine.")
@click.option("--dtype", default="auto", help="Weights of the target, as for analyze.")
@click.option("--draft-dtype", default="auto", help="Weights of the draft. auto: as the target.")
@click.option("--context", type=int, metavar="N", help="The largest to measure. [default: trained, at most 1024]")
@click.option("--batch-size", type=int, default=1, metavar="B", help="Measure this many sequences at once as well.")
@click.option("--rows", metavar="N,N,…", help="Tokens per sequence of the passes. [default: 1 to 17, 24, 32, 64]")
@click.option("--prompts", type=_PATH, metavar="FILE", help="JSONL of prompts for acceptance. [default: a few of ours]")
@click.option("--max-new-tokens", type=int, default=96, metavar="N", help="Per prompt.")
@click.option("--repeats", type=int, default=5, metavar="N", help="Measurements of every pass.")
@click.option("--output-dir", type=_PATH, metavar="DIR", help="Write profiles here. [default: the user's own folder]")
@click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table")
def calibrate(device: str, output_dir: Path | None, output_format: str, **options: Any) -> None:
    """Measure step times and acceptance on this machine, for analyze to prefer over its model.

    Use the same OMP_NUM_THREADS as for run. Profiles go to the user's folder, or to SPECPLAN_PROFILES.
    """
    from specplan import user_profiles
    from specplan.devices.resolve import LOCAL, is_local
    from specplan.planner.ask import ask

    if not is_local(device):
        raise UnsupportedError(f"--device {device}: only local is measured, by a process on it")
    for name in ("max_new_tokens", "repeats", "context", "batch_size"):
        if options[name] is not None and options[name] < 1:
            raise InputError(f"--{name.replace('_', '-')} {options[name]}: expected at least 1")
    try:
        from specplan_runtime.calibration import calibrate as calibration
        from specplan_runtime.calibration import text as calibration_text
        from specplan_runtime.calibration.questions import questions_of
    except ImportError as error:
        raise EnvironmentProblem(f"calibrating needs {error.name}: pip install 'specplan[runtime]'") from None

    rows, prompts = options.pop("rows"), options.pop("prompts")
    repeats, max_new_tokens = options.pop("repeats"), options.pop("max_new_tokens")
    if options["context"] is None:
        options["context"] = calibration.default_context(options["model"])
    asked = ask(gpu=LOCAL, drafter="draft_model" if options["draft"] else "ngram", **options)
    chosen = calibration.default_rows(asked) if rows is None else _rows(rows)
    measured = calibration.CalibrationOptions(chosen, max_new_tokens, repeats)
    questions = questions_of(prompts, asked.workload.context - max_new_tokens)
    user_profiles.prepare(output_dir)
    result = calibration.calibrate(asked, questions, measured, _told)
    files = [user_profiles.save("step-times", table.name, table, output_dir) for table in result.tables]
    files += [user_profiles.save("acceptance", profile.name, profile, output_dir) for profile in result.acceptance]
    files.append(user_profiles.save("devices", result.device.fingerprint, result.device, output_dir))
    if output_format == "json":
        click.echo(json.dumps(calibration_text.to_data(result, files), indent=2, sort_keys=True, ensure_ascii=False))
    else:
        click.echo(calibration_text.to_text(result), nl=False)
    for note in [*calibration_text.doubts(result), *(f"written: {path}" for path in files)]:
        click.echo(note, err=True)


def _rows(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise InputError(f"--rows {text}: expected whole numbers with commas between them") from None
    if found[0] < 1:
        raise InputError(f"--rows {text}: expected at least 1")
    return found


def _told(what: str, done: float) -> None:
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{what} {100 * done:3.0f} %" + ("\n" if done >= 1 else ""), nl=False, err=True)
