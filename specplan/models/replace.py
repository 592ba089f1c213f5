"""Giving a plan the weights it runs with, and telling whether a plan is stale."""

from __future__ import annotations

import dataclasses

from specplan.arch import ModelArch
from specplan.errors import InputError
from specplan.models.heads import resolve_heads
from specplan.models.resolve import resolve_model
from specplan.plan import HeadFiles, ModelInput, Plan

#: What may differ between two descriptions of one model: these size nothing and compute nothing, and the
#: dtype of a plan says how weights are held.
_FREE_FIELDS = ("dtype", "eos_token_ids", "max_position_embeddings", "stored")


def with_weights(plan: Plan, target: str | None, draft: str | None, heads: str | None = None) -> Plan:
    """The plan with other files for its models.

    Args:
        plan: as read.
        target: folder or GGUF file, None to keep the plan's own.
        draft: the same for the draft.
        heads: folder of the same heads.

    Raises:
        InputError: files of another architecture, a draft for a plan without one, or files that changed.
    """
    inputs = plan.inputs
    if draft is not None and inputs.draft is None:
        raise InputError("--draft: the plan has no draft model")
    if heads is not None and inputs.head_files is None:
        raise InputError("--heads: the plan loads no heads")
    return dataclasses.replace(
        plan,
        inputs=dataclasses.replace(
            inputs,
            target=_fresh(inputs.target, target, "--model"),
            draft=None if inputs.draft is None else _fresh(inputs.draft, draft, "--draft"),
            head_files=_fresh_heads(inputs.head_files, heads, inputs.target.arch),
        ),
    )


def _fresh_heads(planned: HeadFiles | None, reference: str | None, target: ModelArch) -> HeadFiles | None:
    if planned is None:
        return None
    found = resolve_heads(reference or planned.reference, target)
    if found.config_sha256 != planned.config_sha256:
        raise InputError(f"{found.reference}: are not the heads that the plan was made for")
    return found


def stale_heads(heads: HeadFiles, target: ModelArch) -> str | None:
    """Why the plan no longer describes its heads; None when it still does.

    Raises:
        InputError: the heads are gone.
    """
    now = resolve_heads(heads.reference, target)
    return None if now.config_sha256 == heads.config_sha256 else f"{heads.reference} changed since the plan was made"


def stale(model: ModelInput) -> str | None:
    """Why the plan no longer describes a model; None when it still does.

    Raises:
        InputError: the model is gone.
    """
    now = resolve_model(model.reference)
    if now.config_sha256 == model.config_sha256:
        return None
    changed = differing_fields(model.arch, now.arch)
    return f"{model.reference}: {', '.join(changed) if changed else 'its config'} changed since the plan was made"


def _fresh(planned: ModelInput, reference: str | None, option: str) -> ModelInput:
    found = resolve_model(reference or planned.reference)
    if found.kind not in ("folder", "gguf"):
        raise InputError(
            f"{found.reference}: a {found.kind} has no weights here: give a folder or a .gguf file with {option}"
        )
    changed = differing_fields(planned.arch, found.arch)
    if changed:
        where = f"{option} {reference}" if reference else planned.reference
        raise InputError(f"{where}: is not the model that the plan was made for: {', '.join(changed)} differ")
    return found


def differing_fields(one: ModelArch, other: ModelArch) -> list[str]:
    """Fields by which two architectures are not one model; how weights are stored is none of them."""
    names = [field.name for field in dataclasses.fields(ModelArch) if field.name not in _FREE_FIELDS]
    return [name for name in names if not _equal(getattr(one, name), getattr(other, name))]


def _equal(before: object, now: object) -> bool:
    """Equal, or floats that differ as GGUF's float32 epsilons do."""
    if isinstance(before, float) and isinstance(now, float):
        return abs(before - now) <= 1e-6 * abs(before)
    return before == now
