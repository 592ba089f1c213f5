"""Times of a model that is spread over devices: stages, transfers between them, sums over tensor ranks, bubbles.

A pipeline of p stages and m micro-batches takes the sum of its stages and m - 1 times the slowest of them (Huang et
al., GPipe, 1811.06965, section 2.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from specplan.arch import ModelArch
from specplan.dtypes import float_bytes, weight_format
from specplan.heads import Eagle3Head, MedusaHeads
from specplan.parallelism import Parallelism
from specplan.provenance import Source
from specplan.scenario import Scenario
from specplan.speculation import Drafter
from specplan.speed.links import TOKENS_S, Link, slowest_link
from specplan.speed.roofline import Pass, Rows, Times
from specplan.speed.steps import Ints, Rate, draft_seconds, mean_over_rows, verified_rows
from specplan.speed.timer import RooflineTimer, Timing, modelled

REFERENCE = "roofline of each stage, links of the device profiles, pipeline as in GPipe, sums in a ring"
#: The best token of a row, and its logit.
_PAIR_BYTES = 8


class SpreadTimer:
    """Times of a scenario that is spread over devices.

    Args:
        whole: the scenario; its γ and rows are not used.
        parallelism: how it is spread.
        ranks: the shares of all ranks, in order.
    """

    def __init__(self, whole: Scenario, parallelism: Parallelism, ranks: Sequence[Scenario]) -> None:
        self._whole, self._parallelism, self._ranks = whole, parallelism, tuple(ranks)
        self._link = slowest_link([rank.device for rank in ranks])

    def step_seconds(self, gamma: Ints, logits_rows: Ints, draft_rate: Rate = 1.0) -> Times:
        """One step in the mean, as ``specplan.speed.steps.step_seconds``."""
        plainly = (1 - draft_rate) ** self._whole.workload.batch_size
        told = TOKENS_S * (1 + (1 - plainly) * (self._whole.speculation.drafter != "none"))
        drafting = (1 - plainly) * self._draft(gamma, logits_rows)
        return self._verify(gamma, logits_rows, draft_rate) + drafting + told

    def prefill_seconds(self, prefill_chunk: Ints) -> Times:
        """Prefill of all prompts of one sequence, its chunks following one another through the stages."""
        workload = self._whole.workload
        prompt = -(-workload.prompt_tokens // workload.num_turns)
        if prompt == 0:
            return np.zeros(len(prefill_chunk))
        rows, chunks = np.minimum(prefill_chunk, prompt), -(-prompt // prefill_chunk)
        each = Pass(rows=rows, batch_size=1, context=workload.mean_context, head_rows=1, logits_rows=1)
        stages = self._stages("target", each)
        seconds = np.sum(stages, axis=0) + (chunks - 1) * np.max(stages, axis=0)
        if self._whole.draft is not None:
            seconds = seconds + chunks * self.draft_pass(each)
        result: Times = workload.num_turns * seconds
        return result

    def _verify(self, gamma: Ints, logits_rows: Ints, draft_rate: Rate) -> Times:
        parts = self._parallelism.num_micro_batches
        sequences = -(-self._whole.workload.batch_size // parts)
        context = self._whole.workload.mean_context

        def seconds(rows: Ints) -> Times:
            each = Pass(rows=rows, batch_size=sequences, context=context, head_rows=rows, logits_rows=logits_rows)
            stages = self._stages("target", each)
            result: Times = np.sum(stages, axis=0) + (parts - 1) * np.max(stages, axis=0)
            return result

        return mean_over_rows(verified_rows(self._whole, sequences, gamma, draft_rate), seconds)

    def _draft(self, gamma: Ints, logits_rows: Ints) -> Times:
        """All passes of the drafter in a step, and what they leave brought to the rank that decides."""
        whole, parallelism = self._whole, self._parallelism
        if isinstance(whole.heads, MedusaHeads):
            return np.where(gamma > 0, self._medusa(whole.heads, gamma, logits_rows), 0.0)
        if whole.heads is not None:
            return self._beside_logits(gamma, logits_rows)
        draft = None if whole.draft is None else SpreadPasses(self, "draft")
        seconds = draft_seconds(whole, Timing(SpreadPasses(self, "target"), draft), gamma, logits_rows)
        away = parallelism.draft_placement == "rank" and parallelism.draft_rank != parallelism.deciding_rank
        if whole.draft is not None and away:
            probs = _floats(gamma * (4 * whole.workload.batch_size * whole.draft.vocab_size))
            seconds = seconds + np.where(gamma > 0, self._link.send_seconds(probs), 0.0)
        return seconds

    def draft_pass(self, each: Pass) -> Times:
        """One pass of the draft model; where it is whole on several ranks, on the slowest."""
        workload = self._whole.workload
        if self._parallelism.draft_placement == "split":
            result: Times = np.sum(self._stages("draft", each), axis=0) + TOKENS_S
            return result
        timers = [
            RooflineTimer(rank.draft, rank.device, workload.draft_dtype, workload.draft_kv_dtype)
            for rank in self._ranks
            if rank.draft is not None
        ]
        slowest: Times = np.max([timer.pass_seconds(each) for timer in timers], axis=0)
        return slowest

    def target_pass(self, each: Pass) -> Times:
        """One pass of the target, its stages one after the other."""
        result: Times = np.sum(self._stages("target", each), axis=0)
        return result

    def _medusa(self, heads: MedusaHeads, gamma: Ints, logits_rows: Ints) -> Times:
        """All heads once, on one rank or with their output matrices split."""
        rank = self._ranks[self._parallelism.deciding_rank]
        if self._parallelism.draft_placement == "rank":
            return self._beside_logits(gamma, logits_rows)
        pairs = np.full(len(gamma), float(_PAIR_BYTES * self._whole.workload.batch_size))
        gathering = heads.num_heads * heads.topk * self._link.gather_seconds(self._parallelism.tensor_parallel, pairs)
        return draft_seconds(rank, modelled(rank), gamma, logits_rows) + gathering

    def _beside_logits(self, gamma: Ints, logits_rows: Ints) -> Times:
        """Whole heads on the rank that decides."""
        alone = dataclasses.replace(self._ranks[self._parallelism.deciding_rank], target=self._whole.target)
        return draft_seconds(alone, modelled(alone), gamma, logits_rows)

    def _features(self, rows: Rows) -> Times:
        """Hidden states of the layers that an EAGLE-3 head reads, from other stages to the last one."""
        whole, last = self._whole, self._parallelism.first_layer(self._parallelism.num_stages - 1)
        layers = whole.heads.feature_layers if isinstance(whole.heads, Eagle3Head) else ()
        element = float_bytes(weight_format(whole.workload.dtype, whole.target.stored).compute_dtype)
        hidden = _floats(rows * whole.target.hidden_size * element)
        result: Times = sum(layer < last for layer in layers) * self._link.send_seconds(hidden)
        return result

    def _stages(self, owner: Literal["target", "draft"], each: Pass) -> Times:
        """Every stage of a model for one micro-batch, handing it on included; of a stage its slowest rank."""
        parts = self._parallelism.tensor_parallel
        stages = []
        for stage in range(self._parallelism.num_stages):
            ranks = self._ranks[stage * parts : (stage + 1) * parts]
            alike = [rank for index, rank in enumerate(ranks) if all(rank.device != r.device for r in ranks[:index])]
            stages.append(np.max([_rank_seconds(rank, owner, each, self._link) for rank in alike], axis=0))
        if owner == "target":
            stages[-1] = stages[-1] + self._features(each.rows)
        return np.stack(np.broadcast_arrays(*stages))  # those without a head do not depend on its tiles


@dataclass(frozen=True, slots=True)
class SpreadPasses:
    """One model of a spread scenario as a ``StepTimer``.

    Attributes:
        timer: of the scenario.
        owner: which of its models.
    """

    timer: SpreadTimer
    owner: Literal["target", "draft"]

    @property
    def reference(self) -> str:
        """Where its times come from."""
        return REFERENCE

    def pass_seconds(self, each: Pass) -> Times:
        """Modelled seconds."""
        return self.timer.target_pass(each) if self.owner == "target" else self.timer.draft_pass(each)

    def source(self, *, rows: int, batch_size: int, context: int, num_layers: int | None = None) -> Source:
        """Always modelled."""
        return "modelled"

    def host_seconds(self, drafter: Drafter) -> float:
        """Not measured."""
        return 0.0


def _rank_seconds(rank: Scenario, owner: Literal["target", "draft"], each: Pass, link: Link) -> Times:
    """Layers with their sums, the head with its gathering in the last stage, handing on in the others."""
    place, workload = rank.rank, rank.workload
    assert place is not None
    if owner == "target":
        timer = RooflineTimer(rank.target, rank.device, workload.dtype, workload.kv_dtype)
    else:
        assert rank.draft is not None
        timer = RooflineTimer(rank.draft, rank.device, workload.draft_dtype, workload.draft_kv_dtype)
    seconds = timer.layer_seconds(each)
    element = float_bytes(weight_format(timer.dtype, timer.arch.stored).compute_dtype)
    hidden = _floats(each.rows * timer.arch.hidden_size * element)
    sums = _sums(timer.arch, each.num_layers) + place.has_embedding
    seconds = seconds + sums * link.sum_seconds(place.tensor_parallel, hidden)
    if not place.has_head:
        return seconds + link.send_seconds(hidden)
    pairs = _floats(each.tile_rows * _PAIR_BYTES)
    heads: Times = each.num_tiles * (
        timer.tile_seconds(each.tile_rows) + link.gather_seconds(place.tensor_parallel, pairs)
    )
    return seconds + heads


def _floats(num_bytes: Rows) -> Times:
    return np.asarray(num_bytes, dtype=np.float64)


def _sums(arch: ModelArch, num_layers: int | None) -> int:
    """All-reduces of the layers: behind each block, one for both where they are beside each other; two for norms over
    the full width of queries and keys.
    """
    blocks = 1 if arch.norm_placement == "parallel" else 2
    layers = arch.num_hidden_layers if num_layers is None else num_layers
    return layers * (blocks + (2 if arch.qk_norm == "full" else 0))
