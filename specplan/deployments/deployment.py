"""``Deployment``: what a file says about one engine that serves one model, setting by setting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specplan.deployments.source import Location
from specplan.errors import InputError

Engine = Literal["vllm", "sglang", "llama.cpp", "tensorrt-llm", "transformers", "specplan"]
ProblemKind = Literal["unknown-flag", "removed-flag", "deprecated-flag", "bad-value", "unresolved", "missing-file"]


class CannotTell(InputError):
    """Something that a rule needs is not said, or not known here: the message names it and how to supply it.

    Args:
        message: one sentence.
        location: where it is missing, None for the deployment as a whole.
    """

    def __init__(self, message: str, location: Location | None = None) -> None:
        super().__init__(message)
        self.location = location


@dataclass(frozen=True, slots=True)
class Setting:
    """One option of an engine.

    Attributes:
        name: the engine's own, in its longest spelling: ``--max-model-len``, ``speculative_config.method``.
        value: as written, quotes resolved; ``true`` and ``false`` for switches.
        location: of the option, or of the key.
        written: the spelling that was used, where it is another one.
        unresolved: variables in the value that the file does not say.
    """

    name: str
    value: str
    location: Location
    written: str = ""
    unresolved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a command that its engine does not take, or that cannot be read here.

    Attributes:
        kind: what is wrong.
        name: the option.
        message: one sentence.
        location: of the option.
        fix: what to write instead; empty where nobody knows.
    """

    kind: ProblemKind
    name: str
    message: str
    location: Location
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """An engine with its settings.

    Attributes:
        engine: which.
        engine_version: as an image's tag or a pinned package says; None where nothing says.
        settings: in the order in which they were written; the last of a name counts, as in the engines.
        location: of the command.
        problems: what the grammar of the engine did not take.
        gpu: what names a GPU: a node selector, a label, a key of specplan.toml.
        num_gpus: how many a container asks for.
        offline: an ``LLM(…)`` object instead of a server, which has other defaults.
    """

    engine: Engine
    engine_version: str | None
    settings: tuple[Setting, ...]
    location: Location
    problems: tuple[Problem, ...] = ()
    gpu: Setting | None = None
    num_gpus: Setting | None = None
    offline: bool = False

    def get(self, *names: str) -> Setting | None:
        """The last setting with one of the names."""
        for setting in reversed(self.settings):
            if setting.name in names:
                return setting
        return None
