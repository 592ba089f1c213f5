"""``AdamW``: the optimizer of heads, in float32, with a warm-up and a cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

_BETA1, _BETA2, _EPSILON, _DECAY = 0.9, 0.99, 1e-8, 0.01
_WARMUP_STEPS = 20
_LEAST_SHARE = 0.1


class AdamW:
    """AdamW (Loshchilov and Hutter, 1711.05101).

    Args:
        parameters: by name; their gradients are used up by every step.
        learning_rate: at the start; it falls to a tenth along a cosine.
        num_steps: of the whole training.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], learning_rate: float, num_steps: int) -> None:
        self.parameters = parameters
        self.first = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
        self._learning_rate, self._num_steps = learning_rate, num_steps
        self.step = 0

    @torch.no_grad()
    def update(self) -> None:
        """One step along the gradients that there are."""
        self.step += 1
        rate = self.rate()
        for name, parameter in self.parameters.items():
            gradient, first, second = parameter.grad, self.first[name], self.second[name]
            if gradient is None:
                continue
            first.lerp_(gradient, 1 - _BETA1)
            second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            divisor = (second / (1 - _BETA2**self.step)).sqrt_().add_(_EPSILON)
            parameter.mul_(1 - rate * _DECAY)
            parameter.addcdiv_(first, divisor, value=-rate / (1 - _BETA1**self.step))
            parameter.grad = None

    def rate(self) -> float:
        """The learning rate of this step."""
        done = min(1.0, self.step / max(1, self._num_steps))
        cosine = _LEAST_SHARE + (1 - _LEAST_SHARE) * (1 + math.cos(math.pi * done)) / 2
        return self._learning_rate * min(1.0, self.step / _WARMUP_STEPS) * cosine

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint has to hold besides the step."""
        kinds = {"head": self.parameters, "first": self.first, "second": self.second}
        return {f"{kind}.{name}": tensor for kind, held in kinds.items() for name, tensor in held.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Go on from a checkpoint.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: a tensor of another shape.
        """
        for name, tensor in self.state().items():
            if tensors[name].shape != tensor.shape:
                raise RuntimeError(f"{name} is {list(tensors[name].shape)}")
            tensor.copy_(tensors[name])
        self.step = step
