"""``OptionTable``: the options of one engine in one version, as its source declares them (profiles/engines)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from typing import Literal

from specplan.deployments.deployment import Engine
from specplan.profiles import read_profile

#: value: takes one; json: takes one, or keys behind dots; many: takes some; switch: takes none.
OptionKind = Literal["value", "json", "many", "switch"]

#: Engines whose parser takes an unambiguous beginning of an option for the option (Python's argparse).
_ABBREVIATES = ("vllm", "sglang")
#: Engines that take _ for - in the names of options.
_TAKES_UNDERSCORES = ("vllm", "llama.cpp")


@dataclass(frozen=True, slots=True)
class OptionTable:
    """What an engine's command line takes.

    Attributes:
        engine: which.
        title: its name for people.
        version: that was read.
        flags: by name, with their kinds.
        aliases: other spellings.
        removed: options that the version refuses by name, and what to use.
        deprecated: options that it still takes, and what to use.
        keywords: arguments of its Python class.
        config_keys: keys of options that are JSON or YAML objects.
        images: of that version, by the kind of device.
    """

    engine: Engine
    title: str
    version: str
    flags: dict[str, OptionKind]
    aliases: dict[str, str]
    removed: dict[str, str]
    deprecated: dict[str, str]
    keywords: tuple[str, ...]
    config_keys: dict[str, tuple[str, ...]]
    images: dict[str, str]

    def find(self, written: str) -> str | None:
        """The option that a spelling means; None where the engine has none."""
        name = self._normal(written)
        if name in self.flags:
            return name
        if name in self.aliases:
            return self.aliases[name]
        if self.engine in _ABBREVIATES and name.startswith("--") and len(name) > 3:
            begun = {self.aliases.get(flag, flag) for flag in (*self.flags, *self.aliases) if flag.startswith(name)}
            return begun.pop() if len(begun) == 1 else None
        return None

    def refused(self, written: str) -> str | None:
        """What to use instead of an option that was removed; None for others."""
        return self.removed.get(self._normal(written))

    def nearest(self, written: str) -> str:
        """The option that was perhaps meant; empty without one."""
        close = difflib.get_close_matches(self._normal(written), (*self.flags, *self.aliases), n=1, cutoff=0.75)
        return close[0] if close else ""

    def _normal(self, written: str) -> str:
        if self.engine in _TAKES_UNDERSCORES and written.startswith("--"):
            return "--" + written[2:].replace("_", "-")
        return written


@cache
def option_table(engine: Engine) -> OptionTable:
    """The table of an engine."""
    data = read_profile("engines", engine)
    return OptionTable(
        engine,
        data["title"],
        data["version"],
        data["flags"],
        data["aliases"],
        data["removed"],
        data["deprecated"],
        tuple(data["keywords"]),
        {key: tuple(keys) for key, keys in data["config_keys"].items()},
        data["images"],
    )
