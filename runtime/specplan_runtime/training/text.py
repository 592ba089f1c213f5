"""Text that the target generates: questions that it asks itself, or a user's prompts, and its answers.

A chat model continues the beginning of a user's turn with a question, as Magpie (2406.08464) found; other models
continue the token that begins a text. Questions are sampled, so that they differ; answers are decoded as asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from specplan.errors import InputError
from specplan_runtime.drafters.base import NoDrafter
from specplan_runtime.engine import Engine, Request
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.session import read_prompts
from specplan_runtime.text import Tokenizer
from specplan_runtime.training.eagle_model import trained_head
from specplan_runtime.training.feature_recorder import FeatureRecorder
from specplan_runtime.training.options import Told, TrainOptions
from specplan_runtime.training.recorder import Recorded, Recorder

#: What progress is called while answers are generated.
ANSWERING = "answering"
#: Answers of one shard.
SHARD_ANSWERS = 128
#: Tokens of a text that begins from nothing, for models without a chat template.
_OPENING_TOKENS = 12


class Prompts:
    """Where the prompts of a shard come from.

    Args:
        tokenizer: of the target.
        path: JSONL of a user's prompts, None where the target asks itself.
        options: of the training.

    Raises:
        InputError: a file that cannot be read.
    """

    def __init__(self, tokenizer: Tokenizer, path: Path | None, options: TrainOptions) -> None:
        self._options = options
        self.given = None
        if path is not None:
            self.given = [tokenizer.encode_prompt(text, raw=False) for _, text in read_prompts(path)]
        self._chats = tokenizer.has_chat_template
        self._before, self._after = turn_borders(tokenizer) if self._chats else ((tokenizer.first_token(),), ())

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        if self.given is not None:
            return max(map(len, self.given))
        return len(self._before) + self._question_tokens + len(self._after)

    def num_shards(self) -> int | None:
        """Shards after which a user's prompts are used up; None where they never are."""
        return None if self.given is None else -(-len(self.given) // SHARD_ANSWERS)

    def of_shard(self, engine: Engine, number: int, told: Told) -> list[list[int]]:
        """The prompts of a shard, in a fixed order."""
        if self.given is not None:
            return self.given[number * SHARD_ANSWERS : (number + 1) * SHARD_ANSWERS]
        engine.drafter = NoDrafter()
        params = SamplingParams(temperature=1.0, top_p=0.95, seed=self._options.seed * 1_000_003 + 2 * number)
        requests = [Request(index, list(self._before), self._question_tokens) for index in range(SHARD_ANSWERS)]
        questions: list[list[int]] = [[] for _ in requests]
        for emission in engine.serve(requests, params):
            questions[emission.index] += emission.tokens
            if emission.finish_reason:
                told("asking", sum(map(bool, questions)) / len(questions))
        ends = set(engine.assembly.eos_token_ids)
        plain = [list(takewhile(lambda token: token not in ends, question)) for question in questions]
        return [[*self._before, *question, *self._after] for question in plain if question]

    @property
    def _question_tokens(self) -> int:
        return self._options.question_tokens if self._chats else _OPENING_TOKENS


def turn_borders(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before and after what a user says: what two conversations of one turn have in common."""
    one, other = (tokenizer.encode_chat([{"role": "user", "content": text}]) for text in ("one", "Two, three"))
    before = _common(one, other)
    after = _common(one[len(before) :][::-1], other[len(before) :][::-1])
    return before, after[::-1]


def _common(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return tuple(token for token, _ in pairs)


def generate_answers(
    engine: Engine, prompts: Prompts, number: int, options: TrainOptions, told: Told
) -> list[Recorded]:
    """Ask, answer, record.

    Raises:
        InputError: the target ends every text before it begins.
    """
    asked = prompts.of_shard(engine, number, told)
    if not asked:
        raise InputError("the target says nothing when it is to ask itself: give --prompts")
    recorder = Recorder()
    if options.kind == "eagle3":
        recorder = FeatureRecorder(engine, trained_head(engine.plan.inputs.target.arch, options).feature_layers)
    engine.drafter = recorder
    seed = options.seed * 1_000_003 + 2 * number + 1
    params = SamplingParams(temperature=options.temperature, seed=seed)
    requests = [Request(index, tokens, options.new_tokens) for index, tokens in enumerate(asked)]
    done, total = 0, len(requests) * options.new_tokens
    for emission in engine.serve(requests, params):
        done += len(emission.tokens)
        told(ANSWERING, done / total)
    engine.own.target.tap = None
    return recorder.answers
