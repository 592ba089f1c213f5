"""The memory model of a scenario: which items there are, and what their formulas' symbols stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import sympy

from specplan.arch import ModelArch
from specplan.draft_passes import DraftPasses, draft_passes
from specplan.dtypes import WeightFormat, weight_format
from specplan.families import FAMILIES
from specplan.formulas.bind import Value, evaluate, evaluate_expression
from specplan.formulas.exchange import arena_bytes, exchange_terms
from specplan.formulas.stored_terms import dequantized_term, mtp_term, stored_term
from specplan.formulas.term import Knobs, Term, device_terms, host_terms, term
from specplan.formulas.transformers_terms import transformers_terms
from specplan.formulas.values import arch_values, head_values, precision_values, rank_values, slot_values
from specplan.formulas.weights import part_bytes, part_padding, present_parts
from specplan.heads import Eagle3Head, Heads, MedusaHeads, MtpLayer, head_layer
from specplan.ledger import PHASES, MemoryItem, MemoryLedger, Owner, Phase
from specplan.provenance import Source
from specplan.scenario import Scenario
from specplan.speculation import HEAD_DRAFTERS, MODEL_DRAFTERS, Chain, Tree

_MEDUSA_WORKSPACE = ("medusa_block", "medusa_head")
_WORKSPACE = ("tokens", "mask", "rope", "hidden", "normed", "projected", "norm", "scratch")


class MemoryModel:
    """Evaluates the ledger of a scenario for one setting of the knobs or for many at once.

    Args:
        scenario: models, device, workload and drafter; its γ, chunk and logits rows are used unless
            ``knobs`` replaces them.
        knobs: arrays to search over.
    """

    def __init__(self, scenario: Scenario, knobs: Knobs | None = None) -> None:
        speculation = scenario.speculation
        self.scenario = scenario
        self.knobs = knobs or Knobs(speculation.num_draft_nodes, speculation.prefill_chunk, speculation.logits_rows)

    @property
    def _on_cpu(self) -> bool:
        return self.scenario.device.kind == "cpu"

    @property
    def _drafts_with_model(self) -> bool:
        return self.scenario.speculation.drafter in MODEL_DRAFTERS

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
        return self.scenario.workload.context + self._draft_passes.num_rows

    @cached_property
    def _draft_passes(self) -> DraftPasses:
        """What a model feeds itself per step and sequence while it drafts."""
        return draft_passes(self.scenario.speculation.shape, self.knobs.gamma)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """All items in order of presentation."""
        return tuple(self._terms())

    def ledger(self) -> MemoryLedger:
        """The items as plain integers; the knobs must be scalars."""
        return MemoryLedger(
            tuple(
                MemoryItem(item.name, int(item.bytes), item.owner, item.phase, item.formula_id, item.source)
                for item in self.terms
            )
        )

    def peak_bytes(self) -> npt.NDArray[np.int64]:
        """Peak for every setting of the knobs: resident + max over phases."""
        totals: dict[Phase, Value] = dict.fromkeys(PHASES, 0)
        for item in self.terms:
            totals[item.phase] = totals[item.phase] + item.bytes
        workspaces = np.broadcast_arrays(*(np.asarray(totals[phase], dtype=np.int64) for phase in PHASES[1:]))
        peak: npt.NDArray[np.int64] = np.asarray(totals["resident"], dtype=np.int64) + np.max(workspaces, axis=0)
        return peak

    def _terms(self) -> Iterator[Term]:
        if self.scenario.transformers_version is not None:
            yield from transformers_terms(self.scenario, self.knobs)
            return
        own = tuple(self._own_terms())
        yield from own
        yield from self._system_terms(own)

    def _own_terms(self) -> Iterator[Term]:
        """What the runtime places: models, drafter, and the passes' workspace."""
        yield from self._model_terms("target")
        if self.scenario.speculation.drafter == "draft_model" and self._has_draft:
            yield from self._model_terms("draft")
        yield from self._head_terms()
        if self._drafts_with_model and self._has_proposals:
            yield from self._proposal_terms()
        kernel_output = self._kernel_output()
        if kernel_output is not None:
            yield kernel_output
        for phase, values in self._passes():
            draft = phase in ("prefill_draft", "draft") and self.scenario.draft is not None
            source = self._own_source("draft" if draft else "target")
            drafts = phase in ("prefill_draft", "draft")
            if drafts and self.scenario.speculation.drafter in HEAD_DRAFTERS:
                source = self._head_source
            for formula_id in _MEDUSA_WORKSPACE if "K_h" in values else _WORKSPACE:
                yield term(f"{phase}.{formula_id}", "runtime", phase, formula_id, values, source)
            yield from exchange_terms(phase, values, source)
            if drafts and isinstance(self.scenario.heads, Eagle3Head | MtpLayer):
                yield term(f"{phase}.joined", "runtime", phase, "joined", values, source)
            if not drafts or self.scenario.heads is None:
                owner: Literal["target", "draft"] = "draft" if draft else "target"
                kind = self.scenario.device.kind
                yield from dequantized_term(phase, self._arch(owner), self._weights(owner), kind, values["T"])

    def _proposal_terms(self) -> Iterator[Term]:
        """What a model leaves of drafting: a chain's distributions; a tree's best tokens, which are certain."""
        if isinstance(self.scenario.speculation.shape, Tree):
            yield from self._branch_terms()
            return
        batch = self.scenario.workload.batch_size
        values = {"B": batch, "gamma": self.knobs.gamma, "V": self.scenario.drafted_vocab_size}
        yield term("draft_probs", "drafter", "resident", "draft_probs", values)

    def _branch_terms(self) -> Iterator[Term]:
        """What drafting a tree depth by depth keeps: the mask of what is fed, and the best tokens after it."""
        passes = self._draft_passes
        yield term("draft_tree", "drafter", "resident", "draft_tree", {"n_t": passes.num_rows})
        kept: dict[str, Value] = {
            "B": self.scenario.workload.batch_size, "w_t": passes.widest, "k_t": passes.topk,
        }  # fmt: skip
        yield term("drafter.candidates", "drafter", "resident", "draft_candidates", kept)

    def _model_terms(self, owner: Literal["target", "draft"]) -> Iterator[Term]:
        values = self._model_values(owner)
        own = self._own_source(owner)
        stored = self._weights(owner).stored
        if stored is None:
            yield _by_parts(f"{owner}.weights", owner, "weights", part_bytes, values, "exact")
        else:
            yield stored_term(f"{owner}.weights", owner, stored, values)
        yield term(f"{owner}.kv_cache", owner, "resident", "kv_cache", values)
        if values["L_l"] or values["L_s"]:
            state = values | {"gamma": self.knobs.gamma}
            yield term(f"{owner}.recurrent_state", owner, "resident", "recurrent_state", state, own)
        if stored is None:
            yield _by_parts(f"{owner}.weight_padding", owner, "weight_padding", part_padding, values, own)
        yield term(f"{owner}.kv_padding", owner, "resident", "kv_padding", values, own)
        yield term(f"{owner}.constants", owner, "resident", "constants", values, own)

    def _head_terms(self) -> Iterator[Term]:
        """What a drafter keeps that rides on the target's hidden states, and the shape of a tree."""
        heads = self.scenario.heads
        if isinstance(self.scenario.speculation.shape, Tree):
            yield term("tree", "drafter", "resident", "tree", {"gamma": self.knobs.gamma})
        if heads is None or not self._has_drafter:
            return
        values = self._model_values("target") | self._head_values(heads)
        if isinstance(heads, MedusaHeads):
            kept = values | {"T": self.scenario.workload.batch_size}
            yield term("drafter.weights", "drafter", "resident", "medusa_weights", values)
            yield term("drafter.weight_padding", "drafter", "resident", "medusa_padding", values)
            yield term("drafter.features", "drafter", "resident", "features", kept)
            yield term("drafter.candidates", "drafter", "resident", "candidates", kept)
            return
        if isinstance(heads, Eagle3Head):
            yield from self._eagle3_terms(heads)
            return
        layer = head_layer(heads, self.scenario.target)
        own = arch_values(layer)
        slots = slot_values(layer, self.target_slots, self._written)
        kept = values | {"T": np.maximum(self._chunk, self._verify_rows)}
        if self._weights("target").stored is not None:
            yield mtp_term(heads, self.scenario.target, values | own)
        else:
            yield term("drafter.weights", "drafter", "resident", "mtp_weights", values | own | {"V": values["V"]})
        yield term("drafter.kv_cache", "drafter", "resident", "kv_cache", values | own | slots)
        yield term("drafter.features", "drafter", "resident", "features", kept, "modelled")

    def _eagle3_terms(self, heads: Eagle3Head) -> Iterator[Term]:
        """A layer with a cache of its own, what it reads of the target, and what is kept of its proposals."""
        own, gamma, rank = self._eagle3_values(heads), {"gamma": self.knobs.gamma}, self.scenario.rank
        whole = own | {"V": self.scenario.target.vocab_size if rank is None else rank.vocab_size}
        items: tuple[tuple[str, str, dict[str, Value]], ...] = (
            ("drafter.weights", "eagle3_weights", whole),
            ("drafter.weight_padding", "eagle3_padding", whole),
            ("drafter.kv_cache", "kv_cache", own),
            ("drafter.kv_padding", "kv_padding", own),
            ("drafter.constants", "constants", own),
            ("drafter.features", "fused", own | gamma | {"T": self._chunk}),
        )
        branches = isinstance(self.scenario.speculation.shape, Tree)
        if not branches:
            items += (("draft_probs", "draft_probs", own | gamma), ("drafter.scattered", "scattered", whole))
        for name, formula_id, values in items:
            textbook = formula_id in ("eagle3_weights", "kv_cache")
            yield term(name, "drafter", "resident", formula_id, values, "exact" if textbook else self._head_source)
        if branches:
            yield from self._branch_terms()

    def _eagle3_values(self, heads: Eagle3Head) -> dict[str, Value]:
        """The layer in floats, packed where a CPU computes in float32, however the target holds its weights; its cache
        is in the target's format. Among ranks it has its own embedding: the target's is elsewhere or in parts.
        """
        workload, target = self.scenario.workload, self.scenario.target
        layer = head_layer(heads, target)
        compute = weight_format(workload.dtype, target.stored).compute_dtype
        slots = slot_values(layer, self.draft_slots, self._written)
        cache = {"B": workload.batch_size, "C": workload.context} | slots
        precision = precision_values(compute, workload.kv_dtype, on_cpu=self._on_cpu)
        alone = {} if self.scenario.rank is None else {"e_o": 1}
        return arch_values(layer) | precision | cache | head_values(heads) | alone

    @property
    def _head_source(self) -> Source:
        """Exact for heads that the runtime runs: Medusa's, and EAGLE-3 layers."""
        return "modelled" if self.scenario.speculation.drafter == "mtp" else "exact"

    def _head_values(self, heads: Heads) -> dict[str, Value]:
        """Of heads; whole ones propose from the whole vocabulary, wherever the target's is."""
        rank = self.scenario.rank
        whole: dict[str, Value] = {} if rank is None or not rank.draft_is_whole else {"V": rank.vocab_size, "t_p": 1}
        return head_values(heads) | whole

    @property
    def _verify_rows(self) -> Value:
        return self.scenario.workload.batch_size * (self.knobs.gamma + 1)

    @property
    def _sequences(self) -> int:
        """Sequences of one verify pass: those of a micro-batch."""
        rank = self.scenario.rank
        return -(-self.scenario.workload.batch_size // (1 if rank is None else rank.num_micro_batches))

    @property
    def _written(self) -> Value:
        """Tokens of one sequence that the largest pass writes, or that a step takes back."""
        return np.maximum(self._chunk, self.knobs.gamma + 1)

    def _own_source(self, owner: Literal["target", "draft"]) -> Source:
        """Exact where the runtime's decoder computes the model; a model of it for families and formats it does not."""
        runs = FAMILIES[self._arch(owner).model_type].runnable and self._weights(owner).stored is None
        return "exact" if runs else "modelled"

    def _arch(self, owner: Literal["target", "draft"]) -> ModelArch:
        arch = self.scenario.draft if owner == "draft" else self.scenario.target
        assert arch is not None
        return arch

    def _weights(self, owner: Literal["target", "draft"]) -> WeightFormat:
        workload = self.scenario.workload
        return weight_format(workload.draft_dtype if owner == "draft" else workload.dtype, self._arch(owner).stored)

    @property
    def _has_drafter(self) -> bool:
        """Whether a draft model or heads are on this rank, whole or in part."""
        return self.scenario.rank is None or self.scenario.rank.has_drafter

    @property
    def _has_draft(self) -> bool:
        return self.scenario.draft is not None and not self._drafts_on_host and self._has_drafter

    @property
    def _has_proposals(self) -> bool:
        """Proposals and their probabilities are where they are drafted, and where it is decided."""
        rank = self.scenario.rank
        return rank is None or rank.decides or (rank.has_drafter and rank.draft_is_whole)

    def _model_values(self, owner: Literal["target", "draft"]) -> dict[str, Value]:
        scenario, workload = self.scenario, self.scenario.workload
        if owner == "target":
            arch, slots = scenario.target, self.target_slots
            precision = precision_values(workload.dtype, workload.kv_dtype, arch.stored, self._on_cpu)
        else:
            assert scenario.draft is not None
            arch, slots = scenario.draft, self.draft_slots
            precision = precision_values(workload.draft_dtype, workload.draft_kv_dtype, arch.stored, self._on_cpu)
        cache = {"B": workload.batch_size, "C": workload.context} | slot_values(arch, slots, self._written)
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
    def _chunk(self) -> Value:
        """Rows of a prefill pass."""
        return np.minimum(self.knobs.prefill_chunk, self.scenario.workload.context)

    def _passes(self) -> Iterator[tuple[Phase, dict[str, Value]]]:
        """The passes of a step: phase, and T rows over b sequences with logits for R rows at a time."""
        batch = self.scenario.workload.batch_size
        target = self._model_values("target")
        yield "prefill_target", target | {"T": self._chunk, "b": 1, "R": self._tile(1, target)}
        drafter = self.scenario.speculation.drafter
        if drafter == "early_exit" or self._has_draft:
            draft = target if drafter == "early_exit" else self._model_values("draft")
            if drafter == "draft_model":
                yield "prefill_draft", draft | {"T": self._chunk, "b": 1, "R": self._tile(1, draft)}
            widest = self._draft_passes.widest
            rows = batch * np.maximum(2, widest)
            yield "draft", draft | {"T": rows, "b": batch, "R": self._tile(batch * widest, draft)}
        yield from self._head_passes(target)
        rows = self._sequences * (self.knobs.gamma + 1)
        whole = {} if self._sequences < batch else {"m_b": 1}  # one part follows no other
        yield "verify", target | whole | {"T": rows, "b": self._sequences, "R": self._tile(rows, target)}

    def _head_passes(self, target: dict[str, Value]) -> Iterator[tuple[Phase, dict[str, Value]]]:
        heads, batch, shape = self.scenario.heads, self.scenario.workload.batch_size, self.scenario.speculation.shape
        if heads is None or not self._has_drafter:
            return
        if isinstance(heads, MedusaHeads):
            yield "draft", target | self._head_values(heads) | {"R": self._tile(batch, {"m_r": 2})}
            return
        if isinstance(heads, Eagle3Head):
            own, passes = self._eagle3_values(heads), self._draft_passes
            # what was accepted is taken in again, with the target's own features: a whole path at most
            rows, drawn = batch * np.maximum(passes.widest, passes.depth + 1), batch * passes.widest
        else:
            layer = head_layer(heads, self.scenario.target)
            own = target | arch_values(layer) | slot_values(layer, self.target_slots, self._written)
            rows = drawn = batch * _widest(shape)
        yield "prefill_draft", own | {"T": self._chunk, "b": 1, "R": self._tile(1, own)}
        yield "draft", own | {"T": rows, "b": batch, "R": self._tile(drawn, own)}

    def _tile(self, rows: Value, values: dict[str, Value]) -> Value:
        """Places for rows of logits: at least two and what a product is fed, at most what the pass has."""
        return np.maximum(np.maximum(2, values["m_r"]), np.minimum(self.knobs.logits_rows, rows))

    def _logits_made(self, phase: Phase, values: dict[str, Value]) -> Value:
        """Rows that a head makes at one time whose kernel allocates them: no more than are wanted and must be fed."""
        widest = self._draft_passes.widest if phase == "draft" else 1
        wanted = values["T"] if phase == "verify" else values["b"] * widest
        if phase.startswith("prefill"):
            wanted = 1
        return np.minimum(values["R"], np.maximum(wanted, values["m_r"]))

    def _kernel_output(self) -> Term | None:
        """One kernel output lives at a time, so the largest over all passes counts, in every phase."""
        # Medusa's own passes make tiles of logits at most, and no more rows of them than the verify pass
        allocating = [
            values | {"R": self._logits_made(phase, values)}
            for phase, values in self._passes()
            if values["f_o"] and "T" in values
        ]
        needs = [(values, evaluate("kernel_output", values)) for values in allocating]
        if not needs:
            return None
        values, most = needs[0]
        for _, need in needs[1:]:
            most = np.maximum(most, need)
        return Term("kernel_output", "runtime", "resident", "kernel_output", "exact", values, most)

    def _system_terms(self, own: Sequence[Term]) -> Iterator[Term]:
        device = self.scenario.device
        if device.kind == "cpu":
            yield from host_terms(self.scenario)
            return
        yield from device_terms(self.scenario)
        if device.kind in ("cuda", "rocm"):
            arena = {"N": arena_bytes(own)}
            yield term("allocator_rounding", "system", "resident", "allocator_rounding", arena, "published")


def _by_parts(
    name: str,
    owner: Owner,
    formula_id: str,
    bytes_of: Callable[[str], sympy.Expr],
    values: dict[str, Value],
    source: Source,
) -> Term:
    """An item of the weights, of those parts that the model has."""
    parts = tuple((part, bytes_of(part)) for part in present_parts(values))
    num_bytes = sum((evaluate_expression(expr, values) for _, expr in parts), start=0)
    return Term(name, owner, "resident", formula_id, source, values, num_bytes, parts)


def _widest(shape: Chain | Tree) -> int:
    """Rows per sequence of the widest draft pass: all nodes of one depth, and the last token taken in."""
    if isinstance(shape, Chain):
        return 2
    depths = [len(path) for path in shape.nodes]
    return max(2, *(depths.count(depth) for depth in set(depths)))
