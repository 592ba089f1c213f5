"""Our decoding beside transformers' and flashspec's: same numbers, dtype, process and prompts, in turns.

    python -m bench.runtime --model FILE [--draft FILE] [--heads DIR] [--prompts FILE.jsonl --per-category 2]

Ours: plain decoding, prompt lookup, a draft model, a tree over Medusa heads, each also adaptive, and chains over the
heads. Transformers': plain ``generate``, prompt lookup, assisted generation with chains of constant length and no
confidence threshold; and flashspec's where it is installed (bench/flashspec_side.py). Every chain length of --gammas
runs once over a category's prompts; the fastest of each method, on both sides alike, then runs in --repeats rounds, all
methods in turns. Shown are medians and quartiles over rounds, and ratios within rounds to transformers' fastest method.
Bytes are those of the longest prompt: storages that operators create while a text is generated, and for ours the arena
without its weights.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from bench.answers import Answer, tokens_per_s
from bench.contenders import Contender, Side, Trial, contenders, peak_bytes
from bench.ours import Models
from bench.questions import questions
from bench.runtime_picture import picture
from bench.runtime_report import Conditions, Rounds, lines_of, to_json, to_table
from specplan.atomic import write_atomically
from specplan.models.resolve import resolve_model
from specplan.output.plot import plot_format
from specplan_runtime.text import Tokenizer

_WARM_UP_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """The fastest contender of each method in a category, and what its rounds gave."""

    category: str
    contenders: list[Contender]
    rounds: list[list[list[Answer]]]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--heads", help="folder of Medusa heads, as specplan train-heads writes")
    parser.add_argument("--num-draft-nodes", type=int, help="of the tree over heads; the planner's choice without")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--draft-dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--prompts", type=Path, help="JSONL with category and prompt or turns; a few of ours without")
    parser.add_argument("--per-category", type=int, default=1)
    parser.add_argument("--categories", default="", help="only these, by commas")
    parser.add_argument("--max-prompt-tokens", type=int, default=800)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--gammas", default="2,4,8", help="chain lengths that both sides try")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--plot", type=Path, help="draw tokens/s by category into an .svg or .png")
    return parser.parse_args()


def run(contender: Contender, prompts: Sequence[list[int]], tokens: int) -> list[Answer]:
    """Answer the prompts of a category one after the other."""
    contender.begin()
    return [contender.answer(prompt, tokens) for prompt in prompts]


def fastest(found: Sequence[tuple[Contender, list[Answer]]]) -> list[Contender]:
    """Of each method the numbers that were fastest, in the order of the methods."""
    families: dict[tuple[Side, str], tuple[float, Contender]] = {}
    for contender, answers in found:
        speed = tokens_per_s(answers)
        if contender.family not in families or speed > families[contender.family][0]:
            families[contender.family] = speed, contender
    return [contender for _, contender in families.values()]


def measure(everyone: list[Contender], category: str, prompts: list[list[int]], options: argparse.Namespace) -> Kept:
    """Sweep once, then rounds of the fastest, each round begun by another one."""
    for contender in everyone:
        run(contender, prompts[:1], _WARM_UP_TOKENS)
    kept = fastest([(contender, run(contender, prompts, options.tokens)) for contender in everyone])
    rounds = []
    for number in range(options.repeats):
        order = [(number + place) % len(kept) for place in range(len(kept))]
        answers = {index: run(kept[index], prompts, options.tokens) for index in order}
        rounds.append([answers[index] for index in range(len(kept))])
        print(f"{category}: round {number + 1} of {options.repeats}", file=sys.stderr)
    return Kept(category, kept, rounds)


def conditions(options: argparse.Namespace, num_prompts: int) -> Conditions:
    """What is compared, and on which machine and versions."""
    import transformers

    names = [Path(name).name for name in (options.model, options.draft, options.heads) if name]
    return Conditions(
        tuple(names), options.dtype, options.draft_dtype if options.draft else None, num_prompts, options.tokens,
        options.repeats, torch.get_num_threads(), os.cpu_count() or 1, torch.__version__, transformers.__version__,
    )  # fmt: skip


def main() -> None:
    """Measure all contenders, print the tables, write the files that were asked for."""
    options = arguments()
    if options.plot:
        plot_format(options.plot)  # refused before minutes of work
    logging.set_verbosity_error()
    tokenizer = Tokenizer(resolve_model(options.model))
    only = [name for name in options.categories.split(",") if name]
    asked = questions(options.prompts, tokenizer, options.per_category, options.max_prompt_tokens, only)
    longest = max((question.tokens for question in asked), key=len)
    models = Models(options.model, options.draft, options.heads, options.dtype, options.draft_dtype)
    gammas = tuple(sorted(int(part) for part in options.gammas.split(",")))
    context = len(longest) + options.tokens
    everyone = contenders(Trial(models, context, gammas, options.num_draft_nodes, tokenizer.eos_token_ids()))
    kept: list[Kept] = []
    with torch.inference_mode():
        for category in dict.fromkeys(question.category for question in asked):
            prompts = [question.tokens for question in asked if question.category == category]
            kept.append(measure(everyone, category, prompts, options))
    chosen = {id(contender): contender for part in kept for contender in part.contenders}
    peaks = {key: peak_bytes(contender, longest, options.tokens) for key, contender in chosen.items()}
    measured = [
        Rounds(part.category, c.side, c.method, c.numbers, peaks[id(c)], [answers[index] for answers in part.rounds])
        for part in kept
        for index, c in enumerate(part.contenders)
    ]
    where, lines = conditions(options, len(asked)), lines_of(measured)
    if options.plot:
        write_atomically(options.plot, picture(where, lines, plot_format(options.plot)))
    print(to_json(where, lines) if options.format == "json" else to_table(where, lines))


if __name__ == "__main__":
    main()
