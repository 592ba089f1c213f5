"""Medusa heads in training: residual blocks that learn, the target's output head that does not.

The loss never goes through autograd: its gradient with respect to what a head's blocks give out is
(softmax(y·Wᵀ) - onehot)·W, computed for a tile of rows in one buffer.
"""

from __future__ import annotations

import math

import torch

from specplan_runtime.training.adamw import AdamW
from specplan_runtime.training.options import TrainOptions


class HeadTrainer:
    """Heads [K], each of L blocks x + silu(x·Wᵀ + b), and AdamW for them in float32.

    Blocks begin at zero, so that a head begins as the target's own output head (Medusa, 2401.10774).

    Args:
        output_head: float32 [V', h], of the target, all of its rows or some.
        options: heads, layers, rates.
        num_steps: of the whole training, for the schedule.
        tile_rows: rows whose logits exist at one time.
    """

    def __init__(self, output_head: torch.Tensor, options: TrainOptions, num_steps: int, tile_rows: int) -> None:
        h = output_head.shape[1]
        self._options, self._tile_rows = options, tile_rows
        self.parameters: dict[str, torch.Tensor] = {}
        for head in range(options.num_heads):
            for layer in range(options.num_layers):
                for name, shape in (("weight", (h, h)), ("bias", (h,))):
                    zeros = torch.zeros(shape, device=output_head.device, requires_grad=True)
                    self.parameters[f"{head}.{layer}.linear.{name}"] = zeros
        self.optimizer = AdamW(self.parameters, options.learning_rate, num_steps)
        self.use_output_head(output_head)

    @property
    def num_heads(self) -> int:
        """K."""
        return self._options.num_heads

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self._head.device

    def use_output_head(self, output_head: torch.Tensor) -> None:
        """Look at these rows of the target's output head, [V', h], from now on."""
        self._head = output_head
        self._logits = torch.empty(self._tile_rows, output_head.shape[0], device=output_head.device)

    def outputs(self, head: int, x: torch.Tensor) -> torch.Tensor:
        """What the blocks of a head make of states [n, h]."""
        for layer in range(self._options.num_layers):
            weight, bias = (self.parameters[f"{head}.{layer}.linear.{name}"] for name in ("weight", "bias"))
            x = x + torch.nn.functional.silu(torch.nn.functional.linear(x, weight, bias))
        return x

    @torch.no_grad()
    def logits(self, head: int, states: torch.Tensor) -> torch.Tensor:
        """What a head thinks after states [n, h], n at most the tile: [n, V'], overwritten by the next call."""
        return torch.mm(self.outputs(head, states), self._head.T, out=self._logits[: len(states)])

    def train_batch(self, states: torch.Tensor, labels: torch.Tensor) -> list[float]:
        """One step of the optimizer.

        Args:
            states: [n, h].
            labels: int64 [K, n], indices into the rows of the output head; -1 where there is nothing to predict.

        Returns:
            the mean cross-entropy of each head, nan where it had nothing to predict.
        """
        losses = []
        for head in range(self._options.num_heads):
            wanted = labels[head] >= 0
            x, y = states[wanted], labels[head][wanted]
            if not len(x):
                losses.append(math.nan)
                continue
            outputs = self.outputs(head, x)
            loss, gradient = self._loss(outputs.detach(), y)
            outputs.backward(gradient)  # type: ignore[no-untyped-call]
            losses.append(loss)
        self.optimizer.update()
        return losses

    @torch.no_grad()
    def _loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Mean cross-entropy over [n] rows, and its gradient with respect to ``outputs`` [n, h]."""
        gradient = torch.empty_like(outputs)
        total, count = 0.0, len(labels)
        for start in range(0, count, self._tile_rows):
            rows, wanted = outputs[start : start + self._tile_rows], labels[start : start + self._tile_rows, None]
            logits = torch.mm(rows, self._head.T, out=self._logits[: len(rows)])
            logits.sub_(logits.amax(dim=1, keepdim=True))
            picked = logits.gather(1, wanted)
            sums = logits.exp_().sum(dim=1, keepdim=True)
            total += float((sums.log() - picked).sum())
            logits.div_(sums).scatter_add_(1, wanted, torch.full_like(sums, -1.0)).div_(count)
            torch.mm(logits, self._head, out=gradient[start : start + len(rows)])
        return total / count, gradient
