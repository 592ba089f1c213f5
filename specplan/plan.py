"""``Plan``: the answer, and ``Infeasible``: the other answer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from specplan.arch import ModelArch
from specplan.caches.draft_window import windowed
from specplan.device import DeviceSpec
from specplan.heads import Eagle3Head, Heads
from specplan.ledger import MemoryLedger
from specplan.parallel.ranks import rank_scenario
from specplan.parallelism import Parallelism
from specplan.provenance import Figure
from specplan.scenario import Scenario
from specplan.speculation import Drafter, Speculation
from specplan.workload import Workload

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A model as the user named it.

    Attributes:
        reference: what was given on the command line; an absolute path for local files.
        kind: where the description came from.
        config_sha256: of the config that was read (GGUF: of its header); a plan is stale when it changes.
        arch: what was read.
    """

    reference: str
    kind: Literal["folder", "gguf", "profile", "hub"]
    config_sha256: str
    arch: ModelArch


@dataclass(frozen=True, slots=True)
class HeadsInput:
    """A checkpoint of Medusa heads as the user named it.

    Attributes:
        reference: absolute path of its folder.
        config_sha256: of its config and of the names and sizes of its tensors; a plan is stale when it changes.
        num_heads: that it has; a plan may use fewer, the first ones.
        num_layers: residual blocks of each.
        shares_head: they end in the target's own output head.
    """

    reference: str
    config_sha256: str
    num_heads: int
    num_layers: int
    shares_head: bool


@dataclass(frozen=True, slots=True)
class Eagle3Input:
    """A checkpoint of an EAGLE-3 head as the user named it.

    Attributes:
        reference: absolute path of its folder.
        config_sha256: of its config and of the names and sizes of its tensors; a plan is stale when it changes.
        head: that it has.
    """

    reference: str
    config_sha256: str
    head: Eagle3Head


HeadFiles = HeadsInput | Eagle3Input


def drafter_of(files: HeadFiles) -> Drafter:
    """The drafter that a checkpoint of heads is for."""
    return "medusa" if isinstance(files, HeadsInput) else "eagle3"


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """What the plan was made from.

    Attributes:
        target: the verified model.
        draft: the proposing model, None without one.
        device: the profile, in full.
        budget_bytes: the bytes that the process may use on the device.
        keep: share of the best speed that the ``keeps`` mark asks for.
        heads: of a drafter that rides on the target's hidden states, None for others.
        transformers_version: whose forward computes the models; None for the runtime's own decoder.
        host: where a draft model runs that lives in the host's memory; None without one.
        head_files: where the heads are loaded from; None without heads, and where only their sizes are planned.
    """

    target: ModelInput
    draft: ModelInput | None
    device: DeviceSpec
    budget_bytes: int
    keep: float
    heads: Heads | None = None
    transformers_version: str | None = None
    host: DeviceSpec | None = None
    head_files: HeadsInput | Eagle3Input | None = None

    def head_files_for(self, drafter: Drafter) -> HeadFiles | None:
        """The checkpoint, where it is one of this drafter."""
        files = self.head_files
        return files if files is not None and drafter_of(files) == drafter else None


@dataclass(frozen=True, slots=True)
class Mark:
    """A budget at which something becomes possible.

    Attributes:
        bytes: the least budget.
        speculation: the configuration that does it.
        workload: its batch and precision.
        throughput: modelled tokens/s there, prefill included, all sequences together.
        binding: ``phase: item`` that decides the bytes.
    """

    bytes: int
    speculation: Speculation
    workload: Workload
    throughput: float
    binding: str


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A configuration that no other beats with as few bytes.

    Attributes:
        bytes: what it needs.
        throughput: modelled tokens/s, prefill included, all sequences together.
        speculation: its drafter and knobs.
        workload: its batch and precision.
    """

    bytes: int
    throughput: float
    speculation: Speculation
    workload: Workload


@dataclass(frozen=True, slots=True)
class Marks:
    """The four marks, whatever the budget; None where no configuration reaches it.

    Attributes:
        decodes: the target decodes at all.
        speculates: speculation beats plain decoding in that same budget.
        keeps: speed reaches ``keep`` of the best.
        fastest: the least budget at the best speed.
        drafters: the least budget at which each drafter runs.
    """

    decodes: Mark
    speculates: Mark | None
    keeps: Mark
    fastest: Mark
    drafters: dict[str, Mark]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Modelled speed of the chosen speculation, every figure with its source.

    Attributes:
        alpha: probability that a drafted token is accepted, given that its prefix was.
        mean_accepted_length: τ, tokens emitted per target pass, bonus included.
        throughput: tokens generated per second with the time of prefill counted, all sequences together: what the
            search maximizes.
        baseline_throughput: of plain decoding in the same budget.
        tokens_per_s: while decoding, all sequences together.
        baseline_tokens_per_s: of plain decoding in the same budget.
        speedup: ratio of the two.
        prefill_s: time to prefill the prompts of one sequence.
    """

    alpha: Figure
    mean_accepted_length: Figure
    throughput: Figure
    baseline_throughput: Figure
    tokens_per_s: Figure
    baseline_tokens_per_s: Figure
    speedup: Figure
    prefill_s: Figure


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Why the next value of a knob was not taken.

    Attributes:
        knob: for example ``num_speculative_tokens``.
        value: the value that loses.
        peak_bytes: of that configuration.
        throughput: modelled tokens/s, prefill included.
        reason: one phrase.
    """

    knob: str
    value: str
    peak_bytes: int
    throughput: float
    reason: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What decides the plan.

    Attributes:
        binding_phase: phase with the largest workspace.
        binding_item: its largest item.
        num_configurations: how many were evaluated.
        searched: for each knob, the values that were searched.
        neighbours: each knob's next values.
    """

    binding_phase: str
    binding_item: str
    num_configurations: int
    searched: dict[str, tuple[str, ...]]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class RankKind:
    """Ranks that are alike: equal devices with equal shares.

    Attributes:
        ranks: their numbers.
        device: of each.
        budget_bytes: that each may use on its device.
        ledger: of each.
    """

    ranks: tuple[int, ...]
    device: DeviceSpec
    budget_bytes: int
    ledger: MemoryLedger


@dataclass(frozen=True, slots=True)
class Spread:
    """A plan over several devices.

    Attributes:
        parallelism: how models are spread.
        binding_rank: the rank with the least to spare; the plan's ledger, device and budget are its.
        kinds: all ranks, those that are alike together.
        replicas: bytes that all ranks hold beyond whole models, by ``item: what``.
    """

    parallelism: Parallelism
    binding_rank: int
    kinds: tuple[RankKind, ...]
    replicas: dict[str, int]

    def kind_of(self, rank: int) -> RankKind:
        """The kind of a rank."""
        return next(kind for kind in self.kinds if rank in kind.ranks)


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration that fits, and everything that the runtime needs to execute it.

    Attributes:
        schema_version: of the file format.
        tool_version: of specplan.
        code_sha256: of the code that made the plan; other code may have other formulas.
        inputs: models, device and budget.
        workload: context, batch and precision.
        speculation: the chosen drafter and knobs.
        forward: who computes the forward pass: the runtime's own decoder, or transformers' models over the runtime's
            caches; ``unsupported`` plans are for reading.
        ledger: every byte; of the binding rank where there are several.
        estimate: modelled speed.
        marks: budgets at which more becomes possible.
        frontier: bytes against speed, from the fewest bytes on; points that gain less than 0.5 % are left out.
        certificate: why this configuration.
        notes: what a reader should know besides, one sentence each.
        spread: the ranks of several devices; None for one device.
    """

    schema_version: int
    tool_version: str
    code_sha256: str
    inputs: PlanInputs
    workload: Workload
    speculation: Speculation
    forward: Literal["specplan", "transformers", "unsupported"]
    ledger: MemoryLedger
    estimate: Estimate
    marks: Marks
    frontier: tuple[FrontierPoint, ...]
    certificate: Certificate
    notes: tuple[str, ...]
    spread: Spread | None

    @property
    def peak_bytes(self) -> int:
        """What the plan needs."""
        return self.ledger.peak_bytes

    @property
    def draft_arch(self) -> ModelArch | None:
        """The draft model as it runs: windowed when it sees a part of the context; None without one."""
        draft = self.inputs.draft
        return windowed(draft.arch, self.speculation.draft_context) if draft is not None else None

    @property
    def scenario(self) -> Scenario:
        """What the plan's ledger is of: the whole models on one device, or the binding rank's share."""
        return self.whole if self.spread is None else self.rank_scenario(self.spread.binding_rank)

    def rank_scenario(self, rank: int) -> Scenario:
        """One rank's share; its memory model gives the rank's ledger."""
        assert self.spread is not None
        return rank_scenario(self.whole, self.spread.parallelism, rank, self.spread.kind_of(rank).device)

    def seen_from(self, rank: int) -> Plan:
        """The plan with the ledger, the device and the budget of another rank."""
        assert self.spread is not None
        kind = self.spread.kind_of(rank)
        inputs = dataclasses.replace(self.inputs, device=kind.device, budget_bytes=kind.budget_bytes)
        spread = dataclasses.replace(self.spread, binding_rank=rank)
        return dataclasses.replace(self, inputs=inputs, ledger=kind.ledger, spread=spread)

    @property
    def whole(self) -> Scenario:
        """The question that the plan answers, with whole models."""
        inputs = self.inputs
        return Scenario(
            inputs.target.arch,
            self.draft_arch,
            inputs.device,
            self.workload,
            self.speculation,
            inputs.heads,
            inputs.transformers_version,
            inputs.host,
        )


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No configuration fits.

    Attributes:
        inputs: what was asked.
        workload: of the nearest configuration.
        reasons: one phrase each.
        shortfall_bytes: bytes missing for the nearest configuration.
        nearest: the configuration with the smallest peak.
        ledger: of the nearest configuration.
        marks: the budgets that would do.
        frontier: bytes against speed.
        notes: what a reader should know besides, one sentence each.
        spread: the ranks of the nearest configuration on several devices; None for one device.
    """

    inputs: PlanInputs
    workload: Workload
    reasons: tuple[str, ...]
    shortfall_bytes: int
    nearest: Speculation
    ledger: MemoryLedger
    marks: Marks
    frontier: tuple[FrontierPoint, ...]
    notes: tuple[str, ...]
    spread: Spread | None
