"""What one rank holds of a plan's models, and the decoders over it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from specplan.errors import UnsupportedError
from specplan.heads import Eagle3Head
from specplan.parallel.ranks import draft_parallelism
from specplan.plan import Plan
from specplan_runtime.decoder import Decoder
from specplan_runtime.distributed.away import AwayDecoder
from specplan_runtime.distributed.leader import LeadingDecoder
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.distributed.share import Share
from specplan_runtime.distributed.staged_features import ReceivedFeatures, SentFeatures
from specplan_runtime.features import FeatureTap, Tap
from specplan_runtime.layout import Layout
from specplan_runtime.loading.cut import Cut


def together(ranks: Ranks | None) -> AbstractContextManager[None]:
    """All ranks go on, or none does; nothing to agree on for one process."""
    return nullcontext() if ranks is None else ranks.together()


def check_spread(plan: Plan, ranks: Ranks | None) -> None:
    """Refuse a plan over several devices in one process.

    Raises:
        UnsupportedError: says how many processes it needs.
    """
    if plan.spread is not None and ranks is None:
        raise UnsupportedError(
            f"a plan for {plan.spread.parallelism.num_ranks} devices needs as many processes: specplan run starts them"
        )


def cuts_of(plan: Plan, ranks: Ranks | None) -> list[Cut]:
    """What of target and draft this rank holds."""
    archs = [arch for arch in (plan.inputs.target.arch, plan.draft_arch) if arch is not None]
    if plan.spread is None or ranks is None:
        return [Cut(arch) for arch in archs]
    spread = plan.spread.parallelism
    cuts = [Cut.of(archs[0], spread, ranks.rank)]
    for draft in archs[1:]:
        split = spread.draft_placement == "split"
        cuts.append(Cut.of(draft, draft_parallelism(draft, spread), ranks.rank) if split else Cut(draft))
    return cuts


def decoders_of(plan: Plan, layout: Layout, ranks: Ranks | None) -> tuple[Decoder, ...]:
    """Of the target and of a draft model that is on this rank; those of a spread model are linked to the others."""
    parameters = [model for model in (layout.target, layout.draft) if model is not None]
    if ranks is None or plan.spread is None:
        return tuple(Decoder(model) for model in parameters)
    found: list[Decoder] = []
    for number, (model, arch) in enumerate(zip(parameters, (plan.inputs.target.arch, plan.draft_arch), strict=False)):
        assert arch is not None
        share = Share(ranks, arch.vocab_size)
        if number and plan.spread.parallelism.draft_placement != "split":
            found.append(Decoder(model))
        else:
            found.append(LeadingDecoder(model, share, ranks, number) if ranks.decides else Decoder(model, share))
    return tuple(found)


def away_draft(plan: Plan, layout: Layout, ranks: Ranks | None) -> AwayDecoder | None:
    """On the deciding rank, a draft model that lives on another one."""
    if plan.draft_arch is None or layout.draft is not None or ranks is None or not ranks.decides:
        return None
    assert layout.draft_probs is not None
    return AwayDecoder(plan.draft_arch, ranks, layout.draft_probs)


def spread_tap(plan: Plan, tap: FeatureTap | None, ranks: Ranks) -> Tap | None:
    """What this rank does with hidden states that an EAGLE-3 head on the deciding rank reads."""
    heads = plan.inputs.heads
    if tap is not None:
        return ReceivedFeatures(tap, ranks)
    sends = ranks.part == 0 and not ranks.decides
    return SentFeatures(heads.feature_layers, ranks) if isinstance(heads, Eagle3Head) and sends else None


def head_rows(plan: Plan, ranks: Ranks | None) -> range | None:
    """The rows of Medusa heads' output matrices that this rank holds, None for all."""
    if plan.spread is None or ranks is None or plan.spread.parallelism.draft_placement != "split":
        return None
    rows = Cut.of(plan.inputs.target.arch, plan.spread.parallelism, ranks.rank).vocabulary()
    return None if rows is None else rows[0]


def lead(decoders: tuple[Decoder, ...]) -> None:
    """From now on the other ranks do what these decoders do."""
    for decoder in decoders:
        if isinstance(decoder, LeadingDecoder):
            decoder.leads = True
