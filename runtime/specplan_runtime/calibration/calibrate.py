"""What ``specplan calibrate`` does: time the passes of loaded models, replay drafters, compare with the model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from specplan import __version__
from specplan.acceptance_profiles import AcceptanceProfile
from specplan.devices.local import fingerprint
from specplan.devices.measured import DeviceMeasurement
from specplan.errors import BudgetError, InputError
from specplan.formulas.memory import MemoryModel
from specplan.models.resolve import resolve_model
from specplan.plan import ModelInput, Plan
from specplan.planner.analyze import analyze
from specplan.planner.question import Question as Asked
from specplan.planner.question import SearchSpace
from specplan.speed.step_times import STEP_TIMES_VERSION, StepTimeTable
from specplan.speed.timer import RooflineTimer, step_timer
from specplan_runtime.calibration.acceptance_runs import measure_acceptance
from specplan_runtime.calibration.answers import Answer, Question, answer
from specplan_runtime.calibration.checks import CHECK_GAMMA, Check, run_checks
from specplan_runtime.calibration.device_figures import measure_device
from specplan_runtime.calibration.metered import MeteredDecoder, meter
from specplan_runtime.calibration.pass_times import Clock, Grid, PassTimer, fill_caches, measure_in_turns
from specplan_runtime.engine import Engine
from specplan_runtime.layout import draft_slots, target_slots
from specplan_runtime.loading.load import Progress
from specplan_runtime.text import Tokenizer

#: Tokens per sequence of the passes: every chain that the planner tries by default, and a few longer ones.
_ROWS = (*range(1, 18), 24, 32, 64)
_CONTEXT = 1024
#: Contexts besides the largest.
_CONTEXTS = (64, 512)


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """What to measure.

    Attributes:
        rows: tokens per sequence of the passes; 1 is always among them.
        max_new_tokens: per question.
        repeats: measurements of every pass.
        prompts: what the questions are, for profiles.
    """

    rows: tuple[int, ...] = _ROWS
    max_new_tokens: int = 96
    repeats: int = 5
    prompts: str = "the questions that specplan calibrate brings"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything that was measured.

    Attributes:
        tables: step times, of the target, its first layers, and the draft.
        rooflines: of the same models, in the same order.
        checks: runs beside the tables.
        device: figures of the machine.
        acceptance: by drafter.
    """

    tables: tuple[StepTimeTable, ...]
    rooflines: tuple[RooflineTimer, ...]
    checks: tuple[Check, ...]
    device: DeviceMeasurement
    acceptance: tuple[AcceptanceProfile, ...]


#: Told what is being done, and the fraction of it that is done.
Told = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class _Subject:
    """One decoder at one depth: who it is, and its timer."""

    model: ModelInput
    dtype: str
    kv_dtype: str
    num_layers: int
    timer: PassTimer


def default_context(model: str) -> int:
    """A context that is measured in reasonable time, for a model as a user names it."""
    return min(_CONTEXT, resolve_model(model).arch.max_position_embeddings)


def default_rows(asked: Asked) -> tuple[int, ...]:
    """Tokens per sequence of the passes, as far as the context holds them."""
    return tuple(rows for rows in _ROWS if rows <= asked.workload.context)


def engine_plan(asked: Asked, rows: Sequence[int]) -> Plan:
    """The plan of the engine that is measured: the chain of the checks, chunks that hold the largest pass.

    Raises:
        BudgetError: the models do not fit this machine.
    """
    plainest = dataclasses.replace(asked, num_speculative_tokens=CHECK_GAMMA, space=SearchSpace())
    found = analyze(plainest)
    if not isinstance(found, Plan):
        raise BudgetError(f"calibrating needs the models loaded: {'; '.join(found.reasons)}")
    tile = max(2, asked.workload.batch_size * (CHECK_GAMMA + 1))
    chunk = min(asked.workload.context, max(*rows, found.speculation.prefill_chunk))
    speculation = dataclasses.replace(found.speculation, prefill_chunk=chunk, logits_rows=tile)
    plan = dataclasses.replace(found, speculation=speculation)
    return dataclasses.replace(plan, ledger=MemoryModel(plan.scenario).ledger())


def grid_of(plan: Plan, rows: Sequence[int]) -> Grid:
    """The passes to measure for a plan.

    Raises:
        InputError: rows that its context does not hold.
    """
    workload = plan.workload
    wanted = tuple(sorted({1, *rows}))
    if wanted[0] < 1 or wanted[-1] > workload.context:
        raise InputError(f"--rows {','.join(map(str, rows))}: expected 1 to the context of {workload.context}")
    contexts = sorted({workload.context, *(c for c in _CONTEXTS if wanted[-1] <= c < workload.context)})
    return Grid(wanted, tuple(sorted({1, workload.batch_size})), tuple(contexts))


def calibrate(
    asked: Asked,
    questions: Callable[[Tokenizer], list[Question]],
    options: CalibrationOptions,
    told: Told = lambda *_: None,
    clock: Clock = time.perf_counter,
) -> Calibration:
    """Measure the models of a question on this machine.

    Args:
        asked: models, precision, context and batch; its drafter is draft_model or ngram.
        questions: what to answer for acceptance, given the target's tokenizer.
        options: grid and repeats.
        told: what is being done.
        clock: of passes; the machine's own unless a test brings one.

    Raises:
        BudgetError: the models do not fit.
        InputError: prompts or model files that cannot be used.
    """
    plan = engine_plan(asked, options.rows)
    grid = grid_of(plan, options.rows)
    tokenizer = Tokenizer(plan.inputs.target)
    prompts = questions(tokenizer)
    progress: Progress = lambda done: told("loading", done)  # noqa: E731
    engine = Engine(plan, progress)
    engine.stop_at(tokenizer.eos_token_ids())
    engine.check_prompts([prompt.tokens for prompt in prompts], options.max_new_tokens)
    subjects = list(_subjects(engine, grid.rows[-1], clock))
    for parameters in (engine.own.layout.target, engine.own.layout.draft):
        if parameters is not None:
            fill_caches(parameters)
    timers = [subject.timer for subject in subjects]
    measure_in_turns(timers, [grid] * len(timers), options.repeats, lambda done: told("timing passes", done))
    told("measuring the device", 0.0)
    device = measure_device(engine.device, plan.inputs.device, plan.inputs.target.reference, options.repeats, clock)
    tables = [_table(plan, subject, grid, options.repeats) for subject in subjects]
    rooflines = [RooflineTimer(s.model.arch, plan.inputs.device, s.dtype, s.kv_dtype) for s in subjects]
    decoders = meter(engine)
    engine.set_speculating(False)
    answers = _answer_all(engine, decoders, prompts, options.max_new_tokens, lambda done: told("answering", done))
    acceptance = measure_acceptance(engine, answers, grid.rows[-1], options.prompts)
    target = step_timer(rooflines[0], plan.inputs.target.config_sha256, tables)
    draft = step_timer(rooflines[-1], subjects[-1].model.config_sha256, tables)
    checks = tuple(run_checks(engine, decoders, answers, target, draft, lambda done: told("comparing", done)))
    tables[0] = dataclasses.replace(tables[0], host_s={check.drafter: check.host_s for check in checks})
    return Calibration(tuple(tables), tuple(rooflines), checks, device, acceptance)


def _subjects(engine: Engine, most_rows: int, clock: Clock) -> Iterator[_Subject]:
    """The target, its first half as early exit runs it, and the draft."""
    plan, assembly = engine.plan, engine.own
    workload, inputs = plan.workload, plan.inputs
    depth = inputs.target.arch.num_hidden_layers
    batch, slots = workload.batch_size, target_slots(plan)
    for num_layers in sorted({depth, max(1, depth // 2)}, reverse=True):
        timer = PassTimer(assembly.target, batch, slots, most_rows, num_layers, clock)
        yield _Subject(inputs.target, workload.dtype, workload.kv_dtype, num_layers, timer)
    if inputs.draft is not None:
        timer = PassTimer(assembly.decoders[-1], batch, draft_slots(plan), most_rows, None, clock)
        layers = inputs.draft.arch.num_hidden_layers
        yield _Subject(inputs.draft, workload.draft_dtype, workload.draft_kv_dtype, layers, timer)


def _table(plan: Plan, subject: _Subject, grid: Grid, repeats: int) -> StepTimeTable:
    times = subject.timer.times
    heads = times.head_medians()
    return StepTimeTable(
        schema_version=STEP_TIMES_VERSION,
        fingerprint=fingerprint(),
        device=plan.inputs.device.title,
        num_threads=torch.get_num_threads(),
        tool_version=__version__,
        torch_version=str(torch.__version__),
        model=subject.model.reference,
        config_sha256=subject.model.config_sha256,
        dtype=subject.dtype,
        kv_dtype=subject.kv_dtype,
        num_layers=subject.num_layers,
        rows=grid.rows,
        batch_sizes=grid.batch_sizes,
        contexts=grid.contexts,
        layer_s=times.layer_medians(grid),
        head_rows=tuple(heads),
        head_s=tuple(heads.values()),
        repeats=repeats,
        spread=round(times.spread, 4),
        host_s={},
    )


def _answer_all(
    engine: Engine,
    decoders: Sequence[MeteredDecoder],
    prompts: Sequence[Question],
    max_new_tokens: int,
    done: Callable[[float], None],
) -> list[Answer]:
    found = []
    for number, prompt in enumerate(prompts, 1):
        found.append(answer(engine, decoders, prompt, max_new_tokens))
        done(number / len(prompts))
    return found
