"""The memory model of a scenario: which items there are, and what their formulas' symbols stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from specplan.arch import ModelArch
from specplan.families import FAMILIES
from specplan.formulas import system
from specplan.formulas.bind import Value, evaluate
from specplan.formulas.values import arch_values, head_values, precision_values, slot_values
from specplan.heads import Eagle3Head, MedusaHeads, head_layer
from specplan.ledger import PHASES, MemoryItem, MemoryLedger, Owner, Phase
from specplan.provenance import Source
from specplan.scenario import Scenario
from specplan.speculation import HEAD_DRAFTERS, Chain, Tree

#: Resident memory of interpreter, torch, transformers and a tokenizer before any weight is loaded.
PROCESS_BYTES = 448 << 20


@dataclass(frozen=True, slots=True)
class Knobs:
    """The knobs of a speculation that size memory: numbers, or arrays of equal length for a search.

    Attributes:
        gamma: num_speculative_tokens of a chain, num_draft_nodes of a tree.
        prefill_chunk: prompt tokens per pass.
        logits_rows: rows of logits at one time.
    """

    gamma: Value
    prefill_chunk: Value
    logits_rows: Value


@dataclass(frozen=True, slots=True)
class Term:
    """An item whose bytes may be an array, with the values its formula was given."""

    name: str
    owner: Owner
    phase: Phase
    formula_id: str
    source: Source
    values: dict[str, Value]
    bytes: Value


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
    def _drafts_with_model(self) -> bool:
        return self.scenario.speculation.drafter in ("draft_model", "early_exit")

    @cached_property
    def target_slots(self) -> Value:
        """KV slots per sequence of the target: context + num_verify_tokens."""
        return self.scenario.workload.context + self.knobs.gamma + 1

    @cached_property
    def draft_slots(self) -> Value:
        """KV slots per sequence of the draft: the last drafted token is never fed to it."""
        return self.scenario.workload.context + self.knobs.gamma

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """All items in order of presentation."""
        return tuple(self._terms())

    def ledger(self) -> MemoryLedger:
        """The items as plain integers; the knobs must be scalars."""
        return MemoryLedger(
            tuple(
                MemoryItem(term.name, int(term.bytes), term.owner, term.phase, term.formula_id, term.source)
                for term in self.terms
            )
        )

    def peak_bytes(self) -> npt.NDArray[np.int64]:
        """Peak for every setting of the knobs: resident + max over phases."""
        totals: dict[Phase, Value] = dict.fromkeys(PHASES, 0)
        for term in self.terms:
            totals[term.phase] = totals[term.phase] + term.bytes
        workspaces = np.broadcast_arrays(*(np.asarray(totals[phase], dtype=np.int64) for phase in PHASES[1:]))
        peak: npt.NDArray[np.int64] = np.asarray(totals["resident"], dtype=np.int64) + np.max(workspaces, axis=0)
        return peak

    def _terms(self) -> Iterator[Term]:
        yield from self._model_terms("target")
        if self.scenario.speculation.drafter == "draft_model":
            yield from self._model_terms("draft")
        yield from self._head_terms()
        if self._drafts_with_model:
            values = {
                "B": self.scenario.workload.batch_size,
                "gamma": self.knobs.gamma,
                "V": self._drafting_arch.vocab_size,
            }
            yield self._term("draft_probs", "drafter", "resident", "draft_probs", values)
        kernel_output = self._kernel_output()
        if kernel_output is not None:
            yield kernel_output
        for phase, values in self._passes():
            draft = phase in ("prefill_draft", "draft") and self.scenario.draft is not None
            source = self._own_source("draft" if draft else "target")
            if phase == "draft" and self.scenario.speculation.drafter in HEAD_DRAFTERS:
                source = "exact" if isinstance(self.scenario.heads, MedusaHeads) else "modelled"
            for formula_id in _MEDUSA_WORKSPACE if "K_h" in values else _WORKSPACE:
                yield self._term(f"{phase}.{formula_id}", "runtime", phase, formula_id, values, source)
        yield from self._system_terms()

    def _model_terms(self, owner: Literal["target", "draft"]) -> Iterator[Term]:
        values = self._model_values(owner)
        own = self._own_source(owner)
        yield self._term(f"{owner}.weights", owner, "resident", "weights", values)
        yield self._term(f"{owner}.kv_cache", owner, "resident", "kv_cache", values)
        if values["L_l"] or values["L_s"]:
            state = values | {"gamma": self.knobs.gamma}
            yield self._term(f"{owner}.recurrent_state", owner, "resident", "recurrent_state", state, own)
        yield self._term(f"{owner}.weight_padding", owner, "resident", "weight_padding", values, own)
        yield self._term(f"{owner}.kv_padding", owner, "resident", "kv_padding", values, own)
        yield self._term(f"{owner}.constants", owner, "resident", "constants", values, own)

    def _head_terms(self) -> Iterator[Term]:
        """What a drafter keeps that rides on the target's hidden states, and the shape of a tree."""
        heads = self.scenario.heads
        if isinstance(self.scenario.speculation.shape, Tree):
            yield self._term("tree", "drafter", "resident", "tree", {"gamma": self.knobs.gamma})
        if heads is None:
            return
        values = self._model_values("target") | head_values(heads)
        if isinstance(heads, MedusaHeads):
            kept = values | {"T": self.scenario.workload.batch_size}
            yield self._term("drafter.weights", "drafter", "resident", "medusa_weights", values)
            yield self._term("drafter.weight_padding", "drafter", "resident", "medusa_padding", values)
            yield self._term("drafter.features", "drafter", "resident", "features", kept)
            yield self._term("drafter.candidates", "drafter", "resident", "candidates", kept)
            return
        layer = head_layer(heads, self.scenario.target)
        own = arch_values(layer)
        slots = slot_values(layer, self.target_slots, self._written)
        weights = "eagle3_weights" if isinstance(heads, Eagle3Head) else "mtp_weights"
        kept = values | {"T": np.maximum(self._chunk, self._verify_rows)}
        yield self._term("drafter.weights", "drafter", "resident", weights, values | own | {"V": values["V"]})
        yield self._term("drafter.kv_cache", "drafter", "resident", "kv_cache", values | own | slots)
        yield self._term("drafter.features", "drafter", "resident", "features", kept, "modelled")

    @property
    def _verify_rows(self) -> Value:
        return self.scenario.workload.batch_size * (self.knobs.gamma + 1)

    @property
    def _written(self) -> Value:
        """Tokens of one sequence that the largest pass writes, or that a step takes back."""
        return np.maximum(self._chunk, self.knobs.gamma + 1)

    def _own_source(self, owner: Literal["target", "draft"]) -> Source:
        """Exact where the runtime's decoder computes the model; a model of it for the families that it does not."""
        arch = self.scenario.draft if owner == "draft" else self.scenario.target
        assert arch is not None
        return "exact" if FAMILIES[arch.model_type].runnable else "modelled"

    @property
    def _drafting_arch(self) -> ModelArch:
        return self.scenario.draft or self.scenario.target

    def _model_values(self, owner: Literal["target", "draft"]) -> dict[str, Value]:
        scenario, workload = self.scenario, self.scenario.workload
        if owner == "target":
            arch, slots = scenario.target, self.target_slots
            precision = precision_values(workload.dtype, workload.kv_dtype)
        else:
            assert scenario.draft is not None
            arch, slots = scenario.draft, self.draft_slots
            precision = precision_values(workload.draft_dtype, workload.draft_kv_dtype)
        cache = {"B": workload.batch_size, "C": workload.context} | slot_values(arch, slots, self._written)
        return arch_values(arch) | precision | cache

    @property
    def _chunk(self) -> Value:
        """Rows of a prefill pass."""
        return np.minimum(self.knobs.prefill_chunk, self.scenario.workload.context)

    def _passes(self) -> Iterator[tuple[Phase, dict[str, Value]]]:
        """The passes of a step: phase, and T rows over b sequences with logits for R rows at a time."""
        batch = self.scenario.workload.batch_size
        target = self._model_values("target")
        yield "prefill_target", target | {"T": self._chunk, "b": 1, "R": 2}
        drafter = self.scenario.speculation.drafter
        if self._drafts_with_model:
            draft = target if drafter == "early_exit" else self._model_values("draft")
            if drafter == "draft_model":
                yield "prefill_draft", draft | {"T": self._chunk, "b": 1, "R": 2}
            yield "draft", draft | {"T": 2 * batch, "b": batch, "R": self._tile(batch)}
        yield from self._head_passes(target)
        rows = self._verify_rows
        yield "verify", target | {"T": rows, "b": batch, "R": self._tile(rows)}

    def _head_passes(self, target: dict[str, Value]) -> Iterator[tuple[Phase, dict[str, Value]]]:
        heads, batch, shape = self.scenario.heads, self.scenario.workload.batch_size, self.scenario.speculation.shape
        if heads is None:
            return
        if isinstance(heads, MedusaHeads):
            yield "draft", target | head_values(heads) | {"R": self._tile(batch)}
            return
        layer = head_layer(heads, self.scenario.target)
        own = target | arch_values(layer) | slot_values(layer, self.target_slots, self._written)
        yield "prefill_draft", own | {"T": self._chunk, "b": 1, "R": 2}
        rows = batch * _widest(shape)
        yield "draft", own | {"T": rows, "b": batch, "R": self._tile(rows)}

    def _tile(self, rows: Value) -> Value:
        """Rows of logits at one time: at least two, at most what the pass has."""
        return np.maximum(2, np.minimum(self.knobs.logits_rows, rows))

    def _kernel_output(self) -> Term | None:
        """One int8 kernel output lives at a time, so the largest over all passes counts, in every phase."""
        # Medusa's own passes make tiles of logits at most, and no more rows of them than the verify pass
        passes = [values for _, values in self._passes() if values["f_o"] and "T" in values]
        needs = [(values, evaluate("kernel_output", values)) for values in passes]
        if not needs:
            return None
        values, most = needs[0]
        for _, need in needs[1:]:
            most = np.maximum(most, need)
        return Term("kernel_output", "runtime", "resident", "kernel_output", "exact", values, most)

    def _system_terms(self) -> Iterator[Term]:
        device = self.scenario.device
        if device.kind == "cpu":
            yield _fixed("process", PROCESS_BYTES, "assumed")
            values: dict[str, Value] = {"G": self._loader_tile()}
            yield self._term("load_staging", "system", "load", "load_staging", values, "modelled")
            return
        yield _fixed("device_context", int(device.context_bytes.value), device.context_bytes.source)
        if device.kind in ("cuda", "rocm"):
            workspace = device.cublas_workspace_bytes
            yield _fixed("cublas_workspace", int(workspace.value), workspace.source)
            arena = {"N": self._arena_bytes()}
            yield self._term("allocator_rounding", "system", "resident", "allocator_rounding", arena, "published")

    def _arena_bytes(self) -> Value:
        """The runtime's one allocation: everything it owns except outputs of int8 kernels."""
        own = [term for term in self._own_terms() if term.name != "kernel_output"]
        workspaces = [sum((t.bytes for t in own if t.phase == phase), start=0) for phase in PHASES[1:]]
        largest = workspaces[0]
        for workspace in workspaces[1:]:
            largest = np.maximum(largest, workspace)
        return sum((term.bytes for term in own if term.phase == "resident"), start=0) + largest

    def _own_terms(self) -> list[Term]:
        terms = []
        for term in self._terms():
            if term.owner == "system":
                break
            terms.append(term)
        return terms

    def _loader_tile(self) -> int:
        archs = [arch for arch in (self.scenario.target, self.scenario.draft) if arch is not None]
        widest = max(max(arch.intermediate_size, arch.hidden_size) for arch in archs)
        return max(system.LOADER_TILE_ELEMENTS, widest)

    def _term(
        self,
        name: str,
        owner: Owner,
        phase: Phase,
        formula_id: str,
        values: dict[str, Value],
        source: Source = "exact",
    ) -> Term:
        return Term(name, owner, phase, formula_id, source, values, evaluate(formula_id, values))


def _widest(shape: Chain | Tree) -> int:
    """Rows per sequence of the widest draft pass: all nodes of one depth, and the last token taken in."""
    if isinstance(shape, Chain):
        return 2
    depths = [len(path) for path in shape.nodes]
    return max(2, *(depths.count(depth) for depth in set(depths)))


def _fixed(name: str, num_bytes: int, source: Source) -> Term:
    symbol = {
        "device_context": "context_bytes",
        "cublas_workspace": "workspace_bytes",
        "process": "process_bytes",
    }[name]
    return Term(name, "system", "resident", name, source, {symbol: num_bytes}, num_bytes)
