"""The blocks that follow attention: a dense MLP, or a mixture of experts."""

from __future__ import annotations

import torch

from specplan.arch import ModelArch, MoeArch
from specplan_runtime.parameters import AnyLinear, Experts, Layer, Parameters
from specplan_runtime.workspace import ExpertBuffers, Workspace, write_integers


def activate(x: torch.Tensor, name: str) -> torch.Tensor:
    """The activation that config.json calls ``name``, in place."""
    if name == "silu":
        return torch.nn.functional.silu(x, inplace=True)
    approximate = "none" if name == "gelu" else "tanh"
    return torch.ops.aten.gelu_(x, approximate=approximate)  # type: ignore[no-any-return]


def dense(work: Workspace, layer: Layer, model: Parameters, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [fed, h] of a dense MLP, and its fused gate and up that a kernel may have allocated.

    Args:
        work: buffers of the pass's phase.
        layer: weights.
        model: that it belongs to.
        x: [fed, h].
    """
    assert layer.gate_up is not None
    assert layer.down is not None
    contiguous = model.precision.contiguous
    return _gated(layer.gate_up, layer.down, model.arch, x, work.inner, work.projected, contiguous)


def _gated(
    gate_up: AnyLinear,
    down: AnyLinear,
    arch: ModelArch,
    x: torch.Tensor,
    inner_place: torch.Tensor | None,
    place: torch.Tensor | None,
    contiguous: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    both = gate_up(x, None if contiguous else inner_place)
    inner = both.shape[1] // (1 + arch.gated_mlp)
    gate = activate(both[:, :inner], arch.hidden_act)
    if arch.gated_mlp:
        product = inner_place[: gate.numel()].view(gate.shape) if contiguous and inner_place is not None else gate
        gate = torch.mul(gate, both[:, inner:], out=product)
    return down(gate, place), both


def mixture(work: Workspace, experts: Experts, model: Parameters, x: torch.Tensor, num_rows: int) -> int:
    """A mixture of experts; its output is left in ``work.projected``.

    Args:
        work: buffers of the pass's phase; token ids and positions are no longer needed.
        experts: weights.
        model: that they belong to.
        x: [fed, h].
        num_rows: T, rows that count.

    Returns:
        the most bytes that kernels held outside the arena at one time.
    """
    buffers, arch, precision = work.expert, model.arch, model.precision
    assert buffers is not None
    assert work.projected is not None
    assert arch.moe is not None
    chosen = _route(buffers, experts, arch.moe, x)
    total = work.projected[: x.numel()].view(x.shape).zero_()
    most = 0
    for expert, visits in enumerate(_visits(chosen, len(experts.down), num_rows)):
        if not visits:
            continue
        rows = [row for row, _ in visits]
        flat = [row * arch.moe.num_experts_per_tok + slot for row, slot in visits]
        spare = [rows[0]] * max(0, precision.least_rows - len(rows))  # products are fed as many rows as anywhere else
        write_integers(work.ids, rows + spare)
        write_integers(work.positions, flat)
        indices, count = work.ids[: len(rows) + len(spare)], len(rows)
        gathered = torch.index_select(x, 0, indices, out=buffers.rows[: len(indices)])
        gate_up, down = experts.gate_up[expert], experts.down[expert]
        output, both = _gated(gate_up, down, arch, gathered, buffers.inner, buffers.output, precision.contiguous)
        most = max(most, output.nbytes + both.nbytes)
        share = torch.index_select(buffers.weights.view(-1), 0, work.positions[:count], out=buffers.sums[:count])
        total.index_add_(0, indices[:count], output[:count].mul_(share[:, None]))
        del output, both
    return most


def _route(buffers: ExpertBuffers, experts: Experts, moe: MoeArch, x: torch.Tensor) -> list[list[int]]:
    """For each row the experts that it visits; their weights are left in ``buffers.weights``."""
    fed, k = x.shape[0], moe.num_experts_per_tok
    scores = experts.router(x, buffers.router)
    probs = buffers.probs[:fed].copy_(scores)
    torch.softmax(probs, -1, out=probs)
    weights, chosen = buffers.weights[:fed], buffers.chosen[:fed]
    torch.topk(probs, k, out=(weights, chosen))
    if moe.norm_topk_prob:
        weights.div_(torch.sum(weights, -1, out=buffers.sums[:fed])[:, None])
    return chosen.tolist()


def _visits(chosen: list[list[int]], num_experts: int, num_rows: int) -> list[list[tuple[int, int]]]:
    """For each expert the (row, which of the row's choices) that visit it."""
    visits: list[list[tuple[int, int]]] = [[] for _ in range(num_experts)]
    for row in range(num_rows):
        for slot, expert in enumerate(chosen[row]):
            visits[expert].append((row, slot))
    return visits
