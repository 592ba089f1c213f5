"""``specplan analyze``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from specplan.cli.options import FORMATS, question_options, search_options
from specplan.errors import InputError

_ANY = "any"


@click.command(context_settings={"show_default": True})
@question_options
@click.option(
    "--keep",
    type=float,
    default=0.96,
    help="Share of the best speed to keep: asked of the third budget, and of --prefer smallest.",
)
@click.option(
    "--alpha",
    type=float,
    help="Probability that a drafted token is accepted (of the draft model, where there is one). Assumed by default.",
)
@click.option(
    "--num-speculative-tokens",
    type=int,
    metavar="N",
    help="Fix the tokens drafted per step instead of searching.",
)
@search_options
@click.option(
    "--fleet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Instead of all other options but --format: requests and cards of a fleet, as TOML.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the plan here.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw bytes against speed into a .svg or .png file.",
)
@click.option("--format", "output_format", type=FORMATS, default="table", help="Format of the answer on stdout.")
def analyze(fleet: Path | None, output: Path | None, plot: Path | None, output_format: str, **options: Any) -> int:
    """Find the best speculation within a memory budget, and write the plan.

    With --gpu any, all bundled devices are ranked instead. With --fleet, the fewest cards for a stream of requests
    are found (docs/scale.md).

    Exit code 0: it fits. 1: no configuration fits. 2: bad input.
    """
    if fleet is not None:
        return _size(fleet, output_format)
    if options["gpu"].strip().lower() == _ANY:
        if output is not None or plot is not None:
            raise InputError("--gpu any ranks devices: --output and --plot need one of them")
        return _rank(output_format, options)
    from specplan import planfile
    from specplan.atomic import check_writable, write_atomically
    from specplan.output import analysis
    from specplan.output.plot import frontier_picture, plot_format
    from specplan.plan import Plan
    from specplan.planner.analyze import analyze as answer
    from specplan.planner.ask import ask

    image_format = None if plot is None else plot_format(plot)
    if output is not None and output == plot:
        raise InputError(f"--output and --plot {plot}: one file cannot be both")
    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None:
            check_writable(path, option)
    result = answer(ask(**options))
    fits = isinstance(result, Plan)
    # files first: the answer is on stdout only once they are safe
    picture = None if image_format is None else frontier_picture(result, image_format)
    if output is not None and isinstance(result, Plan):
        planfile.save(result, output)
    if plot is not None and picture is not None:
        write_atomically(plot, picture)
    click.echo(analysis.FORMATTERS[output_format](result), nl=False)
    if output is not None:
        note = f"plan written to {output}" if fits else f"no plan written to {output}: it does not fit"
        click.echo(note, err=True)
    if plot is not None:
        click.echo(f"picture written to {plot}", err=True)
    return 0 if fits else 1


def _size(path: Path, output_format: str) -> int:
    from specplan.fleet.read import read_fleet
    from specplan.fleet.sizing import size
    from specplan.output import fleet

    _refuse_other_options()
    sizing = size(read_fleet(path))
    click.echo(fleet.FORMATTERS[output_format](sizing), nl=False)
    return 0 if sizing.fleet is not None else 1


def _refuse_other_options() -> None:
    """The file of a fleet holds the whole question."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in ("fleet", "output_format"):
            raise InputError(f"{parameter.opts[-1]} is of no use with --fleet: its file holds the question")


def _rank(output_format: str, options: dict[str, Any]) -> int:
    from specplan.output import ranking
    from specplan.plan import Plan
    from specplan.planner.rank import every_device, rank

    found = rank(every_device(), **{name: value for name, value in options.items() if name != "gpu"})
    click.echo(ranking.FORMATTERS[output_format](found), nl=False)
    return 0 if any(isinstance(ranked.result, Plan) for ranked in found) else 1
