"""``Assembly``: what an engine works with, whoever computes the forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

import torch

from specplan.errors import InputError
from specplan.plan import ModelInput, Plan
from specplan_runtime.drafters.base import Drafter
from specplan_runtime.forward import Forward, Work
from specplan_runtime.topology import Topology


@dataclass(slots=True)
class Assembly(Generic[Work]):
    """Models loaded, caches and buffers allocated.

    Attributes:
        device: where everything lives.
        target: the verified model.
        decoders: those of this process: the target's and, with a draft model, the draft's.
        draft: whose cache the drafter fills: the draft's, wherever it is, or without one the target's.
        drafter: of the plan.
        workspaces: by phase.
        prefill_chunk: tokens per prefill pass.
        topology: rows of the verify pass.
        eos_token_ids: tokens that end generation.
        measured: bytes by ledger item, as they were allocated.
        takes_ragged: the target's passes may have fewer tokens of some sequences than of others.
    """

    device: torch.device
    target: Forward[Work]
    decoders: tuple[Forward[Work], ...]
    draft: Forward[Work]
    drafter: Drafter
    workspaces: dict[str, Work]
    prefill_chunk: int
    topology: Topology
    eos_token_ids: tuple[int, ...]
    measured: Mapping[str, int]
    takes_ragged: bool

    def largest_kernel_output(self) -> int:
        """The most that kernels held outside the plan's places at one time, as counted by the decoders."""
        return max(decoder.largest_output_bytes for decoder in self.decoders)


def check_ledger(plan: Plan, counted: Mapping[str, int]) -> None:
    """Hold the plan's ledger against what the runtime is about to allocate, item by item.

    Args:
        plan: whose ledger is checked.
        counted: bytes by item.

    Raises:
        InputError: they differ: an edited plan, or one of another version.
    """
    unplaced = ("kernel_output", *(f"{item.phase}.forward" for item in plan.ledger.items))
    planned = {item.name: item.bytes for item in plan.ledger.owned_items() if item.name not in unplaced}
    for name in planned.keys() | counted.keys():
        mine = counted.get(name, 0)
        if planned.get(name, 0) != mine:
            raise InputError(
                f"plan: {name} is {planned.get(name, 0)} bytes in its ledger, this runtime places {mine}: analyze again"
            )


def models_of(plan: Plan) -> list[ModelInput]:
    """The target, and the draft where there is one."""
    return [model for model in (plan.inputs.target, plan.inputs.draft) if model is not None]
