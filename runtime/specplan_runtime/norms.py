"""Norms over the hidden size and over heads, computed in float32."""

from __future__ import annotations

import torch

from specplan_runtime.distributed.links import Links
from specplan_runtime.parameters import Norm
from specplan_runtime.workspace import Workspace


def apply_norm(x: torch.Tensor, norm: Norm, epsilon: float, out: torch.Tensor, work: Workspace) -> torch.Tensor:
    """RMS norm (Zhang and Sennrich, 1910.07467), or layer norm (Ba et al., 1607.06450) where the norm has a bias.

    Args:
        x: [rows, h].
        norm: weight and bias.
        epsilon: added to the mean square.
        out: [rows, h], another tensor than ``x``; returned.
        work: statistics and, for half precision, a float32 copy of the rows.
    """
    rows = x.shape[0]
    values = x if work.float_rows is None else work.float_rows[:rows].copy_(x)
    if work.mean is not None:
        mean = torch.mean(values, dim=-1, keepdim=True, out=work.mean[:rows])
        values = torch.sub(values, mean, out=out if work.float_rows is None else values)
    scale = _inverse_rms(values, (-1,), epsilon, work.mean_square[:rows], None)
    if work.float_rows is None:
        torch.mul(values, scale, out=out)
    else:
        out.copy_(values.mul_(scale))
    out.mul_(norm.weight)
    if norm.bias is not None:
        out.add_(norm.bias)
    return out


def normalize_heads(x: torch.Tensor, weight: torch.Tensor, epsilon: float, over: Links | None, work: Workspace) -> None:
    """RMS norm of queries or keys in place.

    Args:
        x: [rows, heads, d].
        weight: [d], or [heads·d] when all heads are normalized together.
        epsilon: added to the mean square.
        over: links to the ranks that have the other heads, when all are normalized together; None for each by itself.
        work: statistics and, for half precision, a float32 copy.
    """
    assert work.head_square is not None
    rows, heads, d = x.shape
    count = heads if over is None else 1
    square = work.head_square[: rows * count].view(rows, count, 1)
    dims = (2,) if over is None else (1, 2)
    if work.head_rows is None:
        x.mul_(_inverse_rms(x, dims, epsilon, square, over))
    else:
        values = work.head_rows[: x.numel()].view(x.shape).copy_(x)
        x.copy_(values.mul_(_inverse_rms(values, dims, epsilon, square, over)))
    x.mul_(weight.view(-1, d))


def _inverse_rms(
    x: torch.Tensor, dims: tuple[int, ...], epsilon: float, place: torch.Tensor, over: Links | None
) -> torch.Tensor:
    torch.linalg.vector_norm(x, dim=dims, keepdim=True, out=place)
    count = 1
    for dim in dims:
        count *= x.shape[dim]
    place.square_()
    if over is not None:
        over.add_up(place)
        count *= over.parts
    return place.div_(count).add_(epsilon).rsqrt_()
