"""flashspec's side of bench.runtime: its engine around transformers' models, where the package is installed.

    pip install --no-deps flashspec pydantic

Its caches, acceptance and drafting. ``composite`` is what it chooses by itself when it is given a draft model: lookup
of 6 tokens where there is a match, else 2 of the draft model.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import torch

from bench.answers import Answer


def installed() -> bool:
    """Whether its package can be imported."""
    return importlib.util.find_spec("flashspec") is not None


def lookup_engine(target: Any, gamma: int) -> Any:
    """Prompt lookup of ``gamma`` tokens per step over a transformers model."""
    from flashspec.engine import NgramDrafter
    from flashspec.engine.arms import ArmSpec

    return _engine(target, [NgramDrafter()], [ArmSpec(0, gamma)])


def model_engine(target: Any, draft: Any, gamma: int) -> Any:
    """A draft model with ``gamma`` tokens per step."""
    from flashspec.engine.arms import ArmSpec

    return _engine(target, [_drafter(draft)], [ArmSpec(0, gamma)])


def composite_engine(target: Any, draft: Any) -> Any:
    """What it chooses by itself for a draft model."""
    return _engine(target, [_drafter(draft)], None)


def answer(engine: Any, prompt: Sequence[int], tokens: int, stop: Sequence[int]) -> Answer:
    """Greedy generation of one prompt; the time before its second step counts as the first step's."""
    began = time.perf_counter()
    result = engine.generate(torch.tensor([list(prompt)]), max_new_tokens=tokens, eos_token_ids=list(stop))
    seconds = time.perf_counter() - began
    first, *later = result.arm_steps
    new = result.output_ids[0, : result.n_tokens_generated].tolist()
    return Answer(tuple(new), seconds, seconds - sum(step.seconds for step in later), first.emitted, len(later))


def _drafter(draft: Any) -> Any:
    from flashspec.engine import HuggingFaceDrafter

    return HuggingFaceDrafter("draft", torch.device("cpu"), draft.dtype, temperature=0.0, model=draft)


def _engine(target: Any, drafters: list[Any], arms: list[Any] | None) -> Any:
    from flashspec import BanditConfig, FlashSpecConfig, SamplingConfig, SpeculativeEngine
    from flashspec.engine import TargetModel

    config = FlashSpecConfig(device="cpu", sampling=SamplingConfig(temperature=0.0), bandit=BanditConfig(n_arms=1))
    model = TargetModel("target", torch.device("cpu"), target.dtype, model=target)
    return SpeculativeEngine(config, drafters, model, arms=arms)
