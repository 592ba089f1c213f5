"""Runs of a loaded engine beside what measured step times say about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from specplan.speculation import Drafter
from specplan.speed.roofline import Pass
from specplan.speed.timer import StepTimer
from specplan_runtime.calibration.answers import Answer, StepRecord, answer
from specplan_runtime.calibration.metered import MeteredDecoder
from specplan_runtime.drafters.ngram import NgramDrafter
from specplan_runtime.engine import Engine

#: Tokens drafted per step in these runs.
CHECK_GAMMA = 4
#: Questions that they answer.
_MOST_CHECKS = 4


@dataclass(frozen=True, slots=True)
class Check:
    """A run beside what the tables say about it.

    Attributes:
        drafter: who proposed.
        gamma: tokens proposed per step at most.
        num_tokens: emitted by steps.
        measured_s: of all steps.
        predicted_s: of the same steps from the tables, without what the host does besides.
        host_s: median of what a step took beyond its passes.
    """

    drafter: Drafter
    gamma: int
    num_tokens: int
    measured_s: float
    predicted_s: float
    host_s: float


def run_checks(
    engine: Engine,
    decoders: Sequence[MeteredDecoder],
    answers: Sequence[Answer],
    target: StepTimer,
    draft: StepTimer,
    done: Callable[[float], None],
) -> Iterator[Check]:
    """Plain decoding, prompt lookup and the draft model on a few questions, beside what their passes should take."""
    batch = engine.plan.workload.batch_size
    verified = 1 if engine.assembly.takes_ragged else batch
    predict = partial(_predicted, batch=batch, verified=verified, target=target)
    yield _check("none", 0, answers, partial(predict, draft=None))
    drafters: list[Drafter] = ["ngram"]
    if engine.plan.inputs.draft is not None:
        drafters.append("draft_model")
    every = max(1, len(answers) // _MOST_CHECKS)
    for number, name in enumerate(drafters, 1):
        if name == "ngram":
            engine.drafter = NgramDrafter(batch)
        else:
            engine.set_speculating(True)
        again = [answer(engine, decoders, known.question, len(known.tokens)) for known in answers[::every]]
        yield _check(name, CHECK_GAMMA, again, partial(predict, draft=draft if name == "draft_model" else None))
        done(number / len(drafters))


def _check(drafter: Drafter, gamma: int, answers: Sequence[Answer], predict: Callable[[StepRecord], float]) -> Check:
    steps = [step for known in answers for step in known.steps]
    predicted = [predict(step) for step in steps]
    beyond = sorted(step.seconds - step.passes_s for step in steps)
    return Check(
        drafter,
        gamma,
        sum(step.num_emitted for step in steps),
        sum(step.seconds for step in steps),
        sum(predicted),
        beyond[len(beyond) // 2] if beyond else 0.0,
    )


def _predicted(step: StepRecord, batch: int, verified: int, target: StepTimer, draft: StepTimer | None) -> float:
    """Seconds of a step of one sequence: drafting has rows of the whole batch, verifying those of ``verified``."""
    rows = verified * (step.num_drafted + 1)
    verify = Pass(rows=rows, batch_size=verified, context=step.context, head_rows=rows, logits_rows=rows)
    seconds = float(target.pass_seconds(verify))
    if draft is not None:
        once = draft.pass_seconds(
            Pass(rows=batch, batch_size=batch, context=step.context, head_rows=batch, logits_rows=batch)
        )
        seconds += step.num_drafted * float(once)
    return seconds
