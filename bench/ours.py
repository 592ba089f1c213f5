"""Our side of the benches: engines of this machine's plans, and the settings that run in one engine's memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch

from bench.answers import Answer, Clock
from specplan.errors import UnsupportedError
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.speculation import Chain, Drafter, Tree
from specplan_runtime import Engine
from specplan_runtime.adaptive import AdaptiveLimit
from specplan_runtime.arena import Arena
from specplan_runtime.drafters.base import NoDrafter
from specplan_runtime.drafters.ngram import NgramDrafter
from specplan_runtime.engine import Request
from specplan_runtime.heads import Medusa
from specplan_runtime.layout import place

#: Owners of weights.
_WEIGHTS = ("target", "draft", "drafter")


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """What generates.

    Attributes:
        target: folder or GGUF file.
        draft: of a draft model, None without.
        heads: folder of Medusa heads, None without.
        dtype: of the target.
        draft_dtype: of the draft.
    """

    target: str
    draft: str | None = None
    heads: str | None = None
    dtype: str = "float32"
    draft_dtype: str = "float32"


def plan_of(
    models: Models,
    drafter: Drafter,
    context: int | None,
    *,
    gamma: int | None = None,
    num_draft_nodes: int | None = None,
    batch_size: int = 1,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
) -> Plan:
    """The plan of one drafter on this machine.

    Args:
        models: what generates.
        drafter: of the plan.
        context: tokens of a sequence, None for those that are predicted for.
        gamma: of a chain, None to let the planner choose.
        num_draft_nodes: of a tree, None to let the planner choose.
        batch_size: sequences at one time.
        prompt_tokens: of a sequence whose speed is predicted, None for the default.
        new_tokens: that are generated after them, None likewise.

    Raises:
        UnsupportedError: it does not fit this machine.
    """
    with_draft = drafter == "draft_model"
    plan = analyze(
        ask(
            model=models.target, draft=models.draft if with_draft else None, gpu="local", drafter=drafter,
            heads=models.heads if drafter == "medusa" else None, context=context, dtype=models.dtype,
            draft_dtype=models.draft_dtype if with_draft else "auto", num_speculative_tokens=gamma,
            num_draft_nodes=num_draft_nodes, batch_size=batch_size, prompt_tokens=prompt_tokens, new_tokens=new_tokens,
        )
    )  # fmt: skip
    if not isinstance(plan, Plan):
        raise UnsupportedError(f"{models.target}: does not fit this machine: {'; '.join(plan.reasons)}")
    return plan


def engine_of(plan: Plan, stop: Sequence[int]) -> Engine:
    """An engine that ends texts at these tokens and no others."""
    engine = Engine(plan)
    engine.assembly.eos_token_ids = tuple(stop)
    return engine


def placed_bytes(plan: Plan, without_weights_of: Sequence[str]) -> int:
    """The arena of a plan but for the weights of some owners; phases share their place in it."""
    arena = place(plan, Arena()).arena
    weights = (f"{owner}.{kind}" for owner in without_weights_of for kind in ("weights", "weight_padding"))
    return arena.high_water - sum(arena.bytes_by_item.get(name, 0) for name in weights)


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """A drafter, what it drafts per step, and whether it drafts less where that is faster."""

    drafter: Drafter
    shape: Chain | Tree
    adaptive: bool = False

    @property
    def method(self) -> str:
        """For people, without the numbers."""
        name = "plain" if self.drafter == "none" else self.drafter
        tree = ", tree" if isinstance(self.shape, Tree) else ""
        return name + tree + (", adaptive" if self.adaptive else "")

    @property
    def numbers(self) -> str:
        """For people: what is drafted."""
        if isinstance(self.shape, Tree):
            return f"{self.shape.num_draft_nodes} nodes"
        return f"γ {self.shape.num_speculative_tokens}" if self.shape.num_speculative_tokens else ""


PLAIN = Setting("none", Chain(0))


class Seat:
    """An engine whose drafter can be exchanged within the memory of its plan.

    Args:
        plan: with the longest chain, or the tree, that is going to run.
        stop: tokens that end a text.
    """

    def __init__(self, plan: Plan, stop: Sequence[int]) -> None:
        self._plan, self._engine = plan, engine_of(plan, stop)
        self._own = self._engine.drafter

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._engine.device

    @property
    def medusa(self) -> Medusa:
        """The heads of a plan that has some."""
        medusa = self._engine.own.layout.medusa
        assert medusa is not None, "the plan has no heads"
        return medusa

    def choose(self, setting: Setting) -> None:
        """Take a drafter and what it drafts; what an adaptive one had learned is forgotten."""
        engine, shape = self._engine, setting.shape
        engine.plan = self._changed(setting)
        drafter = self._own
        if setting.drafter != self._plan.speculation.drafter:
            drafter = NgramDrafter(1) if setting.drafter == "ngram" else NoDrafter()
        engine.drafter = engine.assembly.drafter = drafter  # an engine adapts its assembly's drafter only
        depth = shape.depth if isinstance(shape, Tree) else None
        engine._limit = AdaptiveLimit(shape.num_draft_nodes, depth) if setting.adaptive else None

    def answer(self, prompt: Sequence[int], tokens: int) -> Answer:
        """Generate greedily."""
        clock = Clock()
        new: list[int] = []
        for emission in self._engine.serve([Request(0, list(prompt), tokens)]):
            clock.emitted(len(emission.tokens))
            new += emission.tokens
        return clock.answer(new)

    def generation_bytes(self, setting: Setting) -> int:
        """What the runtime places for a setting by itself, weights apart."""
        return placed_bytes(self._changed(setting), _WEIGHTS)

    def _changed(self, setting: Setting) -> Plan:
        plan = self._plan
        speculation = dataclasses.replace(plan.speculation, drafter=setting.drafter, shape=setting.shape)
        inputs = plan.inputs
        if setting.drafter != plan.speculation.drafter:
            inputs = dataclasses.replace(inputs, draft=None, heads=None, head_files=None)
        return dataclasses.replace(plan, inputs=inputs, speculation=speculation)


@contextmanager
def every_operator() -> Iterator[None]:
    """Without inference mode, in which composite operators hide from a tracker what they allocate."""
    start, step = (getattr(method, "__wrapped__", method) for method in (Engine.start, Engine.step))
    with mock.patch.object(Engine, "start", start), mock.patch.object(Engine, "step", step), torch.no_grad():
        yield
