"""``specplan solve``."""

from __future__ import annotations

from typing import Any

import click

from specplan.cli.options import FORMATS, device_options, question_options
from specplan.errors import InputError
from specplan.knob import KNOBS, SOLVABLE


@click.command(context_settings={"show_default": True})
@click.option("--for", "knob", type=click.Choice(SOLVABLE), required=True, help="What to make as large as fits.")
@question_options
@device_options
@click.option(
    "--num-speculative-tokens", type=int, metavar="N", help="Tokens drafted per step. [default: 1, the least]"
)
@click.option("--format", "output_format", type=FORMATS, default="table", help="Format of the answer on stdout.")
@click.pass_context
def solve(ctx: click.Context, /, knob: str, output_format: str, **options: Any) -> int:
    """Find the largest context, batch or chain that fits a budget.

    What is not given takes least memory: one speculative token, the smallest prefill chunk and logits tile. So the
    answer is the largest value at which analyze finds a plan.

    Exit code 0: it fits. 1: not even the least value fits. 2: bad input.
    """
    from specplan.output import solution as output
    from specplan.planner.solve import solve as answer
    from specplan.planner.solve import solve_options

    if ctx.get_parameter_source(knob) is click.core.ParameterSource.COMMANDLINE:
        raise InputError(f"{KNOBS[knob].option} is what --for {knob} looks for: give one of them")
    if options["gpu"].strip().lower() == "any":
        raise InputError("--gpu any ranks devices, with analyze only: solve needs one of them")
    solution = answer(solve_options(knob, **options), KNOBS[knob])
    click.echo(output.FORMATTERS[output_format](solution), nl=False)
    return 0 if solution.fits else 1
