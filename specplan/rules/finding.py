"""``Finding``: what a rule has to say about a deployment; ``Unknown``: what it could not tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from specplan.deployments.source import Location

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
#: Settings by the names that specplan.toml has for them, or else the engine.
Configuration = dict[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding at a place.

    Attributes:
        code: of the rule.
        severity: error: it fails or loses what it claims; warning: it wastes, or rests on modelled bytes; note.
        location: of the setting that a user would change.
        message: what is wrong, with figures and their sources.
        fix: what to write instead; empty where nobody knows.
        figures: bytes and counts of the message, for programs.
        nearest: configurations without the finding, nearest first; each is enough by itself.
    """

    code: str
    severity: Severity
    location: Location
    message: str
    fix: str = ""
    figures: dict[str, int] = field(default_factory=dict)
    nearest: tuple[Configuration, ...] = ()


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that could not be checked.

    Attributes:
        location: where what is missing should be said.
        message: what is missing and how to supply it.
        codes: the rules that needed it.
    """

    location: Location
    message: str
    codes: tuple[str, ...] = ()
