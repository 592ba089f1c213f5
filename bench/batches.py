"""Measured beside planned speed of batches, and what adaptive speculation loses where it cannot pay.

    python -m bench.batches --model FILE [--draft FILE] [--drafter ngram] [--only batches]

``batches``: the same prompts in batches of 1, 2, 4 and 8 rows, plain and speculative in turns, beside what the planner
predicts for them; calibrate first (docs/calibration.md), or the predictions are a roofline's. ``adaptive``: open
stories, plain and adaptive in turns. Speeds are those of decoding, prefill apart, in medians and quartiles of rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.answers import decode_tokens_per_s
from bench.batches_report import BatchLine, LossLine, to_json, to_table
from bench.ours import PLAIN, Models, Seat, Setting, engine_of, plan_of
from bench.questions import STORIES, questions
from bench.runtime_report import Spread
from specplan.models.resolve import resolve_model
from specplan_runtime import Engine
from specplan_runtime.engine import Request
from specplan_runtime.text import Tokenizer

#: Chain length of what cannot pay.
_HOPELESS_GAMMA = 4


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--drafter", default="ngram", choices=("ngram", "draft_model", "early_exit"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16", "int8", "int4"))
    parser.add_argument("--draft-dtype", default="float32", choices=("float32", "bfloat16", "float16", "int8", "int4"))
    parser.add_argument("--only", choices=("batches", "adaptive"), help="one of the two parts")
    parser.add_argument("--batches", default="1,2,4,8")
    parser.add_argument("--gamma", type=int, help="the planner's choice for each batch without")
    parser.add_argument("--prompts", type=Path, help="JSONL with category and prompt or turns; a few of ours without")
    parser.add_argument("--per-category", type=int, default=1)
    parser.add_argument("--max-prompt-tokens", type=int, default=300)
    parser.add_argument("--requests", type=int, help="prompts of a round, asked again in turn; twice the largest batch")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--adaptive-tokens", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    return parser.parse_args()


def batch_speed(engine: Engine, speculating: bool, prompts: Sequence[list[int]], tokens: int) -> float:
    """Tokens/s of all rows together while they decode; prompts wait for rows."""
    engine.set_speculating(speculating)
    engine.reset_counters()
    for _ in engine.serve(Request(index, prompt, tokens) for index, prompt in enumerate(prompts)):
        pass
    return engine.timings.tokens_per_s or 0.0


def story_speed(seat: Seat, setting: Setting, prompts: Sequence[list[int]], tokens: int) -> float:
    """Tokens/s while one prompt after the other is decoded."""
    seat.choose(setting)
    return decode_tokens_per_s([seat.answer(prompt, tokens) for prompt in prompts]) or 0.0


def in_turns(ways: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """The speeds of each way, round by round after one to warm up."""
    speeds: list[list[float]] = [[] for _ in ways]
    for number in range(repeats + 1):
        for way, found in zip(ways, speeds, strict=True):
            speed = way()
            if number:
                found.append(speed)
        print(f"round {number} of {repeats}", file=sys.stderr)
    return speeds


class Bench:
    """Prompts, and engines for them one at a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        draft = options.draft if options.drafter == "draft_model" else None
        self.models = Models(options.model, draft, None, options.dtype, options.draft_dtype)
        self.options = options
        self.tokenizer = Tokenizer(resolve_model(options.model))
        self.stop = self.tokenizer.eos_token_ids()
        self.sizes = [int(part) for part in options.batches.split(",")]

    def prompts(self) -> list[list[int]]:
        """As many as a round asks, the same for every batch."""
        options = self.options
        asked = questions(options.prompts, self.tokenizer, options.per_category, options.max_prompt_tokens)
        number = options.requests or 2 * max(self.sizes)
        return [asked[index % len(asked)].tokens for index in range(number)]

    def batches(self) -> list[BatchLine]:
        """Every size with its own engine."""
        prompts, options = self.prompts(), self.options
        context = max(map(len, prompts)) + options.tokens
        mean = round(statistics.mean(map(len, prompts)))
        lines = []
        for size in self.sizes:
            said = plan_of(
                self.models, options.drafter, None, gamma=options.gamma, batch_size=size, prompt_tokens=mean,
                new_tokens=options.tokens,
            )  # fmt: skip
            gamma = said.speculation.num_draft_nodes
            plan = plan_of(self.models, options.drafter, context, gamma=gamma, batch_size=size)
            engine = engine_of(plan, self.stop)
            plain, drafted = in_turns(
                [partial(batch_speed, engine, speculating, prompts, options.tokens) for speculating in (False, True)],
                options.repeats,
            )
            estimate, ratios = said.estimate, [own / base for own, base in zip(drafted, plain, strict=True)]
            lines.append(
                BatchLine(
                    size, said.speculation.describe(), engine.stats.mean_accepted_length or 1.0, Spread.of(plain),
                    estimate.baseline_tokens_per_s, Spread.of(drafted), estimate.tokens_per_s, Spread.of(ratios),
                )
            )  # fmt: skip
        return lines

    def adaptive(self) -> list[LossLine]:
        """Drafters that can hardly be right, adaptive, beside plain decoding; every round learns anew."""
        options = self.options
        prompts = [self.tokenizer.encode_prompt(text, raw=False) for _, text in STORIES]
        context = max(map(len, prompts)) + options.adaptive_tokens
        lines = []
        for drafter in dict.fromkeys(("early_exit", options.drafter)):
            plan = plan_of(self.models, drafter, context, gamma=options.gamma or _HOPELESS_GAMMA)
            seat = Seat(plan, self.stop)
            settings = (PLAIN, Setting(drafter, plan.speculation.shape, adaptive=True))
            plain, adaptive = in_turns(
                [partial(story_speed, seat, setting, prompts, options.adaptive_tokens) for setting in settings],
                options.repeats,
            )
            loss = Spread.of([1 - own / base for own, base in zip(adaptive, plain, strict=True)])
            said = plan.estimate.speedup
            lines.append(LossLine(plan.speculation.describe(), said, Spread.of(plain), Spread.of(adaptive), loss))
        return lines


def main() -> None:
    """Print the tables of both parts, or of the one that was asked for."""
    options = arguments()
    bench = Bench(options)
    batches = bench.batches() if options.only != "adaptive" else []
    losses = bench.adaptive() if options.only != "batches" else []
    print(to_json(batches, losses) if options.format == "json" else to_table(batches, losses))


if __name__ == "__main__":
    main()
