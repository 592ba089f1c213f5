"""``train_heads``: generate, train, measure; every stage goes on where an interrupted one stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from specplan.acceptance_profiles import AcceptanceProfile
from specplan.errors import InputError
from specplan.models.names import naming_of
from specplan.plan import ModelInput
from specplan.speed.head_counts import HeadTrace
from specplan_runtime.loading.sources import open_source
from specplan_runtime.training.checkpoint import save_checkpoint
from specplan_runtime.training.evaluate import traces
from specplan_runtime.training.memory import tile_rows_within
from specplan_runtime.training.options import Kind, Told, TrainOptions
from specplan_runtime.training.output import HeadFolder, eagle_folder, medusa_folder, profile_of, write_heads
from specplan_runtime.training.shards import Shard, load_shard
from specplan_runtime.training.stages import Setting, generate
from specplan_runtime.training.train_eagle import held_out_traces, train_eagle
from specplan_runtime.training.trainer import HeadTrainer
from specplan_runtime.training.visits import order, restore


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out.

    Attributes:
        folder: with the heads.
        kind: whose heads.
        num_tokens: of the text, held-out answers included.
        held_out: traces of the answers that were not trained on.
        profile: acceptance, measured on them.
    """

    folder: Path
    kind: Kind
    num_tokens: int
    held_out: list[HeadTrace]
    profile: AcceptanceProfile


def train_heads(setting: Setting, told: Told = lambda *_: None) -> Trained:
    """Train Medusa heads that share a target's output head, or an EAGLE-3 head.

    Args:
        setting: target, folder, options, budget.
        told: what is being done.

    Raises:
        BudgetError: the budget is too small.
        InputError: a folder with another training, or prompts that cannot be used.
    """
    tile = tile_rows_within(setting.target.arch, setting.options, setting.budget_bytes, setting.process_bytes)
    paths = generate(setting, told)
    if not any(bool(_read(setting, path).held_out.any()) for path in paths):
        raise InputError("no answer was held out to measure with: begin again in another folder with more prompts")
    total = sum(_read(setting, path).num_tokens for path in paths)
    if setting.options.kind == "eagle3":
        held_out, heads = _train_eagle(setting, paths, told)
    else:
        held_out, heads = _train_medusa(setting, paths, tile, told)
    profile = profile_of(setting, held_out)
    write_heads(setting, heads, profile)
    told("measuring", 1.0)
    return Trained(setting.folder, setting.options.kind, total, held_out, profile)


def _train_medusa(setting: Setting, paths: Sequence[Path], tile: int, told: Told) -> tuple[list[HeadTrace], HeadFolder]:
    """Traces of what was held out, and what to write."""
    head = output_head(setting.target, setting.device)
    trainer = _train(setting, head, paths, tile, told)
    told("measuring", 0.0)
    held_out = [found for path in paths for found in traces(trainer, head, [_read(setting, path).chosen(True)], tile)]
    return held_out, medusa_folder(setting, trainer)


def _train_eagle(setting: Setting, paths: Sequence[Path], told: Told) -> tuple[list[HeadTrace], HeadFolder]:
    """The same for an EAGLE-3 head."""
    trained = train_eagle(setting, paths, told)
    told("measuring", 0.0)
    return held_out_traces(setting, trained, paths), eagle_folder(setting, trained)


def output_head(target: ModelInput, device: torch.device) -> torch.Tensor:
    """The target's output head, float32 [V, h], read without the rest of the model.

    Raises:
        InputError: files that cannot be read, or not those of the model.
    """
    arch, names = target.arch, naming_of(target.arch)
    source = open_source(target.reference, target.kind, arch)
    found = torch.empty(arch.vocab_size, arch.hidden_size, device=device)
    for first, rows in source.tiles(f"{names.embedding if arch.tie_word_embeddings else names.head}.weight"):
        found[first : first + len(rows)].copy_(rows)
    return found


def _train(setting: Setting, head: torch.Tensor, paths: Sequence[Path], tile_rows: int, told: Told) -> HeadTrainer:
    """Every epoch over every shard, with a checkpoint after each."""
    options = setting.options
    sizes = [_read(setting, path).chosen(False).num_tokens for path in paths]
    if not any(sizes):
        raise InputError("no answer is left to train on: give more --tokens or more prompts")
    num_steps = options.num_epochs * sum(-(-size // options.batch_tokens) for size in sizes)
    trainer = HeadTrainer(head, options, num_steps, tile_rows)
    visits = [(epoch, shard) for epoch in range(options.num_epochs) for shard in order(options, epoch, len(paths))]
    done = restore(setting, trainer.optimizer)
    for visit in range(done, len(visits)):
        epoch, number = visits[visit]
        loss = _visit(trainer, head, _read(setting, paths[number]).chosen(False), options, epoch, number)
        numbers = {"visits": visit + 1, "step": trainer.optimizer.step}
        save_checkpoint(setting.state_path, trainer.optimizer.state(), numbers)
        losses = " ".join(f"{each:.2f}" for each in loss)
        told(f"training, epoch {epoch + 1}, loss {losses},", (visit + 1) / len(visits))
    return trainer


def _visit(
    trainer: HeadTrainer, head: torch.Tensor, shard: Shard, options: TrainOptions, epoch: int, number: int
) -> list[float]:
    """Train on one shard; returns the mean loss of each head."""
    if not shard.num_tokens:
        return []
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + 1009 * epoch + number)
    labels = shard.labels(options.num_heads)
    looked_at = _looked_at(labels, head.shape[0], options.loss_tokens, generator)
    if looked_at is not None:
        places = torch.full((head.shape[0] + 1,), -1)
        places[looked_at] = torch.arange(len(looked_at))
        labels = places[labels]
    trainer.use_output_head(head if looked_at is None else head[looked_at.to(head.device)])
    order = torch.randperm(shard.num_tokens, generator=generator)
    sums, counts = [0.0] * options.num_heads, [0] * options.num_heads
    for rows in torch.split(order, options.batch_tokens):
        losses = trainer.train_batch(shard.states[rows].to(head.device), labels[:, rows].to(head.device))
        for index, loss in enumerate(losses):
            if loss == loss:  # not nan
                sums[index] += loss
                counts[index] += 1
    return [total / max(1, count) for total, count in zip(sums, counts, strict=True)]


def _looked_at(
    labels: torch.Tensor, vocab_size: int, loss_tokens: int, generator: torch.Generator
) -> torch.Tensor | None:
    """Entries of the vocabulary that the loss compares: all that occur, and others drawn anew for every visit."""
    if not 0 < loss_tokens < vocab_size:
        return None
    occurring = torch.unique(labels[labels >= 0])
    drawn = torch.randperm(vocab_size, generator=generator)
    others = drawn[~torch.isin(drawn, occurring)][: max(0, loss_tokens - len(occurring))]
    return torch.cat([occurring, others])


def _read(setting: Setting, path: Path) -> Shard:
    return load_shard(path, setting.target.arch.hidden_size, setting.target.arch.vocab_size)
