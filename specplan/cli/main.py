"""``specplan``: the group of commands, and how every one of them ends."""

from __future__ import annotations

import importlib
import os
import sys
from io import TextIOWrapper
from typing import NoReturn, TextIO

import click

from specplan import __version__
from specplan.errors import SpecplanError

#: Command name -> module that defines it; loaded on use, so that --help stays quick.
COMMANDS = {
    "analyze": "specplan.cli.analyze",
    "solve": "specplan.cli.solve",
    "run": "specplan.cli.run",
    "check": "specplan.cli.check",
    "export": "specplan.cli.export",
    "diff": "specplan.cli.diff",
    "rule": "specplan.cli.rule",
    "explain": "specplan.cli.explain",
    "verify": "specplan.cli.verify",
    "calibrate": "specplan.cli.calibrate",
    "train-heads": "specplan.cli.train_heads",
    "pull": "specplan.cli.pull",
}

_SUMMARIES = {
    "analyze": "Find the best speculation within a memory budget, and write the plan.",
    "solve": "Find the largest context, batch or chain that fits a budget.",
    "run": "Generate text exactly inside a plan.",
    "check": "Do plans and deployments fit, and is their speculation sane? For CI.",
    "export": "Write a plan as the command of vLLM, SGLang, llama.cpp, TensorRT-LLM or transformers.",
    "diff": "What changed between two plans, in bytes by item.",
    "rule": "What a rule of check means, with an example.",
    "verify": "Replay a plan without memory, and hold what it allocates against its ledger.",
    "explain": "Show the formula behind a ledger item, or what decides a plan's peak.",
    "calibrate": "Measure step times and acceptance on this machine, for analyze to prefer.",
    "train-heads": "Train Medusa heads for a target, on text that it generates.",
    "pull": "Fetch real weights into a local folder.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SUMMARIES[name]) for name in COMMANDS])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="specplan")
def cli() -> None:
    """Plan speculative decoding inside a memory budget, and run it inside that plan.

    Exit codes: 0 fits or done, 1 does not fit or findings, 2 bad input or cannot tell.
    """


def entry_point() -> NoReturn:
    """Run the command line; every failure is one line on stderr."""
    if isinstance(sys.stdout, TextIOWrapper):  # not every terminal has every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run()
    except OSError:  # the reader of our output went away, or there is no place even for what went wrong
        code = 2
    for stream in filter(None, (sys.stdout, sys.stderr)):  # not those that the caller closed
        _give_up_unwritten(stream)
    sys.exit(code)


def _give_up_unwritten(stream: TextIO) -> None:
    """What a stream could not take, it will not take when the interpreter ends either, which would complain then."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run() -> int:
    try:
        result = _command()
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except SpecplanError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message().replace("\n", " ").replace("\t", ""), 2)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 2)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    except Exception as error:
        if os.environ.get("SPECPLAN_TRACEBACK"):
            raise
        return _fail(
            f"internal error, please report it: {type(error).__name__}: {error} (SPECPLAN_TRACEBACK=1 shows where)", 2
        )


def _command() -> object:
    try:
        return cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0


def _fail(message: str, code: int) -> int:
    click.echo(f"specplan: error: {_on_one_line(message)}", err=True)
    return code


def _on_one_line(text: str) -> str:
    """Names may hold line breaks, and what a terminal takes for commands: written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
