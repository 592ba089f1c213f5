"""Options as people give them to a ``Question``: names resolved, defaults filled in."""

from __future__ import annotations

from specplan.arch_checks import check_vocabularies
from specplan.device import DeviceSpec
from specplan.devices.resolve import resolve_device
from specplan.dtypes import FLOAT_BYTES, float_bytes, weight_format
from specplan.errors import InputError
from specplan.kv_formats import cache_format
from specplan.models.resolve import resolve_model
from specplan.plan import ModelInput, PlanInputs
from specplan.planner.question import Question
from specplan.speculation import DRAFTERS, HEAD_DRAFTERS, Drafter, Tree
from specplan.trees import find_tree
from specplan.workload import Workload

AUTO = "auto"
_DEFAULT_CONTEXT = 4096
_DEFAULT_TREE = "medusa-default"
_SELF_SUFFICIENT = ("none", "ngram", "early_exit")
_DEFAULT_MAX_SPECULATIVE_TOKENS = 16


def ask(
    *,
    model: str,
    gpu: str,
    draft: str | None = None,
    drafter: str = AUTO,
    context: int | None = None,
    batch_size: int = 1,
    dtype: str = AUTO,
    kv_dtype: str = AUTO,
    draft_dtype: str = AUTO,
    draft_kv_dtype: str = AUTO,
    budget: int | None = None,
    keep: float = 0.96,
    alpha: float | None = None,
    num_speculative_tokens: int | None = None,
    tree: str | None = None,
    share_head: bool = False,
) -> Question:
    """Resolve names and defaults; the arguments are the options of ``specplan analyze``.

    Raises:
        InputError: an unknown model, device or dtype; a drafter without what it needs.
    """
    device = resolve_device(gpu)
    target = resolve_model(model)
    draft_input = resolve_model(draft) if draft is not None else None
    if draft_input is not None:
        check_vocabularies(target.arch, draft_input.arch, f"--draft {draft}")
    workload = _workload(target, draft_input, device, context, batch_size, dtype, kv_dtype, draft_dtype, draft_kv_dtype)
    memory = int(device.memory_bytes.value)
    if budget is not None and budget > memory:
        raise InputError(f"--budget {budget}: {device.name} has only {memory} bytes")
    inputs = PlanInputs(target, draft_input, device, budget or memory, keep)
    return Question(
        inputs=inputs,
        workload=workload,
        drafters=_drafters(drafter, draft_input, num_speculative_tokens),
        alpha=alpha,
        num_speculative_tokens=num_speculative_tokens,
        max_speculative_tokens=_DEFAULT_MAX_SPECULATIVE_TOKENS,
        tree=_tree(tree, drafter, num_speculative_tokens),
        tree_fixed=tree is not None,
        shares_head=_shares_head(share_head, drafter),
        must_speculate=drafter not in (AUTO, "none") or (drafter == AUTO and num_speculative_tokens is not None),
    )


def _drafters(drafter: str, draft: ModelInput | None, num_speculative_tokens: int | None) -> tuple[Drafter, ...]:
    if drafter == "draft_model" and draft is None:
        raise InputError("--drafter draft_model needs --draft with the draft model")
    if drafter == "none" and num_speculative_tokens is not None:
        raise InputError("--num-speculative-tokens is of no use with --drafter none")
    if draft is not None and drafter not in (AUTO, "draft_model"):
        raise InputError(f"--draft is of no use with --drafter {drafter}")
    if drafter == AUTO:
        return tuple(name for name in DRAFTERS if name in _SELF_SUFFICIENT or (name == "draft_model" and draft))
    return ("none", *(name for name in DRAFTERS if name == drafter and name != "none"))


def _tree(reference: str | None, drafter: str, num_speculative_tokens: int | None) -> Tree | None:
    """The tree to draft: named, in a file, or the default of Medusa heads; None for chains."""
    if reference is None:
        return find_tree(_DEFAULT_TREE) if drafter == "medusa" and num_speculative_tokens is None else None
    if drafter not in HEAD_DRAFTERS:
        raise InputError(f"--tree needs --drafter {' or '.join(HEAD_DRAFTERS)}: {drafter} drafts a chain")
    if num_speculative_tokens is not None:
        raise InputError("--tree and --num-speculative-tokens contradict each other")
    return find_tree(reference)


def _shares_head(share_head: bool, drafter: str) -> bool:
    if share_head and drafter != "medusa":
        raise InputError(f"--share-head is for Medusa heads, not for --drafter {drafter}")
    return share_head


def _workload(
    target: ModelInput,
    draft: ModelInput | None,
    device: DeviceSpec,
    context: int | None,
    batch_size: int,
    dtype: str,
    kv_dtype: str,
    draft_dtype: str,
    draft_kv_dtype: str,
) -> Workload:
    weights = _dtype(dtype, target, device)
    # without a draft its precision is spelled as the target's, so that the plan says one thing only
    draft_weights = weights if draft is None or draft_dtype == AUTO else weight_format(draft_dtype).name
    return Workload(
        context=min(target.arch.max_position_embeddings, _DEFAULT_CONTEXT) if context is None else context,
        batch_size=batch_size,
        dtype=weights,
        kv_dtype=_kv_dtype(kv_dtype, weights),
        draft_dtype=draft_weights,
        draft_kv_dtype=_kv_dtype(draft_kv_dtype, draft_weights),
    )


def _dtype(name: str, model: ModelInput, device: DeviceSpec) -> str:
    """auto: float32 on a CPU, elsewhere what the weights are published in, or float16 for quantized files."""
    if name != AUTO:
        return weight_format(name).name
    if device.kind == "cpu":
        return "float32"
    published = model.arch.dtype if model.arch.dtype in FLOAT_BYTES else "float16"
    assert published is not None
    return "float16" if published == "bfloat16" and "bfloat16" not in device.flop_per_s else published


def _kv_dtype(name: str, weights: str) -> str:
    """auto: what the model computes in; a quantized cache changes the output, so it must be asked for."""
    compute = weight_format(weights).compute_dtype
    return compute if name == AUTO else cache_format(name, float_bytes(compute)).name
