"""``specplan export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from specplan.export.exported import Exported
    from specplan.export.limits import Target

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"show_default": True})
@click.argument("plan", type=_FILE)
@click.option(
    "--engine",
    required=True,
    type=click.Choice(["vllm", "sglang", "llama.cpp", "tensorrt-llm", "transformers"]),
    help="Write the plan for this engine.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["command", "compose", "k8s", "json"]),
    default="command",
    help="A script, a compose file, Kubernetes manifests, or all parts for programs.",
)
@click.option("--nearest", is_flag=True, help="Replace what the engine cannot do by the nearest thing that it can.")
@click.option("--model", metavar="M", help="Name or place of the target's weights, where it is not the plan's.")
@click.option("--draft", metavar="D", help="The same for the draft, or the checkpoint of an EAGLE-3 head.")
@click.option("--revision", metavar="C", help="Commit of the target on its hub.")
@click.option("--draft-revision", metavar="C", help="Commit of the draft on its hub.")
@click.option("--image", metavar="I", help="Image of the container. [default: that of the version that was read]")
@click.option("-o", "--output", type=_FILE, help="Write the result here.")
def export(
    plan: Path,
    engine: Target,
    output_format: str,
    nearest: bool,
    model: str | None,
    draft: str | None,
    revision: str | None,
    draft_revision: str | None,
    image: str | None,
    output: Path | None,
) -> int:
    """Write a plan as an engine's command, its KV cache sized by that engine's own arithmetic.

    What the engine cannot do is refused with the reason. Nothing is loaded and no engine is started.

    Exit code 0: written. 1: the engine needs more than the plan's budget. 2: bad input, or refused.
    """
    from specplan import planfile
    from specplan.atomic import write_atomically
    from specplan.export.export import export_plan
    from specplan.export.exported import TooLarge
    from specplan.export.request import Weights
    from specplan.output.exports import memory_text, rendered

    weights = Weights(model, draft, revision, draft_revision)
    result = export_plan(planfile.load(plan), engine, weights, nearest, image)
    if isinstance(result, TooLarge):
        click.echo(memory_text(result), err=True)
        return 1
    text = rendered(result, output_format)
    if output is not None:
        write_atomically(output, text)
    else:
        click.echo(text, nl=False)
    _notes(result, output)
    return 0


def _notes(result: Exported, output: Path | None) -> None:
    from specplan.output.exports import memory_text

    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(memory_text(result), err=True)
    if output is not None:
        click.echo(f"written to {output}", err=True)
