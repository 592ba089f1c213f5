"""Acceptance profiles of a loaded engine's models: every drafter replayed over the target's own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from specplan.acceptance_profiles import ALL, SCHEMA_VERSION, AcceptanceProfile, CategoryAcceptance, Conditions
from specplan.speculation import Drafter
from specplan.speed.acceptance_counts import Trace, count_chains, count_steps
from specplan_runtime.calibration.answers import TOPK, Answer, ngram_steps, trace
from specplan_runtime.calibration.pass_times import place_workspace
from specplan_runtime.decoder import Decoder
from specplan_runtime.engine import Engine
from specplan_runtime.layout import draft_slots, target_slots

#: The chain whose positions a profile tells, and the longest that is replayed; shorter where answers are.
GAMMA, MAX_GAMMA = 8, 16

Value = TypeVar("Value")
#: What answers of one category give; ValueError where they are too short for a single step.
_Count = Callable[[Sequence[Value], int], CategoryAcceptance]


def measure_acceptance(
    engine: Engine, answers: Sequence[Answer], chunk: int, prompts: str
) -> tuple[AcceptanceProfile, ...]:
    """Replay prompt lookup, early exit and the draft model; a drafter without any step has no profile.

    Args:
        engine: that gave the answers.
        answers: of the target alone, greedy.
        chunk: tokens per pass of the drafters.
        prompts: what was asked, for the profiles.
    """
    inputs, decoders = engine.plan.inputs, engine.own.decoders
    layers = max(1, inputs.target.arch.num_hidden_layers // 2)
    found = {"ngram": _categories(answers, list(answers), _count_ngram)}
    early = _traces(engine, decoders[0], "early_exit", answers, chunk, layers)
    found["early_exit"] = _categories(answers, early, _count_traces)
    if inputs.draft is not None:
        drafted = _traces(engine, decoders[-1], "draft_model", answers, chunk, None)
        found["draft_model"] = _categories(answers, drafted, _count_traces)
    return tuple(
        _profile(engine, drafter, layers, answers, prompts, found[drafter])
        for drafter in DRAFTERS
        if ALL in found.get(drafter, {})
    )


DRAFTERS: tuple[Drafter, ...] = ("ngram", "early_exit", "draft_model")


def _traces(
    engine: Engine, decoder: Decoder, drafter: Drafter, answers: Sequence[Answer], chunk: int, num_layers: int | None
) -> list[Trace]:
    slots = draft_slots(engine.plan) if drafter == "draft_model" else target_slots(engine.plan)
    work = place_workspace(decoder.parameters, 1, slots, chunk)
    vocab_size = engine.plan.inputs.target.arch.vocab_size
    return [trace(decoder, work, answered, vocab_size, num_layers) for answered in answers]


def _count_ngram(answers: Sequence[Answer], most: int) -> CategoryAcceptance:
    steps = {length: [s for a in answers for s in ngram_steps(a, length)] for length in range(1, most + 1)}
    return count_steps(steps, min(GAMMA, most))


def _count_traces(traces: Sequence[Trace], most: int) -> CategoryAcceptance:
    return count_chains(traces, min(GAMMA, most), most, TOPK)


def _categories(
    answers: Sequence[Answer], values: Sequence[Value], count: _Count[Value]
) -> dict[str, CategoryAcceptance]:
    """All answers together, then each kind of question; kinds whose answers are too short are left out."""
    found = {}
    for name in (ALL, *dict.fromkeys(answered.question.category for answered in answers)):
        chosen = [v for a, v in zip(answers, values, strict=True) if name in (ALL, a.question.category)]
        for most in range(MAX_GAMMA, 0, -1):
            try:
                found[name] = count(chosen, most)
            except ValueError:
                continue
            break
    return found


def _profile(
    engine: Engine,
    drafter: Drafter,
    num_exit_layers: int,
    answers: Sequence[Answer],
    prompts: str,
    categories: dict[str, CategoryAcceptance],
) -> AcceptanceProfile:
    inputs, workload = engine.plan.inputs, engine.plan.workload
    target, draft = inputs.target, inputs.draft if drafter == "draft_model" else None
    dtypes = workload.dtype if draft is None else f"{workload.dtype}, draft {workload.draft_dtype}"
    shas = [target.config_sha256[:16], *([draft.config_sha256[:16]] if draft is not None else [])]
    return AcceptanceProfile(
        SCHEMA_VERSION,
        "-".join([*shas, drafter.replace("_", "-")]),
        (),
        target.reference,
        target.config_sha256,
        drafter,
        None if draft is None else draft.reference,
        None if draft is None else draft.config_sha256,
        num_exit_layers if drafter == "early_exit" else None,
        "measured",
        f"specplan calibrate: steps replayed over the target's greedy answers; positions and ranks at γ {GAMMA}",
        Conditions(prompts, len(answers), sum(len(a.tokens) for a in answers), None, dtypes, "greedy"),
        categories,
    )
