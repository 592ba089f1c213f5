"""``Engine``: a plan brought to life. Read ``step`` first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from specplan import planfile
from specplan.errors import InputError, UnsupportedError
from specplan.plan import Plan
from specplan.speculation import Tree
from specplan_runtime.acceptance import Outcome, SampledAcceptance, accept_greedy
from specplan_runtime.adaptive import AdaptiveLimit
from specplan_runtime.assembly import Assembly
from specplan_runtime.build import OwnAssembly, assemble
from specplan_runtime.distributed.ranks import Ranks
from specplan_runtime.drafters.base import Drafter, NoDrafter
from specplan_runtime.forward import SamplingBuffers
from specplan_runtime.loading.load import Progress
from specplan_runtime.prefill import prefill
from specplan_runtime.sampling import RowSampler, SamplingParams, Uniform
from specplan_runtime.sequence import Sequence
from specplan_runtime.span import Span
from specplan_runtime.stats import SpecStats, Timings
from specplan_runtime.topology import chain_topology


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue.

    Attributes:
        index: the caller's number for it.
        tokens: the prompt.
        max_new_tokens: where to stop at the latest.
    """

    index: int
    tokens: list[int]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Emission:
    """Tokens that one step gave one request.

    Attributes:
        index: of the request.
        tokens: new ones.
        finish_reason: ``stop`` or ``length`` with the last tokens, else None.
    """

    index: int
    tokens: list[int]
    finish_reason: str | None


class Engine:
    """Generates inside a plan.

    >>> from specplan_runtime import Engine                        # doctest: +SKIP
    >>> engine = Engine.from_file("plan.json")                     # doctest: +SKIP
    >>> tokens = engine.generate([1, 2, 3], max_new_tokens=32)     # doctest: +SKIP

    Args:
        plan: what to allocate and how to speculate.
        progress: told a fraction while weights load.
        random_weights: noise instead of the model's files, for measurements of memory and speed.
        adaptive: draft fewer tokens than planned, or none, while that is faster; the output stays the same.
        ranks: this process among those that run a plan of several devices, as the one that decides.

    Raises:
        BudgetError: the device cannot hold the plan.
        InputError: the model files are not those of the plan, or the plan is not one that this runtime runs.
    """

    def __init__(
        self,
        plan: Plan,
        progress: Progress = lambda _: None,
        random_weights: bool = False,
        adaptive: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self.plan = plan
        self.assembly: Assembly[Any] = assemble(plan, progress, random_weights, ranks)
        self.drafter: Drafter = self.assembly.drafter
        self.stats = SpecStats()
        self.timings = Timings()
        self._rows: list[Sequence | None] = [None] * plan.workload.batch_size
        shape = plan.speculation.shape
        most = shape.num_draft_nodes
        depth = shape.depth if isinstance(shape, Tree) else None
        self._limit = AdaptiveLimit(most, depth) if adaptive and most else None

    @classmethod
    def from_file(cls, path: str) -> Engine:
        """Read a plan file and load it."""
        return cls(planfile.load(Path(path)))

    def set_speculating(self, speculating: bool) -> None:
        """Switch between the plan's drafter and plain decoding, in the same memory."""
        self.drafter = self.assembly.drafter if speculating else NoDrafter()

    @property
    def _speculating(self) -> bool:
        return self.drafter is self.assembly.drafter

    def stop_at(self, token_ids: Iterable[int]) -> None:
        """End generation at these tokens too, besides those of the plan."""
        known = self.assembly.eos_token_ids
        self.assembly.eos_token_ids = tuple(dict.fromkeys((*known, *token_ids)))

    def reset_counters(self) -> None:
        """Start statistics and timings over."""
        self.stats, self.timings = SpecStats(), Timings()

    def generate(self, tokens: list[int], max_new_tokens: int, params: SamplingParams | None = None) -> list[int]:
        """Continue one prompt; returns the new tokens."""
        new: list[int] = []
        for emission in self.serve([Request(0, tokens, max_new_tokens)], params):
            new += emission.tokens
        return new

    def serve(self, requests: Iterable[Request], params: SamplingParams | None = None) -> Iterator[Emission]:
        """Continue many prompts, as many at a time as the plan has rows; a finished row takes the next prompt.

        Raises:
            InputError: a prompt that is empty or leaves no room in the plan's context; or other prompts were begun
                before these were finished: the rows are theirs now.
        """
        params = params or SamplingParams()
        waiting = iter(requests)
        indexes: dict[int, int] = {}
        rows = self._rows = [None] * len(self._rows)
        while True:
            if self._rows is not rows:
                raise InputError("other prompts were begun before these were finished: an engine serves one at a time")
            for row in range(len(self._rows)):
                while self._rows[row] is None and (request := next(waiting, None)) is not None:
                    indexes[row] = request.index
                    fresh = self.open(request.tokens, request.max_new_tokens, row, request.index)
                    yield Emission(request.index, self.start(fresh, params), fresh.finish_reason)
                    self._rows[row] = None if fresh.finish_reason else fresh
            if not any(self._rows):
                return
            for row, tokens in self.step(params):
                sequence = self._rows[row]
                assert sequence is not None
                yield Emission(indexes[row], tokens, sequence.finish_reason)
                if sequence.finish_reason:
                    self._rows[row] = None

    @property
    def own(self) -> OwnAssembly:
        """What a plan of the runtime's own forward is made of.

        Raises:
            UnsupportedError: the plan's forward is that of transformers.
        """
        if not isinstance(self.assembly, OwnAssembly):
            raise UnsupportedError(f"the forward of this plan is {self.plan.forward}, not the runtime's own")
        return self.assembly

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.assembly.device

    def check_prompts(self, prompts: Iterable[list[int]], max_new_tokens: int) -> None:
        """Refuse prompts that could not be served, before any is.

        Raises:
            InputError: an empty prompt, one outside the vocabulary, or one that leaves no room in the context.
        """
        for tokens in prompts:
            self._check_prompt(tokens, max_new_tokens)

    def open(self, tokens: list[int], max_new_tokens: int, row: int = 0, index: int = 0) -> Sequence:
        """A sequence for a prompt, not yet prefilled; its random numbers depend on ``index``.

        Raises:
            InputError: an empty prompt, or one that leaves no room in the context.
        """
        self._check_prompt(tokens, max_new_tokens)
        return Sequence(row, list(tokens), len(tokens), max_new_tokens, index=index)

    def resume(self, sequence: Sequence, tokens: list[int], max_new_tokens: int, index: int = 0) -> None:
        """Give a sequence its next prompt; the caches keep what the new tokens share with the old ones.

        Raises:
            InputError: a prompt that leaves no room in the context.
        """
        self._check_prompt(tokens, max_new_tokens)
        shared = 0
        for old, new in zip(sequence.tokens, tokens, strict=False):
            if old != new:
                break
            shared += 1
        shared = self.assembly.drafter.reusable(sequence, shared)
        target, draft = self.assembly.target, self.assembly.draft
        gamma = self.plan.speculation.num_draft_nodes
        sequence.num_target_cached = target.rewound(sequence.num_target_cached, shared, gamma)
        sequence.num_draft_cached = draft.rewound(sequence.num_draft_cached, shared, gamma)
        sequence.tokens = list(tokens)
        sequence.num_prompt_tokens = len(tokens)
        sequence.max_new_tokens = max_new_tokens
        sequence.finish_reason = None
        sequence.index = index

    @torch.inference_mode()
    def start(self, sequence: Sequence, params: SamplingParams) -> list[int]:
        """Prefill a sequence and emit its first token."""
        began = time.perf_counter()
        sequence.uniform = params.source(sequence.index)
        work = self.assembly.workspaces["prefill_target"]
        cached = min(sequence.num_target_cached, len(sequence.tokens) - 1)
        sequence.num_target_cached = 0  # an interrupted prefill may have overwritten slots of a window
        chunk = self.assembly.prefill_chunk
        target, tokens = self.assembly.target, sequence.tokens
        last = prefill(target, work, chunk, sequence.row, tokens, cached, partial(self.drafter.follow, sequence))
        sequence.num_target_cached = len(sequence.tokens)
        token = self._next_token(work, last - 1, params, sequence.uniform)
        self.drafter.observe(sequence.row, self.assembly.target.last_normalized(work, 0))
        self.drafter.follow(sequence, len(tokens) - last, last)
        emitted = sequence.emit([token], self.assembly.eos_token_ids, self.plan.workload.context)
        first = time.perf_counter()
        self.drafter.prefill(sequence)
        self.timings.record_prefill(first - began, time.perf_counter() - began)
        return emitted

    @torch.inference_mode()
    def step(self, params: SamplingParams) -> list[tuple[int, list[int]]]:
        """One round of speculation for every active row: draft, verify, accept, commit.

        Returns:
            (row, emitted tokens) of the rows that took part.
        """
        began = time.perf_counter()
        proposals = self.drafter.propose(self._rows, self._limits(), params)
        emitted: list[tuple[int, list[int]]] = []
        outcomes: dict[int, Outcome] = {}
        parts = self._parts()
        spans = [self._verify_span(rows, proposals) for rows in parts]
        self.assembly.target.expect(self.assembly.workspaces["verify"], spans, not params.greedy)
        for rows, span in zip(parts, spans, strict=True):
            self.assembly.target.forward(self.assembly.workspaces["verify"], span)
            decided = self._accept(rows, span, proposals, params)
            for row, outcome in decided.items():
                emitted.append((row, self._commit(row, row - rows.start, span, proposals[row], outcome)))
            outcomes |= decided
        seconds = time.perf_counter() - began
        self.timings.record_step(seconds, sum(len(tokens) for _, tokens in emitted))
        if self._limit is not None and self._speculating:
            drafted = [len(proposals[row]) for row in outcomes]
            self._limit.observe(seconds, drafted, [len(outcome.path) for outcome in outcomes.values()])
        return emitted

    def run_row(self, sequence: Sequence, params: SamplingParams) -> Iterator[list[int]]:
        """Step one sequence alone until it ends; for conversations that keep their cache."""
        self._rows = [None] * len(self._rows)
        self._rows[sequence.row] = sequence
        while sequence.finish_reason is None:
            for _, tokens in self.step(params):
                yield tokens

    def _check_prompt(self, tokens: list[int], max_new_tokens: int) -> None:
        context = self.plan.workload.context
        if not tokens:
            raise InputError("the prompt is empty")
        if max_new_tokens < 1:
            raise InputError(f"--max-new-tokens {max_new_tokens}: expected at least 1")
        if len(tokens) >= context:
            raise InputError(f"the prompt has {len(tokens)} tokens, the plan's context is {context}")
        if max(tokens) >= self.plan.inputs.target.arch.vocab_size or min(tokens) < 0:
            raise InputError("the prompt has token ids outside the vocabulary")

    def _limits(self) -> list[int]:
        """How many proposals each row can use: the last token of a turn is always the target's own."""
        planned = self.plan.speculation.num_draft_nodes
        gamma = planned if self._limit is None else self._limit.next_limit()
        return [0 if s is None else max(0, min(gamma, s.max_new_tokens - len(s.new_tokens) - 1)) for s in self._rows]

    def _parts(self) -> list[range]:
        """Cache rows of each verify pass of a step: all of them, or those of a micro-batch where one is active."""
        size, batch = self.assembly.workspaces["verify"].shape.batch_size, len(self._rows)
        parts = [range(first, min(first + size, batch)) for first in range(0, batch, size)]
        return [rows for rows in parts if any(self._rows[rows.start : rows.stop])]

    def _verify_span(self, rows: range, proposals: list[list[int]]) -> Span:
        """The last token of each row and its proposals; nothing of rows without a sequence."""
        tokens, starts = [], []
        sequences = self._rows[rows.start : rows.stop]
        for sequence, row in zip(sequences, rows, strict=True):
            tokens.append([] if sequence is None else [sequence.tokens[-1], *proposals[row]])
            starts.append(0 if sequence is None else len(sequence.tokens) - 1)
        idle = frozenset(place for place, sequence in enumerate(sequences) if sequence is None)
        topology = self.assembly.topology
        branches = topology.hidden is not None and max(map(len, tokens)) == topology.num_rows
        if branches:
            tokens = [fed + [0] * (topology.num_rows - len(fed)) if fed else [] for fed in tokens]
        first = None if len(rows) == len(self._rows) else rows.start
        span = Span(tokens, starts, first, idle, topology if branches else None)
        return span if self.assembly.takes_ragged else span.filled()

    def _accept(
        self, part: range, span: Span, proposals: list[list[int]], params: SamplingParams
    ) -> dict[int, Outcome]:
        """For each active row of a part the accepted proposals and the target's own next token."""
        work, target = self.assembly.workspaces["verify"], self.assembly.target
        topology = span.topology or chain_topology(span.num_tokens)
        sequences = {row: sequence for row in part if (sequence := self._rows[row]) is not None}
        if params.greedy:
            best = target.best(work, None, span.num_rows)
            rows = {row: best[span.rows_of(row - part.start)] for row in sequences}
            return {row: accept_greedy(topology, proposals[row], choices) for row, choices in rows.items()}
        sources = {row: sequence.uniform for row, sequence in sequences.items()}
        judge = SampledAcceptance(topology, proposals, sources, RowSampler(work, params), self.drafter.probs)
        places = [(row, place) for row, length in zip(part, span.lengths, strict=True) for place in range(length)]
        judge.judge(target.logits(work, None, span.num_rows), places)
        return judge.outcomes

    def _commit(self, row: int, place: int, span: Span, proposal: list[int], outcome: Outcome) -> list[int]:
        """Make the outcome of a cache row, at its place in the span, part of the sequence.

        On a chain the caches need no copy: rejected slots are rewritten. In a tree the accepted rows move together.
        """
        sequence = self._rows[row]
        assert sequence is not None
        target, num_accepted = self.assembly.target, len(outcome.path)
        last = span.offsets[place] + outcome.last_row
        self.drafter.observe(row, target.last_normalized(self.assembly.workspaces["verify"], last))
        if span.topology is not None:
            target.compact(row, span.starts[place], outcome.path)
        self.drafter.commit(sequence, len(proposal), outcome.path)
        sequence.num_target_cached = len(sequence.tokens) + num_accepted
        tokens = outcome.tokens
        emitted = sequence.emit(tokens, self.assembly.eos_token_ids, self.plan.workload.context)
        depth = len(proposal) if span.topology is None else max(span.topology.depths)
        if len(emitted) < len(tokens):  # the text ended inside the accepted tokens: what follows was never judged
            self.stats.record(len(emitted), len(emitted), len(emitted), len(emitted))
        else:
            self.stats.record(len(proposal), num_accepted, len(emitted), depth)
        return emitted

    def _next_token(self, work: SamplingBuffers, row: int, params: SamplingParams, uniform: Uniform) -> int:
        """The token that follows one row of a pass."""
        target = self.assembly.target
        if params.greedy:
            return target.best(work, [row], 1)[0]
        ((_, logits),) = target.logits(work, [row], 1)
        sampler = RowSampler(work, params)
        sampler.load(logits[0])
        return sampler.draw(uniform)
