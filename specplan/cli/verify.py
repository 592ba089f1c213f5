"""``specplan verify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from specplan.errors import EnvironmentProblem


@click.command()
@click.argument("plan", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table", show_default=True)
def verify(plan: Path, output_format: str) -> int:
    """Replay a plan without memory, and hold what it allocates against its ledger.

    Needs no weights and no GPU. Exit code 0: not a byte differs. 1: something differs. 2: cannot tell.
    """
    from specplan import planfile

    loaded = planfile.load(plan)
    try:
        from specplan_runtime.verification import verify as replay
        from specplan_runtime.verification_text import to_data, to_text
    except ImportError as error:
        raise EnvironmentProblem(f"verifying a plan needs {error.name}: pip install 'specplan[runtime]'") from None

    def announce(phase: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"replaying {phase}", err=True)

    result = replay(loaded, announce)
    if output_format == "json":
        click.echo(json.dumps(to_data(result), indent=2, sort_keys=True))
    else:
        click.echo(to_text(result), nl=False)
    return 0 if result.holds else 1
