"""``Term``: a ledger item before its bytes are fixed, and the knobs that fix them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sympy

from specplan.device import DeviceSpec
from specplan.formulas.bind import Value, evaluate
from specplan.formulas.catalogue import expression
from specplan.formulas.overheads import GLOO_SEGMENT_BYTES, GRAPH_BYTES, RCCL_BYTES, communicator_values
from specplan.formulas.system import LOADER_TILE_ELEMENTS
from specplan.ledger import Owner, Phase
from specplan.parallel.communicator import Communicator, default_communicator, stage_communicator
from specplan.parallelism import Rank
from specplan.provenance import Source
from specplan.scenario import Scenario

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
    """An item whose bytes may be an array, with the values its formula was given, and the parts of its own formula."""

    name: str
    owner: Owner
    phase: Phase
    formula_id: str
    source: Source
    values: dict[str, Value]
    bytes: Value
    parts: tuple[tuple[str, sympy.Expr], ...] = ()

    @property
    def expression(self) -> sympy.Expr:
        """The sum of the parts where there are any, else the catalogue's."""
        return sympy.Add(*(expr for _, expr in self.parts)) if self.parts else expression(self.formula_id)


def term(
    name: str, owner: Owner, phase: Phase, formula_id: str, values: dict[str, Value], source: Source = "exact"
) -> Term:
    """An item of a formula of the catalogue, evaluated."""
    return Term(name, owner, phase, formula_id, source, values, evaluate(formula_id, values))


def device_terms(scenario: Scenario) -> Iterator[Term]:
    """What driver, matrix library, captured graphs and a communicator keep on a GPU.

    Raises:
        InputError: an absurd number of devices.
        UnsupportedError: several devices that NCCL does not run on.
    """
    device = scenario.device
    yield fixed("device_context", int(device.context_bytes.value), device.context_bytes.source)
    if device.kind in ("cuda", "rocm"):
        workspace = device.cublas_workspace_bytes
        yield fixed("cublas_workspace", int(workspace.value), workspace.source)
    if scenario.num_cuda_graphs:
        graphs: dict[str, Value] = {"n_g": scenario.num_cuda_graphs, "z_g": int(GRAPH_BYTES.value)}
        yield term("cuda_graphs", "system", "resident", "cuda_graphs", graphs, GRAPH_BYTES.source)
    if scenario.num_devices > 1:
        yield _nccl("nccl", default_communicator(device, scenario.num_devices))
    if scenario.rank is not None:
        yield from _rank_terms(device, scenario.rank)


def _rank_terms(device: DeviceSpec, rank: Rank) -> Iterator[Term]:
    """Communicators of one rank: one of its tensor ranks, one that sends and receives between stages."""
    if device.kind == "rocm":
        known = device.compute_capability == "gfx90a"
        values: dict[str, Value] = {"n_c": (rank.tensor_parallel > 1) + (rank.num_neighbors > 0)}
        values["z_r"] = int(RCCL_BYTES.value)
        yield term("rccl", "system", "resident", "rccl", values, RCCL_BYTES.source if known else "assumed")
        return
    if rank.tensor_parallel > 1:
        yield _nccl("nccl", default_communicator(device, rank.tensor_parallel))
    if rank.num_neighbors:
        yield _nccl("nccl_stages", stage_communicator(device, rank.num_neighbors))


def _nccl(name: str, communicator: Communicator) -> Term:
    values: dict[str, Value] = {**communicator_values(communicator)}
    return term(name, "system", "resident", "nccl", values, "modelled")


def host_terms(scenario: Scenario) -> Iterator[Term]:
    """What the process and its loader take on a CPU."""
    known = scenario.device.context_bytes  # bundled profiles have none for a CPU, measured ones do
    yield fixed("process", int(known.value), known.source) if known.value else _ASSUMED_PROCESS
    draft = scenario.draft if scenario.speculation.draft_device == "device" else None
    archs = [arch for arch in (scenario.target, draft) if arch is not None]
    widest = max(max(arch.intermediate_size, arch.hidden_size) for arch in archs)
    values: dict[str, Value] = {"G": max(LOADER_TILE_ELEMENTS, widest)}
    yield term("load_staging", "system", "load", "load_staging", values, "modelled")
    if scenario.rank is not None and scenario.rank.tensor_parallel > 1:
        segment: dict[str, Value] = {"z_s": int(GLOO_SEGMENT_BYTES.value)}
        yield term("gloo", "system", "resident", "gloo", segment, GLOO_SEGMENT_BYTES.source)


def fixed(name: str, num_bytes: int, source: Source) -> Term:
    """One of the system's items that a profile or a measurement gives as a number."""
    symbol = {
        "device_context": "context_bytes",
        "cublas_workspace": "workspace_bytes",
        "process": "process_bytes",
    }[name]
    return Term(name, "system", "resident", name, source, {symbol: num_bytes}, num_bytes)


_ASSUMED_PROCESS = fixed("process", PROCESS_BYTES, "assumed")
