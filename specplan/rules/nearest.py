"""The nearest configurations that fit, found with the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from specplan.deployments.deployment import CannotTell
from specplan.deployments.serving import Given
from specplan.engine_memory.budget import EngineBudget
from specplan.rules.finding import Configuration
from specplan.rules.subject import Subject

#: Contexts are suggested in whole pages of every engine.
_STEP = 256
#: What a fraction of memory may be raised to, in hundredths: the rest is for what no engine counts.
_MOST_FRACTION = 95
_PLAIN: dict[str, Any] = {
    "method": None, "draft": None, "num_speculative_tokens": None, "num_verify_tokens": 1, "topk": 1,
}  # fmt: skip

Good = Callable[[EngineBudget], bool]


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that may be turned until a deployment fits, in steps: 1 turns it as far as it goes.

    Attributes:
        name: as specplan.toml calls it.
        most: the last step, which is next to what is asked for; 0 where the deployment has no such setting.
        value: at a step.
        fields: of ``Serving`` with a value.
    """

    name: str
    most: Callable[[Subject], int]
    value: Callable[[int], int | float]
    fields: Callable[[Subject, Any], dict[str, Any]]


def candidate(subject: Subject, value: Any) -> Given[Any]:
    """A value that nobody wrote."""
    return Given(value, subject.deployment.location, "candidate")


def _drafted(subject: Subject) -> int:
    """One token less than are drafted on a chain; trees are left alone."""
    rows = subject.serving.num_verify_tokens
    return max(0, rows - 2) if subject.serving.speculates and subject.serving.topk == 1 else 0


def _fractions(subject: Subject) -> int:
    fraction = subject.serving.fraction
    return 0 if fraction is None or subject.serving.kv_bytes is not None else _MOST_FRACTION - int(fraction.value * 100)


def _contexts(subject: Subject) -> int:
    known = subject.serving.context
    return ((known.value if known is not None else subject.target.arch.max_position_embeddings) - 1) // _STEP


#: What costs least is turned first: memory that nobody uses, speed, throughput, requests that are refused.
KNOBS = (
    Knob(
        "memory_fraction", _fractions, lambda step: (_MOST_FRACTION + 1 - step) / 100,
        lambda subject, value: {"fraction": candidate(subject, value)},
    ),
    Knob(
        "num_speculative_tokens", _drafted, lambda step: step,
        lambda subject, value: {"num_speculative_tokens": candidate(subject, value), "num_verify_tokens": 1 + value},
    ),
    Knob(
        "concurrency", lambda subject: subject.budget.num_sequences - 1, lambda step: step,
        lambda subject, value: {"max_sequences": candidate(subject, value)},
    ),
    Knob(
        "context", _contexts, lambda step: step * _STEP,
        lambda subject, value: {"context": candidate(subject, value)},
    ),
)  # fmt: skip


def fits(budget: EngineBudget) -> bool:
    """The engine starts and serves a sequence of full length."""
    return budget.fits


def nearest(subject: Subject, good: Good = fits, knobs: tuple[Knob, ...] = KNOBS) -> tuple[Configuration, ...]:
    """Configurations without a finding: one setting each where one is enough, else the fewest in the order of knobs.

    Args:
        subject: with the finding.
        good: what a budget must be; it must not come back when a knob is turned on.
        knobs: that may be turned.
    """
    single = tuple(_turned(subject, knobs, {}, {}, good))
    if single:
        return single
    settings: Configuration = {}
    changes: dict[str, Any] = {}
    for index, knob in enumerate(knobs):  # none is enough: one after the other is turned as far as it goes
        if knob.most(subject) > 0:
            settings, changes = (
                {**settings, knob.name: knob.value(1)},
                {**changes, **knob.fields(subject, knob.value(1))},
            )
            found = tuple(_turned(subject, knobs[index + 1 :], settings, changes, good))
            if found:
                return found
    return ()


def _turned(
    subject: Subject, knobs: tuple[Knob, ...], settings: Configuration, changes: dict[str, Any], good: Good
) -> Iterator[Configuration]:
    """For every knob that is enough on top of settings, those settings with it."""
    for knob in knobs:

        def enough(step: int, knob: Knob = knob) -> bool:
            try:
                return good(subject.budget_with(**changes, **knob.fields(subject, knob.value(step))))
            except CannotTell:
                return False

        step = largest(knob.most(subject), enough)
        if step:
            yield {**settings, knob.name: knob.value(step)}


def largest(most: int, good: Callable[[int], bool]) -> int:
    """The largest number from 1 to ``most`` for which ``good`` holds, 0 without one; it must not come back."""
    low, high = 0, max(0, most) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def devices_that_fit(subject: Subject) -> tuple[Configuration, ...]:
    """How many devices the model must be shared over: 2, 4 or 8; nothing when that is too few."""
    given = subject.serving.tensor_parallel
    now = given.value if given is not None else 1
    for devices in (2, 4, 8):
        try:
            if devices > now and subject.budget_with(tensor_parallel=candidate(subject, devices)).fits:
                return ({"tensor_parallel_size": devices},)
        except CannotTell:
            return ()
    return ()


def layers_that_fit(subject: Subject) -> tuple[Configuration, ...]:
    """llama.cpp: how many layers of the target the device holds, the output layer among them; nothing without one."""
    if subject.serving.engine != "llama.cpp":
        return ()
    asked, all_ = subject.serving.partial_offload, subject.target.arch.num_hidden_layers
    now = int(asked.value[:9]) - 1 if asked is not None and asked.value.isdecimal() else all_

    def fits_with(layers: int) -> bool:
        return subject.budget_with(partial_offload=candidate(subject, str(layers))).fits

    most = largest(min(now, all_), fits_with)
    return ({"gpu_layers": most},) if most else ()


def fits_without_draft(subject: Subject) -> EngineBudget | None:
    """The budget of plain decoding where that fits, else None."""
    if not subject.serving.speculates:
        return None
    budget = subject.budget_with(**_PLAIN)
    return budget if budget.fits else None
