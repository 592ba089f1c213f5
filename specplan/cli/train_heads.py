"""``specplan train-heads``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from specplan.cli.options import BYTE_SIZE
from specplan.errors import EnvironmentProblem, InputError

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
#: By kind: positions of one optimizer step, and the learning rate. An EAGLE-3 head learns more from each position, and
#: with a quarter of the positions in four times the steps it reached more (docs/heads.md).
_STEPS = {"medusa": (256, 2e-3), "eagle3": (64, 1e-3)}
#: Options that are not called as what they set.
_OPTIONS = {"num_tokens": "tokens", "num_epochs": "epochs", "draft_vocab_size": "draft-vocab"}


@click.command("train-heads", context_settings={"show_default": True})
@click.option("--model", required=True, metavar="M", help="Target: a folder or a .gguf file.")
@click.option("-o", "--output", type=_FOLDER, required=True, metavar="DIR", help="Folder of the heads.")
@click.option("--kind", type=click.Choice(["medusa", "eagle3"]), default="medusa", help="Whose heads.")
@click.option(
    "--num-heads",
    type=int,
    default=3,
    metavar="K",
    help="Medusa heads: tokens ahead of the next one. Of an EAGLE-3 head: tokens in a row that it learns to draft.",
)
@click.option("--num-layers", type=int, default=2, metavar="L", help="Residual blocks of a Medusa head.")
@click.option(
    "--draft-vocab",
    "draft_vocab_size",
    type=int,
    default=8192,
    metavar="N",
    help="Tokens that an EAGLE-3 head proposes.",
)
@click.option(
    "--tokens",
    "num_tokens",
    type=int,
    default=100_000,
    metavar="N",
    help="Of text at least, by 128 answers.",
)
@click.option("--new-tokens", type=int, default=192, metavar="N", help="Of one answer, at most.")
@click.option("--prompts", type=_FILE, help="JSONL of prompts to answer. [default: the target asks itself]")
@click.option("--temperature", type=float, default=0.0, help="Of the answers; 0 takes the most probable token.")
@click.option("--epochs", "num_epochs", type=int, default=3, metavar="N", help="Passes over the text.")
@click.option("--learning-rate", type=float, metavar="R", help="At the start, of AdamW. [default: 2e-3; eagle3: 1e-3]")
@click.option(
    "--loss-tokens",
    type=int,
    default=8192,
    metavar="N",
    help="Entries of the vocabulary that the loss of Medusa heads compares: those that occur, and others drawn at "
    "random. 0: all.",
)
@click.option("--dtype", default="auto", help="Weights of the target while it generates, as for analyze.")
@click.option("--budget", type=BYTE_SIZE, metavar="SIZE", help="Bytes the process may use. [default: the memory]")
@click.option("--seed", type=int, default=0, help="Of questions, sampling and order.")
@click.option("--resume", is_flag=True, help="Go on with the training in DIR.")
@click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table")
def train_heads(output: Path, output_format: str, resume: bool, **options: Any) -> None:
    """Train Medusa heads or an EAGLE-3 head for a target, on text that it generates.

    Medusa heads share the target's output head, so they are small; an EAGLE-3 head has one layer, and proposes the most
    frequent tokens. What they reach is measured on answers that were held out, and kept beside them: analyze
    --heads DIR finds it. An interrupted training goes on with --resume.
    """
    _check_kind(options["kind"])
    batch_tokens, usual_rate = _STEPS[options["kind"]]
    options |= {
        "batch_tokens": batch_tokens,
        "learning_rate": usual_rate if options["learning_rate"] is None else options["learning_rate"],
    }
    for name in ("num_heads", "num_layers", "num_tokens", "new_tokens", "num_epochs", "draft_vocab_size"):
        if not 1 <= options[name] <= 1 << 30:
            option = _OPTIONS.get(name, name.replace("_", "-"))
            raise InputError(f"--{option} {options[name]}: expected at least 1")
    if options["new_tokens"] <= options["num_heads"]:
        raise InputError(f"--new-tokens {options['new_tokens']}: expected more than there are heads")
    if not 0 < options["learning_rate"] <= 1:
        raise InputError(f"--learning-rate {options['learning_rate']}: expected a rate above 0, at most 1")
    if options["loss_tokens"] < 0:
        raise InputError(f"--loss-tokens {options['loss_tokens']}: expected 0 for all, or more")
    try:
        from specplan_runtime.training import stages, summary
        from specplan_runtime.training.options import TrainOptions
        from specplan_runtime.training.train import train_heads as train
    except ImportError as error:
        raise EnvironmentProblem(f"training heads needs {error.name}: pip install 'specplan[runtime]'") from None

    model, prompts, dtype, budget = (options.pop(name) for name in ("model", "prompts", "dtype", "budget"))
    setting = stages.setting_of(model, output, TrainOptions(**options), prompts, dtype, budget)
    stages.prepare(setting, resume)
    trained = train(setting, _Teller())
    if output_format == "json":
        click.echo(json.dumps(summary.to_data(trained), indent=2, sort_keys=True))
    else:
        click.echo(summary.to_text(trained), nl=False)
    click.echo(f"heads written to {output}; the text in {setting.work} may be deleted", err=True)


def _check_kind(kind: str) -> None:
    """Refuse options that mean nothing for these heads."""
    context = click.get_current_context()
    for name, own in (("num_layers", "medusa"), ("loss_tokens", "medusa"), ("draft_vocab_size", "eagle3")):
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and kind != own:
            raise InputError(f"--{_OPTIONS.get(name, name.replace('_', '-'))} is of no use with --kind {kind}")


class _Teller:
    """Progress: one line that is written over on a terminal, a line per stage and tenth elsewhere."""

    def __init__(self) -> None:
        self._told: tuple[str, int] | None = None

    def __call__(self, what: str, done: float) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\033[K{what} {100 * done:3.0f} %" + ("\n" if done >= 1 else ""), nl=False, err=True)
            return
        stage = (what.split(",")[0], int(10 * done))
        if stage != self._told:
            self._told = stage
            click.echo(f"{what} {100 * done:.0f} %", err=True)
