"""``specplan diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from specplan.plan import Plan


@click.command(context_settings={"show_default": True})
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    help="Format of the answer on stdout.",
)
def diff(before: str, after: str, output_format: str) -> int:
    """What changed from plan A to plan B: settings, bytes by item, peak, estimates.

    A and B are files, or REV:path for a file of a git revision, such as HEAD~1:plan.json.

    Exit code 0: equal. 1: different. 2: bad input.
    """
    from specplan.differences import difference
    from specplan.output.differences import FORMATTERS

    found = difference(_plan(before), _plan(after))
    click.echo(FORMATTERS[output_format](found), nl=False)
    return 0 if found.is_empty else 1


def _plan(name: str) -> Plan:
    from specplan import planfile
    from specplan.git_files import git_file, is_git_name

    return planfile.loads(git_file(name), name) if is_git_name(name) else planfile.load(Path(name))
