"""Options as people give them to a ``Question``: names resolved, defaults filled in."""

from __future__ import annotations

from collections.abc import Sequence

from specplan.acceptance_profiles import ALL, AcceptanceProfile, find_acceptance
from specplan.arch_checks import check_vocabularies
from specplan.caches.kv_formats import cache_format
from specplan.device import DeviceSpec
from specplan.devices.bundled import device_profile
from specplan.devices.local import fingerprint
from specplan.devices.resolve import is_local, resolve_device
from specplan.dtypes import float_bytes, weight_dtype, weight_format
from specplan.errors import InputError
from specplan.models.heads import resolve_heads
from specplan.models.resolve import resolve_model
from specplan.plan import HeadFiles, ModelInput, PlanInputs, drafter_of
from specplan.planner.acceptance_match import heads_profile, matching_profiles
from specplan.planner.axes import batches, draft_caches, draft_contexts, draft_devices, exit_layers, precisions
from specplan.planner.lengths import lengths
from specplan.planner.question import Prefer, Question, SearchSpace
from specplan.planner.splits import cards_of, devices_of, splits, spread_drafters
from specplan.planner.weights import AUTO, draft_weights, target_weights
from specplan.speculation import DRAFTERS, MAX_NODES, TREE_DRAFTERS, Drafter, Tree
from specplan.speed.step_times import load_step_times
from specplan.trees import find_tree
from specplan.units import format_bytes
from specplan.user_profiles import user_folder
from specplan.workload import Workload

_NEWEST_TRANSFORMERS = "5.23.0"
_HOST = "cpu-generic"
#: What ``--tree`` takes besides names and files: the best one at the rates of acceptance.
BEST_TREE = "best"
_SELF_SUFFICIENT = ("none", "ngram", "early_exit")
_DEFAULT_MAX_SPECULATIVE_TOKENS = 16


def ask(
    *,
    model: str | ModelInput,
    gpu: str | DeviceSpec,
    draft: str | ModelInput | None = None,
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
    acceptance: str | None = None,
    category: str = ALL,
    num_speculative_tokens: int | None = None,
    tree: str | None = None,
    num_draft_nodes: int | None = None,
    share_head: bool = False,
    heads: str | None = None,
    forward: str = "specplan",
    turns: int | None = None,
    turn_tokens: int | None = None,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    concurrency: int | None = None,
    num_exit_layers: int | None = None,
    draft_context: int | None = None,
    draft_device: str = "device",
    allow: Sequence[str] = (),
    prefer: Prefer = "fastest",
    num_gpus: int | None = None,
    tensor_parallel: int | None = None,
    pipeline_parallel: int | None = None,
) -> Question:
    """Resolve names and defaults; the arguments are the options of ``specplan analyze``.

    Raises:
        InputError: an unknown model, device or dtype; a drafter without what it needs.
    """
    local = isinstance(gpu, str) and is_local(gpu)
    devices = devices_of(_named_devices(gpu), num_gpus, tensor_parallel, pipeline_parallel)
    device = min(devices, key=lambda each: each.memory_bytes.value)
    target, weights, draft_input, draft_weight = _models(model, draft, dtype, draft_dtype, device)
    tokens = lengths(target.arch.max_position_embeddings, context, turns, turn_tokens, prompt_tokens, new_tokens)
    workload = Workload(
        context=tokens.context,
        batch_size=batch_size,
        dtype=weights,
        kv_dtype=_kv_dtype(kv_dtype, target, weights),
        draft_dtype=draft_weight,
        draft_kv_dtype=_kv_dtype(draft_kv_dtype, draft_input or target, draft_weight),
        prompt_tokens=tokens.prompt_tokens,
        num_turns=tokens.num_turns,
    )
    head_files = None if heads is None else _head_files(heads, target, drafter, share_head, forward)
    if drafter == AUTO and (tree is not None or num_draft_nodes is not None):
        drafter = _tree_drafter(draft_input, head_files)
    budget_bytes = _budget_bytes(budget, device)
    cards = cards_of(devices, budget) if len(devices) > 1 else ()
    has_heads = drafter == "medusa" or head_files is not None
    ways = splits(target.arch, weights, cards, tensor_parallel, pipeline_parallel, has_heads)
    inputs = PlanInputs(
        target, draft_input, device, budget_bytes, keep, None, _transformers_version(forward),
        _host(draft_device), head_files,
    )  # fmt: skip
    space = SearchSpace(
        precisions=precisions(target, workload, kv_dtype == AUTO, allow, forward),
        draft_kv_dtypes=draft_caches(draft_input, workload, draft_kv_dtype == AUTO, allow, forward),
        batch_sizes=batches(batch_size, concurrency),
        # over several devices a draft's window is not searched: it gains little there, and multiplies the splits
        draft_contexts=(0,)
        if cards and draft_context is None
        else draft_contexts(draft_input, workload, draft_context, forward),
        draft_devices=draft_devices(draft_device, draft_input, device),
        num_exit_layers=exit_layers(num_exit_layers, drafter, target.arch),
        splits=ways,
    )
    nodes = _tree(tree, drafter, num_speculative_tokens)
    profiles = _profiles(acceptance, target, draft_input, category, local, head_files)
    return Question(
        inputs=inputs,
        workload=workload,
        drafters=spread_drafters(
            _drafters(drafter, draft_input, num_speculative_tokens, forward, head_files), ways, forward, draft_device
        ),
        alpha=alpha,
        num_speculative_tokens=num_speculative_tokens,
        max_speculative_tokens=_DEFAULT_MAX_SPECULATIVE_TOKENS,
        tree=nodes,
        best_tree=tree == BEST_TREE,
        profiles=profiles,
        named_profile=None if acceptance is None else profiles[0],
        category=category,
        num_draft_nodes=_num_draft_nodes(num_draft_nodes, drafter, nodes),
        shares_head=_shares_head(share_head, drafter),
        space=space,
        prefer=prefer,
        step_times=load_step_times(fingerprint()) if local and not cards else (),
        assumed_lengths=tokens.assumed,
        must_speculate=drafter not in (AUTO, "none") or (drafter == AUTO and num_speculative_tokens is not None),
        cards=cards,
    )


def _named_devices(gpu: str | DeviceSpec) -> list[DeviceSpec]:
    """One device, or several with commas between them."""
    return [resolve_device(name) for name in gpu.split(",")] if isinstance(gpu, str) else [gpu]


def _models(
    model: str | ModelInput, draft: str | ModelInput | None, dtype: str, draft_dtype: str, device: DeviceSpec
) -> tuple[ModelInput, str, ModelInput | None, str]:
    """Target and draft, each with its weight format; without a draft its format is the target's."""
    target = resolve_model(model) if isinstance(model, str) else model
    draft_input = resolve_model(draft) if isinstance(draft, str) else draft
    if draft_input is not None:
        check_vocabularies(target.arch, draft_input.arch, f"--draft {draft_input.reference}")
    target, weights = target_weights(target, dtype, device)
    if draft_input is not None:
        return target, weights, *draft_weights(draft_input, draft_dtype, target, weights, device)
    if draft_dtype != AUTO:
        weight_dtype(draft_dtype)
    return target, weights, None, weights


def _budget_bytes(budget: int | None, device: DeviceSpec) -> int:
    """The given budget, or all memory of the device, the smallest one where there are several."""
    memory = int(device.memory_bytes.value)
    if budget is not None and budget > memory:
        there = f"{memory} bytes ({format_bytes(memory)})"
        raise InputError(f"--budget {budget} ({format_bytes(budget)}): {device.name} has only {there}")
    return budget or memory


def _profiles(
    reference: str | None,
    target: ModelInput,
    draft: ModelInput | None,
    category: str,
    local: bool,
    heads: HeadFiles | None,
) -> tuple[AcceptanceProfile, ...]:
    """The named acceptance profile, or those of the models: of the heads, then what this machine measured, then ours.

    Raises:
        InputError: no such profile, or none with that category.
    """
    folder = user_folder() / "acceptance"
    if reference is None:
        found = heads_profile(heads, target) + matching_profiles(target, draft, (folder,) if local else ())
        own = tuple(profile for profile in found if category == ALL or profile.has_category(category))
        if category != ALL and not own:
            known = ", ".join(dict.fromkeys(name for profile in found for name in profile.categories))
            hint = f"it has {known}" if known else "there is none; --acceptance names one of another model"
            raise InputError(f"--category {category!r}: no acceptance profile of {target.reference} has it: {hint}")
        return own
    profile = find_acceptance(reference, (folder,))
    profile.category(category)
    return (profile,)


def _host(draft_device: str) -> DeviceSpec | None:
    """Where a draft runs that lives in the host's memory: a profile of an ordinary CPU."""
    return device_profile(_HOST) if draft_device != "device" else None


def _transformers_version(forward: str) -> str | None:
    """The installed version, or the newest whose memory is known: its forward decides the workspace."""
    if forward != "transformers":
        return None
    from importlib import metadata  # late: it takes as long to import as all profiles to read

    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return _NEWEST_TRANSFORMERS


def _drafters(
    drafter: str, draft: ModelInput | None, num_speculative_tokens: int | None, forward: str, heads: HeadFiles | None
) -> tuple[Drafter, ...]:
    if drafter == "draft_model" and draft is None:
        raise InputError("--drafter draft_model needs --draft with the draft model")
    if drafter == "none" and num_speculative_tokens is not None:
        raise InputError("--num-speculative-tokens is of no use with --drafter none")
    if draft is not None and drafter not in (AUTO, "draft_model"):
        raise InputError(f"--draft is of no use with --drafter {drafter}")
    if drafter == AUTO:
        own = ("none", "ngram") if forward == "transformers" else _SELF_SUFFICIENT
        given = [*(["draft_model"] if draft is not None else []), *([drafter_of(heads)] if heads is not None else [])]
        return tuple(name for name in DRAFTERS if name in own or name in given)
    return ("none", *(name for name in DRAFTERS if name == drafter and name != "none"))


def _tree_drafter(draft: ModelInput | None, heads: HeadFiles | None) -> str:
    """Who drafts a tree where nobody was named: the draft model, or the heads that were given."""
    if draft is not None:
        return "draft_model"
    return AUTO if heads is None else drafter_of(heads)


def _tree(reference: str | None, drafter: str, num_speculative_tokens: int | None) -> Tree | None:
    """The tree to draft: named or in a file; None to search one, or for chains."""
    if reference is None:
        return None
    if drafter not in TREE_DRAFTERS:
        raise InputError(f"--tree needs --drafter {' or '.join(TREE_DRAFTERS)}: {drafter} drafts a chain")
    if num_speculative_tokens is not None:
        raise InputError("--tree and --num-speculative-tokens contradict each other")
    return None if reference == BEST_TREE else find_tree(reference)


def _num_draft_nodes(number: int | None, drafter: str, tree: Tree | None) -> int | None:
    if number is None:
        return None
    if drafter not in TREE_DRAFTERS:
        raise InputError(f"--num-draft-nodes needs --drafter {' or '.join(TREE_DRAFTERS)}: {drafter} drafts a chain")
    most = MAX_NODES if tree is None else tree.num_draft_nodes
    if not 1 <= number <= most:
        raise InputError(f"--num-draft-nodes {number}: expected 1 to {most}")
    return number


def _shares_head(share_head: bool, drafter: str) -> bool:
    if share_head and drafter != "medusa":
        raise InputError(f"--share-head is for Medusa heads, not for --drafter {drafter}")
    return share_head


def _head_files(heads: str, target: ModelInput, drafter: str, share_head: bool, forward: str) -> HeadFiles:
    """The checkpoint of Medusa heads or of an EAGLE-3 head."""
    if drafter not in (AUTO, "medusa", "eagle3"):
        raise InputError(f"--heads is of no use with --drafter {drafter}: it names heads of medusa or eagle3")
    if share_head:
        raise InputError("--share-head is for heads without --heads, whose files say whether they share it")
    if forward != "specplan":
        raise InputError(f"--heads is of no use with --forward {forward}")
    found = resolve_heads(heads, target.arch)
    if drafter not in (AUTO, drafter_of(found)):
        raise InputError(f"--heads {heads}: holds heads of {drafter_of(found)}, not of --drafter {drafter}")
    return found


def _kv_dtype(name: str, model: ModelInput, weights: str) -> str:
    """auto: what the model computes in; a quantized cache changes the output, so it must be asked for."""
    compute = weight_format(weights, model.arch.stored).compute_dtype
    return compute if name == AUTO else cache_format(name, float_bytes(compute)).name
