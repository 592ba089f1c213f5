"""Training an EAGLE-3 head from generated text to the folder that ``--heads`` takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from specplan.errors import InputError
from specplan.heads import Eagle3Head
from specplan.models.names import naming_of
from specplan.plan import ModelInput
from specplan.speed.head_counts import HeadTrace
from specplan_runtime.loading.sources import open_source
from specplan_runtime.training.adamw import AdamW
from specplan_runtime.training.checkpoint import save_checkpoint
from specplan_runtime.training.eagle_model import EagleModel, TargetParts, trained_head
from specplan_runtime.training.eagle_trainer import EagleTrainer
from specplan_runtime.training.feature_shards import FeatureShard, Text, load_feature_shard
from specplan_runtime.training.memory import tile_rows_within
from specplan_runtime.training.options import Told, TrainOptions
from specplan_runtime.training.stages import Setting
from specplan_runtime.training.visits import order, restore

#: Tokens in a row that are measured on what was held out.
MEASURED_DEPTH = 5


@dataclass(frozen=True, slots=True)
class TrainedEagle:
    """A head that was trained.

    Attributes:
        head: its sizes.
        trainer: with the weights.
        token_ids: int64 [V_d], the target's.
    """

    head: Eagle3Head
    trainer: EagleTrainer
    token_ids: torch.Tensor


def train_eagle(setting: Setting, paths: Sequence[Path], told: Told) -> TrainedEagle:
    """Every epoch over every shard, with a checkpoint after each.

    Raises:
        BudgetError: texts that are too long for the budget.
        InputError: nothing to train on, or a checkpoint of something else.
    """
    options, arch = setting.options, setting.target.arch
    head = trained_head(arch, options)
    longest = max(
        len(text.tokens) for path in paths for side in (True, False) for text in _read(setting, path).texts(side)
    )
    tile_rows = tile_rows_within(arch, options, setting.budget_bytes, setting.process_bytes, longest)
    tokens = _frequent_tokens(setting, paths, head.draft_vocab_size)
    parts = _target_parts(setting.target, tokens, _feature_scale(setting, paths), setting.device)
    model = EagleModel(head, arch, parts, options.seed)
    batches = [sum(1 for _ in _batches(_read(setting, path), options, None)) for path in paths]
    if not any(batches):
        raise InputError("no answer is left to train on: give more --tokens or more prompts")
    optimizer = AdamW(model.parameters, options.learning_rate, options.num_epochs * sum(batches))
    trainer = EagleTrainer(
        model, tokens.to(setting.device), arch.vocab_size, arch.logit_softcap, options.num_heads, optimizer, tile_rows
    )
    visits = [(epoch, shard) for epoch in range(options.num_epochs) for shard in order(options, epoch, len(paths))]
    for visit in range(restore(setting, optimizer), len(visits)):
        epoch, number = visits[visit]
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + 1009 * epoch + number)
        losses = [trainer.train_batch(texts) for texts in _batches(_read(setting, paths[number]), options, generator)]
        save_checkpoint(setting.state_path, optimizer.state(), {"visits": visit + 1, "step": optimizer.step})
        means = " ".join(f"{sum(each) / len(each):.2f}" for each in zip(*losses, strict=True))
        told(f"training, epoch {epoch + 1}, loss {means},", (visit + 1) / len(visits))
    return TrainedEagle(head, trainer, tokens)


def held_out_traces(setting: Setting, trained: TrainedEagle, paths: Sequence[Path]) -> list[HeadTrace]:
    """The head's ranks on the answers that were not trained on."""
    texts = (text for path in paths for text in _read(setting, path).texts(held_out=True))
    return [trained.trainer.trace(text, MEASURED_DEPTH) for text in texts]


def _batches(shard: FeatureShard, options: TrainOptions, generator: torch.Generator | None) -> Iterator[list[Text]]:
    """Texts that together have at least ``batch_tokens`` tokens of answers, in a new order; as they are without one."""
    texts = list(shard.texts(held_out=False))
    places = range(len(texts)) if generator is None else torch.randperm(len(texts), generator=generator).tolist()
    batch: list[Text] = []
    for place in places:
        batch.append(texts[place])
        if sum(len(text.states) for text in batch) >= options.batch_tokens:
            yield batch
            batch = []
    if batch:
        yield batch


def _frequent_tokens(setting: Setting, paths: Sequence[Path], count: int) -> torch.Tensor:
    """int64 [count]: the most frequent tokens of the answers that are trained on, then the first ones; ascending."""
    seen = torch.zeros(setting.target.arch.vocab_size, dtype=torch.int64)
    for path in paths:
        for text in _read(setting, path).texts(held_out=False):
            seen += torch.bincount(text.tokens[text.num_prompt_tokens :], minlength=len(seen))
    return torch.sort(torch.argsort(seen, descending=True, stable=True)[:count]).values


def _feature_scale(setting: Setting, paths: Sequence[Path]) -> torch.Tensor:
    """[features, h]: root mean squares over the first shard with answers to train on."""
    for path in paths:
        squares = [text.features.float().square().mean(0) for text in _read(setting, path).texts(held_out=False)]
        if squares:
            return torch.stack(squares).mean(0).sqrt().clamp_min(1e-6)
    raise InputError("no answer is left to train on: give more --tokens or more prompts")


def _target_parts(
    target: ModelInput, token_ids: torch.Tensor, feature_scale: torch.Tensor, device: torch.device
) -> TargetParts:
    """What a head is trained with, read without the rest of the model."""
    arch, names = target.arch, naming_of(target.arch)
    source = open_source(target.reference, target.kind, arch)

    embedding = torch.empty(arch.vocab_size, arch.hidden_size)
    output_rows = torch.empty(len(token_ids), arch.hidden_size)
    for first, rows in source.tiles(f"{names.embedding}.weight"):
        embedding[first : first + len(rows)].copy_(rows)
    for first, rows in source.tiles(f"{names.embedding if arch.tie_word_embeddings else names.head}.weight"):
        places = torch.nonzero((token_ids >= first) & (token_ids < first + len(rows)))[:, 0]
        output_rows[places] = rows[token_ids[places] - first].float()
    norm = torch.cat([rows.float() for _, rows in source.tiles(f"{names.final_norm}.weight")])
    if arch.norm_offset:
        norm += 1
    return TargetParts(*(tensor.to(device) for tensor in (embedding, output_rows, norm, feature_scale)))


def _read(setting: Setting, path: Path) -> FeatureShard:
    return load_feature_shard(path, setting.target.arch.hidden_size, setting.target.arch.vocab_size)
