"""Rows of a matrix in 4 bits, and how floats become that."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specplan.dtypes import INT4_GROUP

#: The code that stands for a group's zero point.
CENTER = 8
_LARGEST = 15
#: A group of zeros has a scale too.
_LEAST_SCALE = 1e-30


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows whose values are scale·(code - 8) + zero, group by group.

    Attributes:
        codes: uint8 [rows, in], 0 to 15.
        scale, zero: float32 [rows, in/32].
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        """Rows and columns."""
        return self.codes.shape

    def __getitem__(self, rows: slice) -> Groups:
        """Some of the rows."""
        return Groups(self.codes[rows], self.scale[rows], self.zero[rows])


def grouped(values: torch.Tensor) -> Groups:
    """Floats [rows, in] in 4 bits: 15 steps from a group's least value to its largest, 0 among them.

    Scale and zero point are rounded to bfloat16, as they are stored, before codes are found, so that errors do not add
    up: a value is then at most 0.55 steps off.
    """
    parts = values.reshape(len(values), -1, INT4_GROUP)
    least, most = parts.amin(-1).clamp_max_(0), parts.amax(-1).clamp_min_(0)
    scale = _rounded((most - least).div_(_LARGEST).clamp_min_(_LEAST_SCALE))
    zero = _rounded(least + CENTER * scale)
    steps = (parts - zero[..., None]).div_(scale[..., None]).add_(CENTER).round_().clamp_(0, _LARGEST)
    return Groups(steps.to(torch.uint8).view(values.shape), scale, zero)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.bfloat16().float()
