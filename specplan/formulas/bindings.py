"""``Bindings``: what the symbols of formulas stand for in a scenario: of models, heads and every pass."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import numpy as np

from specplan.arch import ModelArch
from specplan.draft_passes import DraftPasses, draft_passes
from specplan.dtypes import WeightFormat, weight_format
from specplan.formulas.bind import Value
from specplan.formulas.term import Knobs
from specplan.formulas.values import arch_values, head_values, precision_values, rank_values, slot_values
from specplan.heads import Eagle3Head, Heads, MedusaHeads, head_layer
from specplan.ledger import Phase
from specplan.scenario import Scenario
from specplan.speculation import Chain, Tree


class Bindings:
    """Values of symbols, for one setting of the knobs or for many at once.

    Args:
        scenario: models, device, workload and drafter.
        knobs: γ, chunk and logits rows; arrays to search over.
    """

    def __init__(self, scenario: Scenario, knobs: Knobs) -> None:
        self.scenario = scenario
        self.knobs = knobs

    @property
    def _on_cpu(self) -> bool:
        return self.scenario.device.kind == "cpu"

    @property
    def _drafts_on_host(self) -> bool:
        """Then a draft model takes nothing of the device but room for its probabilities."""
        return self.scenario.speculation.draft_device == "host"

    @cached_property
    def target_slots(self) -> Value:
        """KV slots per sequence of the target: context + num_verify_tokens."""
        return self.scenario.workload.context + self.knobs.gamma + 1

    @cached_property
    def draft_slots(self) -> Value:
        """KV slots per sequence of the draft: drafted tokens that nothing was drafted after are never fed to it."""
        return self.scenario.workload.context + self.draft_passes.num_rows

    @cached_property
    def draft_passes(self) -> DraftPasses:
        """What a model feeds itself per step and sequence while it drafts."""
        return draft_passes(self.scenario.speculation.shape, self.knobs.gamma)

    def eagle3_values(self, heads: Eagle3Head) -> dict[str, Value]:
        """The layer in floats, packed where a CPU computes in float32, however the target holds its weights; its cache
        is in the target's format. Among ranks it has its own embedding: the target's is elsewhere or in parts.
        """
        workload, target = self.scenario.workload, self.scenario.target
        layer = head_layer(heads, target)
        compute = weight_format(workload.dtype, target.stored).compute_dtype
        slots = slot_values(layer, self.draft_slots, self.written)
        cache = {"B": workload.batch_size, "C": workload.context} | slots
        precision = precision_values(compute, workload.kv_dtype, on_cpu=self._on_cpu)
        alone = {} if self.scenario.rank is None else {"e_o": 1}
        return arch_values(layer) | precision | cache | head_values(heads) | alone

    def head_values(self, heads: Heads) -> dict[str, Value]:
        """Of heads; whole ones propose from the whole vocabulary, wherever the target's is."""
        rank = self.scenario.rank
        whole: dict[str, Value] = {} if rank is None or not rank.draft_is_whole else {"V": rank.vocab_size, "t_p": 1}
        return head_values(heads) | whole

    @property
    def verify_rows(self) -> Value:
        """Rows of a verify pass over all sequences."""
        return self.scenario.workload.batch_size * (self.knobs.gamma + 1)

    @property
    def _sequences(self) -> int:
        """Sequences of one verify pass: those of a micro-batch."""
        rank = self.scenario.rank
        return -(-self.scenario.workload.batch_size // (1 if rank is None else rank.num_micro_batches))

    @property
    def written(self) -> Value:
        """Tokens of one sequence that the largest pass writes, or that a step takes back."""
        return np.maximum(self.chunk, self.knobs.gamma + 1)

    def arch(self, owner: Literal["target", "draft"]) -> ModelArch:
        """Of the target, or of the draft model, which must be there."""
        arch = self.scenario.draft if owner == "draft" else self.scenario.target
        assert arch is not None
        return arch

    def weights(self, owner: Literal["target", "draft"]) -> WeightFormat:
        """How a model's weights are held."""
        workload = self.scenario.workload
        return weight_format(workload.draft_dtype if owner == "draft" else workload.dtype, self.arch(owner).stored)

    @property
    def has_drafter(self) -> bool:
        """Whether a draft model or heads are on this rank, whole or in part."""
        return self.scenario.rank is None or self.scenario.rank.has_drafter

    @property
    def has_draft(self) -> bool:
        """Whether a draft model is on this device, whole or in part."""
        return self.scenario.draft is not None and not self._drafts_on_host and self.has_drafter

    def model_values(self, owner: Literal["target", "draft"]) -> dict[str, Value]:
        """Of a model: sizes, precision, cache, and what a rank has of it."""
        scenario, workload = self.scenario, self.scenario.workload
        if owner == "target":
            arch, slots = scenario.target, self.target_slots
            precision = precision_values(workload.dtype, workload.kv_dtype, arch.stored, self._on_cpu)
        else:
            assert scenario.draft is not None
            arch, slots = scenario.draft, self.draft_slots
            precision = precision_values(workload.draft_dtype, workload.draft_kv_dtype, arch.stored, self._on_cpu)
        cache = {"B": workload.batch_size, "C": workload.context} | slot_values(arch, slots, self.written)
        return arch_values(arch) | self._spread(owner) | precision | cache

    def _spread(self, owner: Literal["target", "draft"]) -> dict[str, Value]:
        """What a rank has of a model; nothing to say of whole models."""
        rank = self.scenario.rank
        if rank is None or (owner == "draft" and rank.draft_is_whole):
            return {}
        if owner == "draft":  # its passes take the whole batch
            return rank_values(rank) | {"V_p": rank.draft_vocab_size, "m_b": 1}
        return rank_values(rank)

    @property
    def chunk(self) -> Value:
        """Rows of a prefill pass."""
        return np.minimum(self.knobs.prefill_chunk, self.scenario.workload.context)

    def passes(self) -> Iterator[tuple[Phase, dict[str, Value]]]:
        """The passes of a step: phase, and T rows over b sequences with logits for R rows at a time."""
        batch = self.scenario.workload.batch_size
        target = self.model_values("target")
        yield "prefill_target", target | {"T": self.chunk, "b": 1, "R": self._tile(1, target)}
        drafter = self.scenario.speculation.drafter
        if drafter == "early_exit" or self.has_draft:
            draft = target if drafter == "early_exit" else self.model_values("draft")
            if drafter == "draft_model":
                yield "prefill_draft", draft | {"T": self.chunk, "b": 1, "R": self._tile(1, draft)}
            widest = self.draft_passes.widest
            rows = batch * np.maximum(2, widest)
            yield "draft", draft | {"T": rows, "b": batch, "R": self._tile(batch * widest, draft)}
        yield from self._head_passes(target)
        rows = self._sequences * (self.knobs.gamma + 1)
        whole = {} if self._sequences < batch else {"m_b": 1}  # one part follows no other
        yield "verify", target | whole | {"T": rows, "b": self._sequences, "R": self._tile(rows, target)}

    def _head_passes(self, target: dict[str, Value]) -> Iterator[tuple[Phase, dict[str, Value]]]:
        heads, batch, shape = self.scenario.heads, self.scenario.workload.batch_size, self.scenario.speculation.shape
        if heads is None or not self.has_drafter:
            return
        if isinstance(heads, MedusaHeads):
            yield "draft", target | self.head_values(heads) | {"R": self._tile(batch, {"m_r": 2})}
            return
        if isinstance(heads, Eagle3Head):
            own, passes = self.eagle3_values(heads), self.draft_passes
            # what was accepted is taken in again, with the target's own features: a whole path at most
            rows, drawn = batch * np.maximum(passes.widest, passes.depth + 1), batch * passes.widest
        else:
            layer = head_layer(heads, self.scenario.target)
            own = target | arch_values(layer) | slot_values(layer, self.target_slots, self.written)
            rows = drawn = batch * _widest(shape)
        yield "prefill_draft", own | {"T": self.chunk, "b": 1, "R": self._tile(1, own)}
        yield "draft", own | {"T": rows, "b": batch, "R": self._tile(drawn, own)}

    def _tile(self, rows: Value, values: dict[str, Value]) -> Value:
        """Places for rows of logits: at least two and what a product is fed, at most what the pass has."""
        return np.maximum(np.maximum(2, values["m_r"]), np.minimum(self.knobs.logits_rows, rows))

    def logits_made(self, phase: Phase, values: dict[str, Value]) -> Value:
        """Rows that a head makes at one time whose kernel allocates them: no more than are wanted and must be fed."""
        widest = self.draft_passes.widest if phase == "draft" else 1
        wanted = values["T"] if phase == "verify" else values["b"] * widest
        if phase.startswith("prefill"):
            wanted = 1
        return np.minimum(values["R"], np.maximum(wanted, values["m_r"]))


def _widest(shape: Chain | Tree) -> int:
    """Rows per sequence of the widest draft pass: all nodes of one depth, and the last token taken in."""
    if isinstance(shape, Chain):
        return 2
    depths = [len(path) for path in shape.nodes]
    return max(2, *(depths.count(depth) for depth in set(depths)))
