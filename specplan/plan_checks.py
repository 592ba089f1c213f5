"""Plans that decode but cannot be meant: refused by the path of the key."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from specplan.arch_checks import MAX_BUDGET_BYTES, check_kernels, check_sizes, check_vocabularies
from specplan.caches.draft_window import windowed
from specplan.caches.kv_formats import CACHE_FORMATS
from specplan.dtypes import weight_format
from specplan.errors import InputError, UnsupportedError
from specplan.heads import Eagle3Head, MedusaHeads, MtpLayer, check_heads
from specplan.parallel.checks import check_parallelism
from specplan.plan import Eagle3Input, Plan, Spread
from specplan.speculation import TREE_DRAFTERS, Tree
from specplan.trees import checked_tree


def check_plan_values(plan: Plan, where: str) -> None:
    """Refuse values out of range or in contradiction.

    Args:
        plan: as decoded.
        where: the file, for error messages.

    Raises:
        InputError: names the key, its value and what was expected.
    """
    for key, value, low, high in _ranges(plan):
        if not low <= value <= high:
            raise InputError(f"{where}: {key} is {value}, expected {low} to {high}")
    for key, value in _numbers(plan, ""):
        if value < 0:
            raise InputError(f"{where}: {key} is {value}, expected no negative number")
    _check_drafter(plan, where)
    _check_dtypes(plan, where)
    target, draft = plan.inputs.target.arch, plan.inputs.draft
    check_sizes(target, f"{where}: inputs.target.arch")
    check_kernels(target, plan.workload.dtype, f"{where}: inputs.target")
    if draft is not None:
        check_sizes(draft.arch, f"{where}: inputs.draft.arch")
        check_kernels(draft.arch, plan.workload.draft_dtype, f"{where}: inputs.draft")
        check_vocabularies(target, draft.arch, f"{where}: inputs.draft")
    if plan.forward == "specplan" and (plan.inputs.transformers_version or plan.inputs.host):
        raise InputError(f"{where}: forward is specplan, whose runtime has no host draft and no transformers forward")
    if plan.forward == "transformers":
        _check_transformers(plan, where)
    if not plan.frontier:
        raise InputError(f"{where}: frontier is empty")
    if plan.spread is not None:
        _check_spread(plan, plan.spread, where)
    names = [item.name for item in plan.ledger.items]
    if not names or len(set(names)) != len(names):
        raise InputError(f"{where}: ledger.items must be there and have unique names")
    if plan.peak_bytes > plan.inputs.budget_bytes:
        raise InputError(
            f"{where}: ledger.items need {plan.peak_bytes} bytes, inputs.budget_bytes is {plan.inputs.budget_bytes}"
        )


def _check_transformers(plan: Plan, where: str) -> None:
    """A plan of transformers' forward drafts chains, with a model beside the target or with none."""
    speculation = plan.speculation
    if plan.inputs.transformers_version is None:
        raise InputError(f"{where}: forward is transformers, and inputs.transformers_version is missing")
    whole = speculation.draft_context == 0 and speculation.draft_device == "device"
    tree = isinstance(speculation.shape, Tree)
    if speculation.drafter not in ("none", "ngram", "draft_model") or tree or not whole:
        raise InputError(f"{where}: forward is transformers, which does not draft by {speculation.describe()}")


def _check_spread(plan: Plan, spread: Spread, where: str) -> None:
    """Every rank is there once, fits its own budget, and the one that binds is the plan's."""
    parallelism = spread.parallelism
    try:
        check_parallelism(plan.whole, parallelism)
    except InputError as error:
        raise type(error)(f"{where}: spread.parallelism: {error}") from None
    ranks = sorted(rank for kind in spread.kinds for rank in kind.ranks)
    if parallelism.num_ranks < 2 or ranks != list(range(parallelism.num_ranks)):
        raise InputError(f"{where}: spread.kinds must have each of {parallelism.num_ranks} ranks once, at least two")
    for index, kind in enumerate(spread.kinds):
        if kind.ledger.peak_bytes > kind.budget_bytes:
            raise InputError(f"{where}: spread.kinds[{index}].ledger needs more than its budget_bytes")
    if spread.binding_rank not in ranks:
        raise InputError(f"{where}: spread.binding_rank {spread.binding_rank}: there is no such rank")
    binding = spread.kind_of(spread.binding_rank)
    if (binding.ledger, binding.device, binding.budget_bytes) != (
        plan.ledger,
        plan.inputs.device,
        plan.inputs.budget_bytes,
    ):
        raise InputError(f"{where}: ledger, inputs.device and inputs.budget_bytes must be those of spread.binding_rank")


def _ranges(plan: Plan) -> tuple[tuple[str, float, float, float], ...]:
    workload, speculation = plan.workload, plan.speculation
    return (
        ("workload.context", workload.context, 1, 1 << 24),
        ("workload.batch_size", workload.batch_size, 1, 4096),
        ("workload.prompt_tokens", workload.prompt_tokens, 0, workload.context - 1),
        ("workload.num_turns", workload.num_turns, 1, workload.context),
        ("speculation.draft_context", speculation.draft_context, 0, workload.context),
        ("speculation.shape", speculation.num_draft_nodes, 0, 1024),
        ("speculation.prefill_chunk", speculation.prefill_chunk, 1, 1 << 20),
        ("speculation.logits_rows", speculation.logits_rows, 2, 1 << 20),
        ("speculation.num_exit_layers", speculation.num_exit_layers, 0, plan.inputs.target.arch.num_hidden_layers),
        ("inputs.budget_bytes", plan.inputs.budget_bytes, 1, MAX_BUDGET_BYTES),
        ("inputs.keep", plan.inputs.keep, 1e-9, 1),
    )


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    """Every number of a plan with the path of its key."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _numbers(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from _numbers(entry, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _numbers(entry, f"{path}.{key}")
    elif isinstance(value, int | float):
        yield path, value


def _check_drafter(plan: Plan, where: str) -> None:
    speculation = plan.speculation
    drafter, gamma = speculation.drafter, speculation.num_draft_nodes
    if (drafter == "none") != (gamma == 0):
        raise InputError(f"{where}: speculation.drafter is {drafter} with {gamma} drafted tokens")
    if isinstance(speculation.shape, Tree):
        checked_tree(speculation.shape.nodes, f"{where}: speculation.shape")
        if drafter not in TREE_DRAFTERS:
            raise InputError(f"{where}: speculation.drafter {drafter} drafts chains, found a tree")
        if speculation.draft_context or speculation.draft_device != "device":
            raise InputError(f"{where}: speculation.shape is a tree, drafted beside the target over the whole context")
        slots = plan.workload.context + speculation.shape.num_verify_tokens
        for model in (plan.inputs.target, plan.inputs.draft):
            if model is not None and model.arch.windowed_layers(slots):
                raise UnsupportedError(f"{where}: speculation.shape is a tree: windowed layers take chains only")
    kinds = {"medusa": MedusaHeads, "eagle3": Eagle3Head, "mtp": MtpLayer}
    if not isinstance(plan.inputs.heads, kinds.get(drafter, type(None))):
        raise InputError(f"{where}: speculation.drafter {drafter} and inputs.heads contradict each other")
    if plan.inputs.heads is not None:
        check_heads(plan.inputs.heads, speculation.shape, f"{where}: inputs.heads")
        _check_features(plan, where)
    _check_head_files(plan, where)
    if (drafter == "draft_model") != (plan.inputs.draft is not None):
        raise InputError(f"{where}: speculation.drafter {drafter} and inputs.draft contradict each other")
    if drafter != "draft_model" and (speculation.draft_context or speculation.draft_device != "device"):
        raise InputError(f"{where}: speculation.drafter {drafter} has no draft model that lives or looks elsewhere")
    if plan.inputs.draft is not None:
        try:
            windowed(plan.inputs.draft.arch, speculation.draft_context)
        except UnsupportedError as error:
            raise UnsupportedError(f"{where}: speculation.draft_context {speculation.draft_context}: {error}") from None
    if (plan.inputs.host is not None) != (speculation.draft_device == "host"):
        raise InputError(f"{where}: speculation.draft_device and inputs.host contradict each other")
    if (drafter == "early_exit") != (speculation.num_exit_layers > 0):
        raise InputError(f"{where}: speculation.drafter {drafter} with num_exit_layers {speculation.num_exit_layers}")


def _check_features(plan: Plan, where: str) -> None:
    """An EAGLE-3 head reads layers that the target has, and proposes none but its tokens."""
    heads, target = plan.inputs.heads, plan.inputs.target.arch
    if not isinstance(heads, Eagle3Head):
        return
    if max(heads.feature_layers) > target.num_hidden_layers:
        raise InputError(f"{where}: inputs.heads.feature_layers: the target has {target.num_hidden_layers} layers")
    if heads.draft_vocab_size > target.vocab_size:
        raise InputError(f"{where}: inputs.heads.draft_vocab_size is more than the target's {target.vocab_size}")


def _check_head_files(plan: Plan, where: str) -> None:
    """The heads of a plan are the first ones of its checkpoint; without one they cannot run."""
    heads, files = plan.inputs.heads, plan.inputs.head_files
    if heads is not None and files is None and plan.forward == "specplan":
        raise InputError(f"{where}: forward is specplan, and inputs.head_files has no heads to load")
    if files is None:
        return
    if isinstance(files, Eagle3Input):
        if heads != files.head:
            raise InputError(f"{where}: inputs.heads and inputs.head_files contradict each other")
        return
    if not isinstance(heads, MedusaHeads) or (heads.num_layers, heads.shares_head) != (
        files.num_layers,
        files.shares_head,
    ):
        raise InputError(f"{where}: inputs.heads and inputs.head_files contradict each other")
    if not heads.num_heads <= files.num_heads <= 1 << 24:
        raise InputError(f"{where}: inputs.head_files.num_heads is {files.num_heads}, inputs.heads are more")


def _check_dtypes(plan: Plan, where: str) -> None:
    workload = plan.workload
    target, draft = plan.inputs.target, plan.inputs.draft or plan.inputs.target
    for key in ("kv_dtype", "draft_kv_dtype"):
        name = getattr(workload, key)
        if name not in CACHE_FORMATS:
            raise UnsupportedError(
                f"{where}: workload.{key} {name!r} is not supported: one of {', '.join(CACHE_FORMATS)}"
            )
    for key, model in (("dtype", target), ("draft_dtype", draft)):
        if getattr(workload, key) == "int4" and plan.inputs.device.kind != "cpu":
            raise UnsupportedError(f"{where}: workload.{key} is int4, which runs on CPUs only")
        try:
            weight_format(getattr(workload, key), model.arch.stored)
        except InputError as error:
            raise type(error)(f"{where}: workload.{key}: {error}") from None
