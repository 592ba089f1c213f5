"""Everything that bench.runtime runs: ways of ours, of transformers and of flashspec to answer the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from bench import flashspec_side
from bench.answers import Answer
from bench.ours import PLAIN, Models, Seat, Setting, every_operator, plan_of
from bench.reference import generate, generate_assisted, load_reference
from specplan.models.resolve import resolve_model
from specplan.plan import HeadsInput
from specplan.speculation import Chain, Drafter
from specplan_runtime.tracing.tracker import StorageTracker

Side = Literal["specplan", "transformers", "flashspec"]


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to generate.

    Attributes:
        side: whose code.
        method: ``plain``, a drafter of ours, or one of theirs.
        numbers: what it drafts per step.
        answer: prompt and most tokens to an answer.
        begin: called before the prompts of a category.
        placed_bytes: that exist before generation begins, weights apart: our arena.
    """

    side: Side
    method: str
    numbers: str
    answer: Callable[[Sequence[int], int], Answer]
    begin: Callable[[], None]
    placed_bytes: int

    @property
    def family(self) -> tuple[Side, str]:
        """Contenders that differ in numbers only."""
        return self.side, self.method


def peak_bytes(contender: Contender, prompt: Sequence[int], tokens: int) -> int:
    """Generation memory without weights: what was placed before, and the peak of storages while it generates."""
    contender.begin()
    with every_operator(), StorageTracker() as tracker:
        contender.answer(prompt, tokens)
    return contender.placed_bytes + int(tracker.peak_bytes)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is compared.

    Attributes:
        models: target and drafters.
        context: tokens that our plans hold.
        gammas: tokens per step that both sides try.
        num_draft_nodes: of a tree over heads, None to let the planner choose.
        stop: tokens that end a text.
    """

    models: Models
    context: int
    gammas: tuple[int, ...]
    num_draft_nodes: int | None
    stop: tuple[int, ...]


def contenders(trial: Trial) -> list[Contender]:
    """Load everything: one engine of ours (two more with heads), and transformers' models with weights of their own."""
    models, longest = trial.models, max(trial.gammas)
    drafter: Drafter = "draft_model" if models.draft else "ngram"
    seat = Seat(plan_of(models, drafter, trial.context, gamma=longest), trial.stop)
    found = [_seated(seat, PLAIN)]
    for name in dict.fromkeys((drafter, "ngram")):
        found += [_seated(seat, Setting(name, Chain(gamma))) for gamma in trial.gammas]
        found.append(_seated(seat, Setting(name, Chain(longest), adaptive=True)))
    if models.heads is not None:
        found += _over_heads(trial)
    return [*found, *_theirs(trial, seat.device)]


def _over_heads(trial: Trial) -> Iterator[Contender]:
    """The tree, and chains of every length, which take the best token of each head: an engine for each kind."""
    plan = plan_of(trial.models, "medusa", trial.context, num_draft_nodes=trial.num_draft_nodes)
    seat = Seat(plan, trial.stop)
    for adaptive in (False, True):
        yield _seated(seat, Setting("medusa", plan.speculation.shape, adaptive))
    assert isinstance(plan.inputs.head_files, HeadsInput)
    longest = plan.inputs.head_files.num_heads
    seat = Seat(plan_of(trial.models, "medusa", trial.context, gamma=longest), trial.stop)
    for gamma in range(1, longest + 1):
        yield _seated(seat, Setting("medusa", Chain(gamma)))


def _seated(seat: Seat, setting: Setting) -> Contender:
    begin, placed = partial(seat.choose, setting), seat.generation_bytes(setting)
    return Contender("specplan", setting.method, setting.numbers, seat.answer, begin, placed)


def _theirs(trial: Trial, device: torch.device) -> Iterator[Contender]:
    models = trial.models

    def load(reference: str, dtype: str) -> Any:
        return load_reference(resolve_model(reference), getattr(torch, dtype), device)

    target = load(models.target, models.dtype)
    draft = None if models.draft is None else load(models.draft, models.draft_dtype)
    yield _other("transformers", "plain", None, partial(generate, target, stop=trial.stop))
    for gamma in trial.gammas:
        lookup = partial(generate, target, stop=trial.stop, prompt_lookup_num_tokens=gamma)
        yield _other("transformers", "prompt lookup", gamma, lookup)
        if draft is not None:
            assisted = partial(generate_assisted, target, draft, gamma, stop=trial.stop)
            yield _other("transformers", "assisted", gamma, assisted)
    if flashspec_side.installed() and device.type == "cpu":
        yield from _of_flashspec(trial, target, draft)


def _of_flashspec(trial: Trial, target: Any, draft: Any | None) -> Iterator[Contender]:
    """Around the same models as transformers' ways."""

    def contender(method: str, number: int | None, engine: Any) -> Contender:
        return _other("flashspec", method, number, partial(flashspec_side.answer, engine, stop=trial.stop))

    for gamma in trial.gammas:
        yield contender("prompt lookup", gamma, flashspec_side.lookup_engine(target, gamma))
        if draft is not None:
            yield contender("draft model", gamma, flashspec_side.model_engine(target, draft, gamma))
    if draft is not None:
        yield contender("composite", None, flashspec_side.composite_engine(target, draft))


def _other(side: Side, method: str, number: int | None, answer: Callable[[Sequence[int], int], Answer]) -> Contender:
    """A contender that places nothing beforehand."""
    return Contender(side, method, f"γ {number}" if number else "", answer, lambda: None, 0)
