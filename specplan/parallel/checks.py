"""Models that cannot be spread as asked: refused by what does not divide."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.arch import ModelArch
from specplan.dtypes import weight_format
from specplan.errors import InputError, UnsupportedError
from specplan.heads import Eagle3Head, MedusaHeads
from specplan.parallel.ranks import draft_parallelism
from specplan.parallelism import Parallelism
from specplan.scenario import Scenario
from specplan.speculation import Tree

_MOST_RANKS = 1024
#: Layers whose states have no heads that could be told apart by their sizes alone.
_UNSPLIT = ("linear_attention", "mamba", "hybrid")


def check_parallelism(whole: Scenario, parallelism: Parallelism) -> None:
    """Refuse what cannot be spread in this way.

    Raises:
        InputError: numbers that do not divide, or are out of range.
        UnsupportedError: a model, a drafter or a forward that is planned on one device only.
    """
    if not 1 <= parallelism.num_ranks <= _MOST_RANKS or parallelism.tensor_parallel < 1:
        raise InputError(f"{parallelism.num_ranks} ranks: expected 1 to {_MOST_RANKS}")
    if not 0 <= parallelism.draft_rank < parallelism.num_ranks:
        raise InputError(f"draft_rank {parallelism.draft_rank}: there are {parallelism.num_ranks} ranks")
    batch, micro_batches = whole.workload.batch_size, parallelism.num_micro_batches
    if not 1 <= micro_batches <= max(1, batch) or (micro_batches > 1 and parallelism.num_stages == 1):
        raise InputError(
            f"{micro_batches} micro-batches: batch {batch} over {parallelism.num_stages} stages has no use for them"
        )
    if whole.transformers_version is not None:
        raise UnsupportedError("--forward transformers is planned on one device")
    for problem in spread_problems(whole.target, whole.workload.dtype, parallelism):
        raise problem
    _check_drafter(whole, parallelism)


def can_spread(whole: Scenario, parallelism: Parallelism) -> bool:
    """Whether a scenario can be spread in this way."""
    try:
        check_parallelism(whole, parallelism)
    except InputError:
        return False
    return True


def spread_problems(arch: ModelArch, dtype: str, parallelism: Parallelism) -> Iterator[InputError]:
    """Why a model in a weight format cannot be spread, one error for each reason."""
    stored = weight_format(dtype, arch.stored).stored
    if stored is not None:
        yield UnsupportedError(f"weights stored as {stored.name} are planned on one device")
    if dtype == "int4":
        yield UnsupportedError("weights in int4 are planned on one device")
    if sum(parallelism.stage_layers) != arch.num_hidden_layers or min(parallelism.stage_layers, default=0) < 1:
        yield InputError(f"{len(parallelism.stage_layers)} stages: {arch.num_hidden_layers} layers do not fill them")
    parts = parallelism.tensor_parallel
    if parts == 1:
        return
    unsplit = sorted(set(_UNSPLIT) & set(arch.layer_types))
    if unsplit:
        yield UnsupportedError(f"tensor parallel {parts}: {unsplit[0]} layers are spread in stages only")
    for name, size in _split_sizes(arch):
        if size % parts:
            yield InputError(f"tensor parallel {parts}: {name} {size} is no multiple of it")
    heads = arch.num_key_value_heads
    if heads % parts and parts % heads:
        yield InputError(f"tensor parallel {parts}: num_key_value_heads {heads} is neither a multiple nor a divisor")
    if arch.qk_norm == "full" and parts > heads:
        yield InputError(f"tensor parallel {parts}: keys normalized over their full width cannot be held twice")


def _split_sizes(arch: ModelArch) -> Iterator[tuple[str, int]]:
    yield "num_attention_heads", arch.num_attention_heads
    if "dense" in arch.mlp_types:
        yield "intermediate_size", arch.intermediate_size
    if arch.moe is not None and "moe" in arch.mlp_types:
        yield "moe_intermediate_size", arch.moe.moe_intermediate_size
        yield "shared_intermediate_size", arch.moe.shared_intermediate_size


def _check_drafter(whole: Scenario, parallelism: Parallelism) -> None:
    drafter, placement = whole.speculation.drafter, parallelism.draft_placement
    if drafter == "mtp":
        raise UnsupportedError("--drafter mtp is planned on one device")
    if whole.speculation.draft_device != "device":
        raise UnsupportedError("a draft on the host is planned beside one device")
    if drafter == "early_exit" and parallelism.num_stages > 1:
        raise UnsupportedError("early_exit needs the output head beside the first layers: tensor parallel only")
    if isinstance(whole.heads, MedusaHeads):
        _check_medusa(whole.heads, parallelism)
    if isinstance(whole.heads, Eagle3Head):
        _check_eagle3(parallelism)
    if drafter != "draft_model" or whole.draft is None:
        return
    away = placement == "rank" and parallelism.draft_rank != parallelism.deciding_rank
    if away and isinstance(whole.speculation.shape, Tree):
        raise UnsupportedError(f"a draft that proposes trees lives on rank {parallelism.deciding_rank}, or split")
    if placement == "split":
        _check_split(whole.draft, whole.workload.draft_dtype, parallelism)


def _check_split(draft: ModelArch, dtype: str, parallelism: Parallelism) -> None:
    if draft.num_hidden_layers < parallelism.num_stages:
        raise InputError(f"a draft of {draft.num_hidden_layers} layers has none for some stages")
    for problem in spread_problems(draft, dtype, draft_parallelism(draft, parallelism)):
        raise type(problem)(f"draft: {problem}")


def _check_eagle3(parallelism: Parallelism) -> None:
    if parallelism.draft_placement != "rank" or parallelism.draft_rank != parallelism.deciding_rank:
        raise InputError(f"an EAGLE-3 head lives on the rank that decides, {parallelism.deciding_rank}")
    if parallelism.num_micro_batches > 1:
        raise UnsupportedError("an EAGLE-3 head reads the features of one verify pass: no micro-batches")


def _check_medusa(heads: MedusaHeads, parallelism: Parallelism) -> None:
    if parallelism.draft_placement == "replicated":
        raise InputError("Medusa heads live where the last hidden states are: on one rank, or split")
    if parallelism.draft_placement == "rank" and parallelism.draft_rank != parallelism.deciding_rank:
        raise InputError(f"Medusa heads live on the rank that decides, {parallelism.deciding_rank}")
    if heads.shares_head and parallelism.tensor_parallel > 1 and parallelism.draft_placement != "split":
        raise InputError("Medusa heads that share the target's output head are split like it")
