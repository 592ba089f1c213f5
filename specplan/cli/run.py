"""``specplan run``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from specplan.errors import EnvironmentProblem, InputError
from specplan.parallelism import Parallelism

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"show_default": True})
@click.argument("plan", type=_FILE)
@click.option("--prompt", metavar="TEXT", help="Continue this prompt.")
@click.option("--prompts", type=_FILE, help="Continue every prompt of a JSONL file (objects with prompt, or turns).")
@click.option("--chat", is_flag=True, help="Talk: one turn per line of input, caches kept between turns.")
@click.option("--raw", is_flag=True, help="Do not apply the model's chat template.")
@click.option("--max-new-tokens", type=int, default=256, metavar="N", help="Per prompt or turn.")
@click.option("--temperature", type=float, default=0.0, help="0 takes the most probable token.")
@click.option("--top-k", type=int, default=0, help="Sample from the k most probable tokens; 0: from all.")
@click.option("--top-p", type=float, default=1.0, help="Sample from the tokens that together reach this share.")
@click.option("--seed", type=int, default=0, help="Of the random numbers.")
@click.option("--model", metavar="M", help="Weights of the target, when the plan was made from a profile or moved.")
@click.option("--draft", metavar="D", help="Weights of the draft, in the same case.")
@click.option("--static", is_flag=True, help="Draft as many tokens as planned, even where fewer are faster.")
@click.option(
    "-o",
    "--output",
    type=_FILE,
    help="Write the results of --prompts here; a job that was killed goes on, one that is done stays.",
)
@click.option("--transcript", type=_FILE, help="Keep the chat here after every turn, and take it up again.")
@click.option(
    "--when-full",
    type=click.Choice(["stop", "drop"]),
    default="stop",
    help="A chat that fills its context ends, or forgets its oldest turns.",
)
@click.option("--heads", metavar="DIR", help="Folder of the heads, when it was moved.")
@click.option("--report", type=_FILE, help="Write report.json here.")
@click.option("--rank-timeout", type=float, default=60.0, metavar="S", help="How long ranks wait for one another.")
@click.option("--baseline", is_flag=True, help="Also decode without speculation, and print the ratio.")
def run(plan: Path, **options: Any) -> None:
    """Generate text exactly inside a plan.

    The text goes to stdout; a table of planned and measured bytes, accepted lengths and speed goes to stderr.
    """
    from specplan import planfile
    from specplan.models.replace import with_weights

    sources = [name for name in ("prompt", "prompts", "chat") if options[name] not in (None, False)]
    if len(sources) != 1:
        raise InputError("give exactly one of --prompt, --prompts and --chat")
    if options["chat"] and options["baseline"]:
        raise InputError("--baseline needs --prompt or --prompts: a chat cannot be replayed")
    _check_files(plan, options)
    if not options["chat"] and (options["transcript"] is not None or options["when_full"] != "stop"):
        raise InputError("--transcript and --when-full are for --chat")
    options["drop_oldest"] = options.pop("when_full") == "drop"
    loaded = planfile.load(plan)
    options["rank_timeout_s"] = options.pop("rank_timeout")
    if not 0 < options["rank_timeout_s"] <= 86400:
        raise InputError(f"--rank-timeout {options['rank_timeout_s']}: expected up to 86400 seconds")
    loaded = with_weights(loaded, options.pop("model"), options.pop("draft"), options.pop("heads"))
    try:
        if loaded.spread is not None and "RANK" not in os.environ:
            _launch(loaded.spread.parallelism)
            return
        from specplan_runtime import session
    except ImportError as error:
        raise EnvironmentProblem(f"running a plan needs {error.name}: pip install 'specplan[runtime]'") from None
    sampling = {name: options.pop(name) for name in ("temperature", "top_k", "top_p", "seed")}
    session.run(loaded, session.RunOptions(params=session.SamplingParams(**sampling), **options))


def _check_files(plan: Path, options: dict[str, Any]) -> None:
    """Nothing that is read is written over, and no file is two."""
    kept = {os.path.realpath(plan): "the plan"}
    if options["prompts"] is not None:
        kept[os.path.realpath(options["prompts"])] = "the file of prompts"
    for name in ("output", "transcript", "report"):
        path: Path | None = options[name]
        if path is None or (path.exists() and not path.is_file()):  # /dev/stdout may be several
            continue
        real = os.path.realpath(path)
        if real in kept:
            raise InputError(f"--{name} {path}: is {kept[real]}")
        kept[real] = f"--{name}"


def _launch(parallelism: Parallelism) -> None:
    """One process per rank; a rank that refuses says why."""
    from specplan_runtime.distributed.launch import LaunchFailed, launch

    try:
        launch(_arguments(click.get_current_context()), parallelism)
    except LaunchFailed:
        sys.exit(2)


def _arguments(context: click.Context) -> list[str]:
    """The command line again, for a rank."""
    return [argument for parameter in context.command.params for argument in _written(parameter, context.params)]


def _written(parameter: click.Parameter, values: dict[str, Any]) -> Iterator[str]:
    value = values[parameter.name or ""]
    if isinstance(parameter, click.Argument):
        yield str(value)
    elif isinstance(parameter, click.Option) and parameter.is_flag:
        yield from (parameter.opts[-1:] if value else ())
    elif value is not None:
        yield f"{parameter.opts[-1]}={value}"
