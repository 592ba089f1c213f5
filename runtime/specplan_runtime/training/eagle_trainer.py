"""Training an EAGLE-3 head: what the target thought of every token, against what the head says after each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from specplan.speed.head_counts import HeadTrace
from specplan_runtime.calibration.answers import TOPK
from specplan_runtime.training.adamw import AdamW
from specplan_runtime.training.eagle_model import EagleModel
from specplan_runtime.training.feature_shards import Text

#: How much less each further step of a chain counts (train_eagle3_online.py of sgl-project/SpecForge).
_LATER = 0.8


@dataclass(frozen=True, slots=True)
class _Tile:
    """Entries of a text whose next but one token is compared.

    Attributes:
        entries: int64 [r], in the text.
        wanted: float32 [r, V_d], the target's distribution of that token over those that the head proposes.
    """

    entries: torch.Tensor
    wanted: torch.Tensor


class EagleTrainer:
    """A head, and AdamW for it.

    The loss is the cross-entropy between the target's distribution over the tokens that the head proposes and the
    head's. It never goes through autograd: its gradient with respect to the logits is the difference of the two, a tile
    of rows at a time. Tokens that the head does not propose are left out.

    Args:
        model: the head.
        token_ids: int64 [V_d], tokens that it proposes, in ascending order.
        vocab_size: V.
        softcap: of the target's logits, None without.
        num_steps: that the head is unrolled over.
        optimizer: over the model's parameters.
        tile_rows: rows whose logits exist at one time.
    """

    def __init__(
        self,
        model: EagleModel,
        token_ids: torch.Tensor,
        vocab_size: int,
        softcap: float | None,
        num_steps: int,
        optimizer: AdamW,
        tile_rows: int,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._softcap, self._num_steps, self._tile_rows = softcap, num_steps, tile_rows
        self.places = torch.full((vocab_size,), -1, device=token_ids.device)
        self.places[token_ids] = torch.arange(len(token_ids), device=token_ids.device)
        output = model.parts.output_rows
        self._wanted, self._logits = (torch.empty(tile_rows, len(output), device=output.device) for _ in range(2))

    def train_batch(self, texts: Sequence[Text]) -> list[float]:
        """One step of the optimizer; returns the mean loss of each unrolled step, 0 where there was nothing."""
        entries = [self._entries(text) for text in texts]
        total = sum(map(len, entries))
        if not total:
            return [0.0] * self._num_steps
        sums = [0.0] * self._num_steps
        for text, own in zip(texts, entries, strict=True):
            if len(own):
                self._learn(text, own, sums, total)
        self.optimizer.update()
        return [loss / total for loss in sums]

    @torch.no_grad()
    def trace(self, text: Text, depth: int) -> HeadTrace:
        """The ranks that the head gives to the tokens that came, ``depth`` steps from every token of the answer."""
        outputs = self._outputs(text, depth)
        size, begin = len(text.states), text.num_prompt_tokens - 1
        ranks = []
        for step, output in enumerate(outputs):
            last = max(0, size - 1 - step)
            rows = output[begin + step : begin + step + last]
            wanted = self.places[text.tokens[begin + step + 2 : begin + step + 2 + last].to(self.places.device)]
            ranks.append(tuple(self._ranks(rows, wanted)))
        return HeadTrace(tuple(ranks), size, text.finished)

    def _outputs(self, text: Text, num_steps: int) -> list[torch.Tensor]:
        device = self.places.device
        return self.model.unrolled(text.features.to(device), text.tokens[1:].to(device), num_steps)

    def _entries(self, text: Text) -> torch.Tensor:
        """Entries whose next but one token is of the answer and one that the head proposes."""
        first = max(text.num_prompt_tokens - 2, self._num_steps - 1)
        entries = torch.arange(first, len(text.tokens) - 2)
        return entries[self.places.cpu()[text.tokens[entries + 2]] >= 0]

    def _learn(self, text: Text, entries: torch.Tensor, sums: list[float], total: int) -> None:
        """Add a text's gradients to those of the batch, and its losses to ``sums``."""
        outputs = self._outputs(text, self._num_steps)
        gradients = [torch.zeros_like(output) for output in outputs]
        for tile in self._tiles(text, entries):
            for step, output in enumerate(outputs):
                weight = _LATER**step / total
                sums[step] += self._compare(tile, output.detach()[tile.entries], gradients[step], weight)
        torch.autograd.backward(outputs, gradients)

    @torch.no_grad()
    def _tiles(self, text: Text, entries: torch.Tensor) -> Iterator[_Tile]:
        """What the target thought, tile by tile; overwritten by the next one."""
        for own in torch.split(entries, self._tile_rows):
            states = text.states[own + 2 - text.num_prompt_tokens].to(self.places.device)
            wanted = torch.mm(states, self.model.parts.output_rows.T, out=self._wanted[: len(own)])
            if self._softcap is not None:
                wanted.div_(self._softcap).tanh_().mul_(self._softcap)
            torch.softmax(wanted, -1, out=wanted)
            yield _Tile(own.to(self.places.device), wanted)

    @torch.no_grad()
    def _compare(self, tile: _Tile, rows: torch.Tensor, gradient: torch.Tensor, weight: float) -> float:
        """The loss of some rows [r, h], summed; its gradients are put into ``gradient``."""
        head = self.model.parts.output_rows
        logits = torch.mm(rows, head.T, out=self._logits[: len(rows)])
        logits.sub_(logits.amax(dim=1, keepdim=True))
        expected = torch.linalg.vecdot(tile.wanted, logits)
        logits.exp_()
        sums = logits.sum(dim=1, keepdim=True)
        loss = float((sums.log()[:, 0] - expected).sum())
        logits.div_(sums).sub_(tile.wanted).mul_(weight)
        gradient[tile.entries] = logits @ head
        return loss

    def _ranks(self, rows: torch.Tensor, wanted: torch.Tensor) -> Iterator[int]:
        """Ranks of tokens (places among those that the head proposes), -1 where they are not among the best."""
        head = self.model.parts.output_rows
        for own, tokens in zip(torch.split(rows, self._tile_rows), torch.split(wanted, self._tile_rows), strict=True):
            logits = linear(own, head)
            rank = (logits > logits.gather(1, tokens.clamp_min(0)[:, None])).sum(dim=1)
            rank[(tokens < 0) | (rank >= TOPK)] = -1
            yield from rank.tolist()
