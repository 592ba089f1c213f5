"""Does a plan still fit, and is it still true? Formulas are needed for plans of other code only: plans have ledgers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from specplan.code_hash import code_sha256
from specplan.device import DeviceSpec
from specplan.errors import InputError
from specplan.models.replace import stale, stale_heads
from specplan.plan import Plan, Spread
from specplan.units import format_exact_bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a plan.

    Attributes:
        kind: ``does-not-fit`` or ``stale``.
        message: one sentence.
        shortfall_bytes: bytes missing, None where bytes are not the matter.
    """

    kind: str
    message: str
    shortfall_bytes: int | None = None


def check_plan(plan: Plan, device: DeviceSpec | None) -> tuple[Finding, ...]:
    """All findings of a plan; none means that it fits and is true.

    Args:
        plan: as read.
        device: check against this one instead of the plan's own.

    Raises:
        InputError: cannot tell: a model is gone, or the device is of another kind than the plan was made for.
    """
    if plan.spread is None:
        return (*_fit(plan, device or plan.inputs.device), *_stale(plan), *_of_other_formulas(plan))
    return (*_fit_ranks(plan, plan.spread, device), *_stale(plan), *_of_other_formulas(plan))


def peak_on(plan: Plan, device: DeviceSpec) -> int:
    """Peak of the plan's ledger with another device's fixed items.

    Raises:
        InputError: a device of another kind, whose runtime needs other items.
    """
    planned = plan.inputs.device
    if device.kind != planned.kind:
        raise InputError(
            f"cannot tell whether a plan for {planned.name} ({planned.kind}) fits {device.name} ({device.kind}): "
            f"analyze with --gpu {device.name}"
        )
    return plan.peak_bytes - _fixed_bytes(planned) + _fixed_bytes(device)


def _fixed_bytes(device: DeviceSpec) -> int:
    """Items of the ledger that are the device's, not the plan's."""
    return int(device.context_bytes.value) + int(device.cublas_workspace_bytes.value)


def _fit(plan: Plan, device: DeviceSpec) -> list[Finding]:
    peak, memory, budget = peak_on(plan, device), int(device.memory_bytes.value), plan.inputs.budget_bytes
    findings = []
    for limit, what in ((budget, "its budget"), (memory, f"the memory of {device.name}")):
        if peak > limit:
            needs, has, lacks = map(format_exact_bytes, (peak, limit, peak - limit))
            message = f"needs {needs} bytes, {what} is {has}: {lacks} too many"
            findings.append(Finding("does-not-fit", message, peak - limit))
    if budget > memory >= peak:
        asked, has = map(format_exact_bytes, (budget, memory))
        findings.append(Finding("does-not-fit", f"its budget of {asked} bytes is more than {device.name} has ({has})"))
    return findings


def _fit_ranks(plan: Plan, spread: Spread, device: DeviceSpec | None) -> Iterator[Finding]:
    """Findings of ranks, those that are alike once."""
    for kind in spread.kinds:
        if device is not None and device.name != kind.device.name:
            ranks = spread.parallelism.num_ranks
            raise InputError(
                f"cannot tell whether a plan for {ranks} devices fits {device.name}: "
                f"analyze with --gpu {device.name} --num-gpus {ranks}"
            )
        for finding in _fit(plan.seen_from(kind.ranks[0]), kind.device):
            yield dataclasses.replace(finding, message=f"rank {kind.ranks[0]} {finding.message}")


def _stale(plan: Plan) -> list[Finding]:
    findings = []
    for role, model in (("target", plan.inputs.target), ("draft", plan.inputs.draft)):
        if model is None:
            continue
        try:
            reason = stale(model)
        except InputError as error:
            raise InputError(f"cannot tell whether the {role} changed: {error}") from None
        if reason is not None:
            findings.append(Finding("stale", f"{role} {reason}: analyze again"))
    if plan.inputs.head_files is not None:
        try:
            reason = stale_heads(plan.inputs.head_files, plan.inputs.target.arch)
        except InputError as error:
            raise InputError(f"cannot tell whether the heads changed: {error}") from None
        if reason is not None:
            findings.append(Finding("stale", f"heads {reason}: analyze again"))
    return findings


def _of_other_formulas(plan: Plan) -> Iterator[Finding]:
    """A finding where this specplan would give the plan another ledger: its runtime refuses it."""
    if plan.code_sha256 == code_sha256():
        return
    from specplan.formulas.current import changed_item  # imports sympy: a second

    name = changed_item(plan)
    if name is not None:
        yield Finding("stale", f"was made by other code of specplan, whose {name} was another: analyze again")
