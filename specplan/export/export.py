"""A plan to an engine's command: written, read back as ``specplan check`` reads it, and held against the budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from specplan.deployments.engines.serving_of import serving_of
from specplan.deployments.read import read_deployments
from specplan.deployments.source import Source
from specplan.deployments.tables import option_table
from specplan.engine_memory.budget import EngineBudget, Part
from specplan.engine_memory.of_engine import fullest, stage_budgets
from specplan.errors import UnsupportedError
from specplan.export.adapt import adapted
from specplan.export.command import Command, Pool, python_script, script
from specplan.export.exported import Exported, TooLarge, memory_of
from specplan.export.limits import LIMITS, Target
from specplan.export.llama_cpp import llama_cpp_command
from specplan.export.pools import blocks_pool, largest_pool, placed_pool, sglang_pool, vllm_pool
from specplan.export.request import AS_PLANNED, Request, Weights, request_of
from specplan.export.sglang import sglang_command
from specplan.export.tensorrt_llm import tensorrt_llm_command
from specplan.export.transformers import transformers_command
from specplan.export.vllm import vllm_command
from specplan.models.gguf_file_names import converted
from specplan.plan import ModelInput, Plan
from specplan.provenance import Figure

#: Formulas of what libraries of several devices take.
_COMMUNICATORS = ("nccl", "rccl")


@dataclass(frozen=True, slots=True)
class _Engine:
    """How a command is written, without a pool first, and how large the pool then is."""

    write: Callable[[Request, Pool | None], Command]
    pool: Callable[[Request, EngineBudget], Pool]


_ENGINES: dict[Target, _Engine] = {
    "vllm": _Engine(vllm_command, vllm_pool),
    "sglang": _Engine(sglang_command, sglang_pool),
    "llama.cpp": _Engine(llama_cpp_command, placed_pool),
    "tensorrt-llm": _Engine(tensorrt_llm_command, blocks_pool),
    "transformers": _Engine(transformers_command, placed_pool),
}


def export_plan(
    plan: Plan,
    engine: Target,
    weights: Weights = AS_PLANNED,
    nearest: bool = False,
    image: str | None = None,
) -> Exported | TooLarge:
    """A plan as an engine's command, its KV pool as large as the engine needs for all sequences on every device.

    Args:
        plan: as read.
        engine: which.
        weights: where its models are.
        nearest: replace what it cannot do.
        image: of the container, where the known one is not wanted.

    Raises:
        UnsupportedError: something that the engine cannot do.
        InputError: models that are not the plan's.
    """
    limits, table, writer = LIMITS[engine], option_table(engine), _ENGINES[engine]
    request, replaced = adapted(request_of(plan, weights), limits, nearest)
    request = _converted(request) if limits.reads_gguf else request
    stages = _budgets(request, writer.write(request, None))
    pool = largest_pool([writer.pool(request, budget) for budget in stages])
    command = writer.write(request, pool)
    budget = fullest(_budgets(request, command))
    kv = Part("KV cache", Figure(pool.bytes, "exact", f"{budget.slots} slots for a sequence"))
    memory = memory_of(budget, [kv, *_communication(plan)], request.device)
    needed = sum(part.bytes for part in memory)
    allowed = min(request.budget_bytes, int(request.device.memory_bytes.value))
    if needed > allowed or pool.fraction > 1:
        return TooLarge(limits, memory, needed, allowed)
    image = image or table.images.get(request.device.kind)
    notes = (*replaced, *_notes(plan))
    return Exported(limits, table.version, image, command, request, memory, needed, notes)


def _notes(plan: Plan) -> Iterator[str]:
    speedup = plan.estimate.speedup
    if plan.speculation.drafter != "none" and speedup.value <= 1:
        yield f"speculation does not pay: the plan has {speedup.value:.2f} times plain decoding ({speedup.source})"


def _communication(plan: Plan) -> Iterator[Part]:
    """What ranks take to talk to each other, which engines leave out: as the plan has it."""
    kinds = plan.spread.kinds if plan.spread is not None else ()
    items = [[item for item in kind.ledger.items if item.formula_id in _COMMUNICATORS] for kind in kinds]
    most = max(items, key=lambda found: sum(item.bytes for item in found), default=[])
    if most:
        total = sum(item.bytes for item in most)
        yield Part("communication", Figure(total, most[0].source, ", ".join(item.name for item in most)))


def _budgets(request: Request, command: Command) -> tuple[EngineBudget, ...]:
    """The engine's arithmetic on the command as ``check`` reads it, stage by stage."""
    text = python_script(command)
    source = Source("export.sh", script(command)) if text is None else Source("export.py", text)
    (deployment,) = read_deployments(source)
    return stage_budgets(serving_of(deployment), request.target, request.draft, request.device)


def _converted(request: Request) -> Request:
    """The request with models as llama.cpp's converter stores them.

    Raises:
        UnsupportedError: a family whose files are not known here.
    """
    workload = request.workload
    target = _file(request.target, workload.dtype)
    draft = None if request.draft is None else _file(request.draft, workload.draft_dtype)
    return dataclasses.replace(request, target=target, draft=draft)


def _file(model: ModelInput, dtype: str) -> ModelInput:
    if model.kind == "gguf":
        return model
    found = converted(model, dtype)
    if found is None:
        raise UnsupportedError(
            f"llama.cpp: how a {model.arch.model_type} model is stored as GGUF is not known: give the file"
        )
    return found
