"""Shards of generated text with the target's features: what an EAGLE-3 head is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from specplan.atomic import write_atomically
from specplan.errors import InputError
from specplan.heads import NUM_FEATURES
from specplan_runtime.training.checkpoint import read_tensors
from specplan_runtime.training.feature_recorder import RecordedFeatures
from specplan_runtime.training.recorder import Recorded
from specplan_runtime.training.shards import Shard, checked_shard, shard_of


@dataclass(frozen=True, slots=True)
class Text:
    """One prompt with its answer.

    Attributes:
        tokens: int64 [n], of both.
        features: [n - 1, features, h], of every token but the last.
        states: float32 [m, h], the normalized hidden state that each of the answer's m tokens was chosen from.
        finished: the last token ends the answer; otherwise it was cut.
    """

    tokens: torch.Tensor
    features: torch.Tensor
    states: torch.Tensor
    finished: bool

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens before the answer."""
        return len(self.tokens) - len(self.states)


@dataclass(frozen=True, slots=True)
class FeatureShard:
    """Answers one behind the other, with their prompts.

    Attributes:
        answers: tokens and states of the answers.
        prompts: int64, tokens of the prompts.
        prompt_lengths: int64 [a].
        features: [.., features, h], of every token of prompt and answer but the last, text by text.
    """

    answers: Shard
    prompts: torch.Tensor
    prompt_lengths: torch.Tensor
    features: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """Of all answers."""
        return self.answers.num_tokens

    def texts(self, held_out: bool) -> Iterator[Text]:
        """Those that were held out, or those that were not."""
        answers = self.answers
        first = before = seen = 0
        for number, (size, prompt) in enumerate(
            zip(answers.lengths.tolist(), self.prompt_lengths.tolist(), strict=True)
        ):
            count = prompt + size - 1
            if bool(answers.held_out[number]) == held_out:
                own = slice(first, first + size)
                tokens = torch.cat([self.prompts[before : before + prompt], answers.tokens[own]])
                features = self.features[seen : seen + count]
                yield Text(tokens, features, answers.states[own], bool(answers.finished[number]))
            first, before, seen = first + size, before + prompt, seen + count


def feature_shard_of(recorded: Sequence[Recorded]) -> FeatureShard:
    """Recorded answers as a shard."""
    answers = [answer for answer in recorded if isinstance(answer, RecordedFeatures)]
    prompts = [answer.sequence.tokens[: answer.sequence.num_prompt_tokens] for answer in answers]
    return FeatureShard(
        shard_of(answers),
        torch.tensor([token for prompt in prompts for token in prompt]),
        torch.tensor([len(prompt) for prompt in prompts]),
        torch.cat([part for answer in answers for part in answer.features]),
    )


def save_feature_shard(shard: FeatureShard, path: Path) -> None:
    """Write a shard atomically.

    Raises:
        EnvironmentProblem: the disk is full, or the folder not writable.
    """
    tensors = {name: getattr(shard.answers, name) for name in Shard.__slots__}
    own = {name: getattr(shard, name) for name in ("prompts", "prompt_lengths", "features")}
    write_atomically(path, save(tensors | own))


def load_feature_shard(path: Path, hidden_size: int, vocab_size: int) -> FeatureShard:
    """Read a shard.

    Raises:
        InputError: a damaged file, or one of another model.
    """
    tensors, _ = read_tensors(path)
    answers = checked_shard(tensors, path, hidden_size, vocab_size)
    try:
        shard = FeatureShard(answers, *(tensors[name] for name in ("prompts", "prompt_lengths", "features")))
    except KeyError:
        raise InputError(f"{path}: not a shard of text with features") from None
    total = int(shard.prompt_lengths.sum())
    num_features = total + answers.num_tokens - len(answers.lengths)
    fits = shard.prompts.shape == (total,) and shard.features.shape == (num_features, NUM_FEATURES, hidden_size)
    if not fits or shard.prompt_lengths.shape != answers.lengths.shape or int(shard.prompt_lengths.min()) < 1:
        raise InputError(f"{path}: not a shard of this target's text")
    if not 0 <= int(shard.prompts.min()) <= int(shard.prompts.max()) < vocab_size:
        raise InputError(f"{path}: not a shard of this target's text")
    return shard
