"""Options and option types that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from specplan.caches.kv_formats import CACHE_FORMATS
from specplan.dtypes import WEIGHT_DTYPES
from specplan.errors import InputError
from specplan.speculation import DRAFTERS
from specplan.units import parse_bytes

Command = TypeVar("Command", bound=Callable[..., Any])


class ByteSize(click.ParamType):  # type: ignore[type-arg] # generic since click 8.3
    """A size such as ``8GiB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text to bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


class UnlessFleet(click.Option):
    """An option that is required unless ``--fleet`` is given."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """As any option."""
        self.required = "fleet" not in opts
        return super().handle_parse_result(ctx, opts, args)


BYTE_SIZE = ByteSize()
FORMATS = click.Choice(["table", "json", "markdown"])
_DRAFTERS = click.Choice(["auto", *DRAFTERS])

_QUESTION = (
    click.option(
        "--model",
        cls=UnlessFleet,
        required=True,
        metavar="M",
        help="Target: a folder, a .gguf file, a bundled profile or a hub id.",
    ),
    click.option("--draft", metavar="D", help="Draft model, named in the same ways."),
    click.option("--drafter", type=_DRAFTERS, default="auto", help="Who proposes tokens."),
    click.option(
        "--tree",
        metavar="T",
        help="Tree to draft: best to search one, a bundled one such as medusa-default, or a JSON file of paths.",
    ),
    click.option(
        "--forward",
        type=click.Choice(["specplan", "transformers"]),
        default="specplan",
        help="Whose forward pass to plan and run: the runtime's own, or the installed transformers'.",
    ),
    click.option("--heads", metavar="DIR", help="Folder of Medusa or EAGLE-3 heads, published or of train-heads."),
    click.option("--share-head", is_flag=True, help="Medusa heads without output heads of their own."),
    click.option(
        "--gpu",
        cls=UnlessFleet,
        required=True,
        metavar="G",
        help="Device profile such as rtx-4090, or local; several with commas; analyze also ranks any.",
    ),
    click.option(
        "--context",
        type=int,
        metavar="N",
        help="Tokens per sequence, prompt and answer. [default: trained, at most 4096]",
    ),
    click.option("--batch-size", type=int, default=1, metavar="B", help="Sequences decoded at once."),
    click.option(
        "--dtype",
        default="auto",
        help=f"Weights of the target: auto (as stored where that is quantized), {', '.join(WEIGHT_DTYPES)}.",
    ),
    click.option("--kv-dtype", default="auto", help=f"KV cache of the target: auto, {', '.join(CACHE_FORMATS)}."),
    click.option("--draft-dtype", default="auto", help="Weights of the draft. auto: as the target."),
    click.option(
        "--draft-kv-dtype", default="auto", help="KV cache of the draft, in the same formats. auto: as its activations."
    ),
    click.option(
        "--budget",
        type=BYTE_SIZE,
        metavar="SIZE",
        help="Bytes the process may use, everything included. [default: the device's memory]",
    ),
)


def question_options(command: Command) -> Command:
    """The options that describe models, device, workload and budget: keyword arguments of ``planner.ask.ask``."""
    for option in reversed(_QUESTION):
        command = option(command)
    return command


_DEVICES = (
    click.option("--num-gpus", type=int, metavar="N", help="Devices like the one of --gpu. [default: those named]"),
    click.option("--tensor-parallel", type=int, metavar="N", help="Fix the devices that share every layer."),
    click.option("--pipeline-parallel", type=int, metavar="N", help="Fix the stages that layers are spread over."),
)


def device_options(command: Command) -> Command:
    """The options that spread models over several devices: more arguments of ``planner.ask.ask``."""
    for option in reversed(_DEVICES):
        command = option(command)
    return command


_SEARCH = (
    click.option(
        "--acceptance",
        metavar="P",
        help="Acceptance profile: a bundled one, one of your own, or a JSON file. [default: that of the models]",
    ),
    click.option("--category", default="all", metavar="C", help="Kind of question of the acceptance profile."),
    click.option("--num-draft-nodes", type=int, metavar="N", help="Fix the nodes of a tree instead of searching."),
    click.option("--turns", type=int, metavar="N", help="Prompts and answers of a conversation."),
    click.option("--turn-tokens", type=int, metavar="N", help="Tokens of a prompt and its answer."),
    click.option("--prompt-tokens", type=int, metavar="N", help="Tokens of one prompt. [default: half of a turn]"),
    click.option("--new-tokens", type=int, metavar="N", help="Tokens of one answer."),
    click.option("--concurrency", type=int, metavar="N", help="Sequences that wait: the search chooses the batch."),
    click.option("--num-exit-layers", type=int, metavar="N", help="Fix the layers that an early_exit drafter runs."),
    click.option("--draft-context", type=int, metavar="N", help="Fix the last tokens that a draft model sees."),
    click.option(
        "--draft-device",
        type=click.Choice(["device", "host", "any"]),
        default="device",
        help="Where a draft model lives: beside the target, in the host's memory, or where it pays.",
    ),
    *_DEVICES,
    click.option(
        "--allow",
        multiple=True,
        type=click.Choice(["kv-quant", "weight-quant"]),
        help="Let the search quantize the target's cache or weights, which changes the output.",
    ),
    click.option(
        "--prefer",
        type=click.Choice(["fastest", "smallest"]),
        default="fastest",
        help="The fastest within the budget, or the smallest that keeps --keep of its speed.",
    ),
)


def search_options(command: Command) -> Command:
    """The options that describe lengths and what the search may vary: more arguments of ``planner.ask.ask``."""
    for option in reversed(_SEARCH):
        command = option(command)
    return command
