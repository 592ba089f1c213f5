"""The memory model of a scenario: which items there are; ``bindings`` say what their symbols stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import sympy

from specplan.families import FAMILIES
from specplan.formulas.bind import Value, evaluate, evaluate_expression
from specplan.formulas.bindings import Bindings
from specplan.formulas.exchange import arena_bytes, exchange_terms
from specplan.formulas.stored_terms import dequantized_term, mtp_term, stored_term
from specplan.formulas.term import Knobs, Term, device_terms, host_terms, term
from specplan.formulas.transformers_terms import transformers_terms
from specplan.formulas.values import arch_values, slot_values
from specplan.formulas.weights import part_bytes, part_padding, present_parts
from specplan.heads import Eagle3Head, MedusaHeads, MtpLayer, head_layer
from specplan.ledger import PHASES, MemoryItem, MemoryLedger, Owner, Phase
from specplan.provenance import Source
from specplan.scenario import Scenario
from specplan.speculation import HEAD_DRAFTERS, MODEL_DRAFTERS, Tree

_MEDUSA_WORKSPACE = ("medusa_block", "medusa_head")
_WORKSPACE = ("tokens", "mask", "rope", "hidden", "normed", "projected", "norm", "scratch")


class MemoryModel:
    """Evaluates the ledger of a scenario for one setting of the knobs or for many at once.

    Args:
        scenario: models, device, workload and drafter; its γ, chunk and logits rows are used unless
            ``knobs`` replaces them.
        knobs: arrays to search over.

    Attributes:
        bindings: what symbols stand for.
    """

    def __init__(self, scenario: Scenario, knobs: Knobs | None = None) -> None:
        speculation = scenario.speculation
        self.scenario = scenario
        self.knobs = knobs or Knobs(speculation.num_draft_nodes, speculation.prefill_chunk, speculation.logits_rows)
        self.bindings = Bindings(scenario, self.knobs)

    @property
    def _drafts_with_model(self) -> bool:
        return self.scenario.speculation.drafter in MODEL_DRAFTERS

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
        if self.scenario.speculation.drafter == "draft_model" and self.bindings.has_draft:
            yield from self._model_terms("draft")
        yield from self._head_terms()
        if self._drafts_with_model and self._has_proposals:
            yield from self._proposal_terms()
        kernel_output = self._kernel_output()
        if kernel_output is not None:
            yield kernel_output
        for phase, values in self.bindings.passes():
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
                arch, weights = self.bindings.arch(owner), self.bindings.weights(owner)
                yield from dequantized_term(phase, arch, weights, self.scenario.device.kind, values["T"])

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
        passes = self.bindings.draft_passes
        yield term("draft_tree", "drafter", "resident", "draft_tree", {"n_t": passes.num_rows})
        kept: dict[str, Value] = {
            "B": self.scenario.workload.batch_size, "w_t": passes.widest, "k_t": passes.topk,
        }  # fmt: skip
        yield term("drafter.candidates", "drafter", "resident", "draft_candidates", kept)

    def _model_terms(self, owner: Literal["target", "draft"]) -> Iterator[Term]:
        values = self.bindings.model_values(owner)
        own = self._own_source(owner)
        stored = self.bindings.weights(owner).stored
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
        if heads is None or not self.bindings.has_drafter:
            return
        values = self.bindings.model_values("target") | self.bindings.head_values(heads)
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
        slots = slot_values(layer, self.bindings.target_slots, self.bindings.written)
        kept = values | {"T": np.maximum(self.bindings.chunk, self.bindings.verify_rows)}
        if self.bindings.weights("target").stored is not None:
            yield mtp_term(heads, self.scenario.target, values | own)
        else:
            yield term("drafter.weights", "drafter", "resident", "mtp_weights", values | own | {"V": values["V"]})
        yield term("drafter.kv_cache", "drafter", "resident", "kv_cache", values | own | slots)
        yield term("drafter.features", "drafter", "resident", "features", kept, "modelled")

    def _eagle3_terms(self, heads: Eagle3Head) -> Iterator[Term]:
        """A layer with a cache of its own, what it reads of the target, and what is kept of its proposals."""
        own, gamma, rank = self.bindings.eagle3_values(heads), {"gamma": self.knobs.gamma}, self.scenario.rank
        whole = own | {"V": self.scenario.target.vocab_size if rank is None else rank.vocab_size}
        items: tuple[tuple[str, str, dict[str, Value]], ...] = (
            ("drafter.weights", "eagle3_weights", whole),
            ("drafter.weight_padding", "eagle3_padding", whole),
            ("drafter.kv_cache", "kv_cache", own),
            ("drafter.kv_padding", "kv_padding", own),
            ("drafter.constants", "constants", own),
            ("drafter.features", "fused", own | gamma | {"T": self.bindings.chunk}),
        )
        branches = isinstance(self.scenario.speculation.shape, Tree)
        if not branches:
            items += (("draft_probs", "draft_probs", own | gamma), ("drafter.scattered", "scattered", whole))
        for name, formula_id, values in items:
            textbook = formula_id in ("eagle3_weights", "kv_cache")
            yield term(name, "drafter", "resident", formula_id, values, "exact" if textbook else self._head_source)
        if branches:
            yield from self._branch_terms()

    @property
    def _head_source(self) -> Source:
        """Exact for heads that the runtime runs: Medusa's, and EAGLE-3 layers."""
        return "modelled" if self.scenario.speculation.drafter == "mtp" else "exact"

    def _own_source(self, owner: Literal["target", "draft"]) -> Source:
        """Exact where the runtime's decoder computes the model; a model of it for families and formats it does not."""
        runs = FAMILIES[self.bindings.arch(owner).model_type].runnable and self.bindings.weights(owner).stored is None
        return "exact" if runs else "modelled"

    @property
    def _has_proposals(self) -> bool:
        """Proposals and their probabilities are where they are drafted, and where it is decided."""
        rank = self.scenario.rank
        return rank is None or rank.decides or (rank.has_drafter and rank.draft_is_whole)

    def _kernel_output(self) -> Term | None:
        """One kernel output lives at a time, so the largest over all passes counts, in every phase."""
        # Medusa's own passes make tiles of logits at most, and no more rows of them than the verify pass
        allocating = [
            values | {"R": self.bindings.logits_made(phase, values)}
            for phase, values in self.bindings.passes()
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
