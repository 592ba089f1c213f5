"""``fleet.toml``: untrusted, and refused by the path of what is wrong."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specplan.errors import InputError
from specplan.fleet.demand import Cards, Demand, FleetQuestion, RequestClass

_MAX_BYTES = 1 << 20
_MOST_CLASSES, _MOST_CARDS, _MOST_TOKENS, _MOST_BATCH = 1000, 10_000, 1 << 24, 1024
_MOST_PER_REPLICA = 64
_DEFAULT_BATCH = 64
_DEFAULT_WAIT_S, _DEFAULT_WAIT_SHARE = 1.0, 0.95
#: Options of ``analyze`` that a deployment may have, and their types.
_DEPLOYMENT: dict[str, type] = {
    "model": str, "draft": str, "drafter": str, "tree": str, "heads": str, "share_head": bool, "dtype": str,
    "kv_dtype": str, "draft_dtype": str, "draft_kv_dtype": str, "num_speculative_tokens": int, "num_draft_nodes": int,
    "alpha": float, "acceptance": str, "category": str, "num_exit_layers": int,
}  # fmt: skip


def read_fleet(path: Path) -> FleetQuestion:
    """Read a fleet file.

    Raises:
        InputError: a file that cannot be read, an unknown or missing key, a value out of range.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: fleet of more than {_MAX_BYTES} bytes")
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read fleet: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    return fleet_of(data, str(path))


def fleet_of(data: Mapping[str, Any], where: str) -> FleetQuestion:
    """The question that a fleet file asks; arguments and errors as of ``read_fleet``."""
    table = _Table(data, where, "")
    table.only("deployment", "demand", "cards", "max_batch")
    deployment = table.table("deployment")
    deployment.only(*_DEPLOYMENT)
    options = {key: deployment.typed(key, _DEPLOYMENT[key]) for key in deployment.data}
    if "model" not in options:
        raise InputError(f"{where}: missing key deployment.model")
    cards = tuple(_cards(entry) for entry in table.tables("cards"))
    if len({each.gpu for each in cards}) < len(cards):
        raise InputError(f"{where}: cards names a GPU twice")
    max_batch = table.integer("max_batch", 1, _MOST_BATCH, _DEFAULT_BATCH)
    return FleetQuestion(options, _demand(table.table("demand")), cards, max_batch)


def _demand(table: _Table) -> Demand:
    table.only("rate_per_s", "requests", "wait_s", "wait_share", "least_tokens_per_s")
    classes = tuple(_request(entry) for entry in table.tables("requests"))
    total = sum(each.share for each in classes)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise InputError(f"{table.name('requests')}: shares add up to {total:g}, expected 1")
    least = table.number("least_tokens_per_s", 0.0, 1e9, 0.0)
    return Demand(
        table.number("rate_per_s", 1e-9, 1e9),
        classes,
        table.number("wait_s", 0.0, 1e6, _DEFAULT_WAIT_S),
        table.number("wait_share", 0.01, 0.9999, _DEFAULT_WAIT_SHARE),
        least or None,
    )


def _request(table: _Table) -> RequestClass:
    table.only("share", "prompt_tokens", "new_tokens")
    return RequestClass(
        table.number("share", 1e-9, 1.0),
        table.integer("prompt_tokens", 1, _MOST_TOKENS),
        table.integer("new_tokens", 1, _MOST_TOKENS),
    )


def _cards(table: _Table) -> Cards:
    table.only("gpu", "count", "per_replica")
    gpu, count = str(table.typed("gpu", str)), table.integer("count", 1, _MOST_CARDS)
    if "," in gpu:
        raise InputError(f"{table.name('gpu')}: {gpu} are several kinds of cards; a replica of a fleet has one")
    return Cards(gpu, count, table.integers("per_replica", 1, min(count, _MOST_PER_REPLICA), (1,)))


class _Table:
    """A table whose errors name the path of what is wrong."""

    def __init__(self, data: Mapping[str, Any], where: str, path: str) -> None:
        self.data, self._where, self._path = data, where, path

    def name(self, key: str) -> str:
        """A key as errors call it."""
        return f"{self._where}: {self._path}{key}"

    def only(self, *known: str) -> None:
        """Refuse other keys."""
        for key in self.data:
            if key not in known:
                raise InputError(f"{self._where}: unknown key {self._path}{key}: expected {', '.join(known)}")

    def typed(self, key: str, kind: type) -> Any:
        """A value of one type; a number may be written without its fraction."""
        if key not in self.data:
            raise InputError(f"{self._where}: missing key {self._path}{key}")
        value = self.data[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise InputError(f"{self.name(key)}: expected {kind.__name__}, found {type(value).__name__}")
        return value

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        """A number within a range."""
        return float(self._ranged(key, float, least, most, default))

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number within a range."""
        return int(self._ranged(key, int, least, most, default))

    def integers(self, key: str, least: int, most: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Different whole numbers within a range, rising."""
        if key not in self.data:
            return default
        values = self.typed(key, list)
        if not values or not all(type(value) is int and least <= value <= most for value in values):
            raise InputError(f"{self.name(key)}: expected a list of numbers from {least} to {most}")
        return tuple(sorted(set(values)))

    def _ranged(self, key: str, kind: type, least: float, most: float, default: float | None) -> float:
        if key not in self.data and default is not None:
            return default
        value: float = self.typed(key, kind)
        if not least <= value <= most:
            raise InputError(f"{self.name(key)}: {value:g}, expected {least:g} to {most:g}")
        return value

    def table(self, key: str) -> _Table:
        """A table inside this one."""
        return _Table(self.typed(key, dict), self._where, f"{self._path}{key}.")

    def tables(self, key: str) -> list[_Table]:
        """A list of tables, at least one."""
        entries = self.typed(key, list)
        if not 1 <= len(entries) <= _MOST_CLASSES or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f"{self.name(key)}: expected 1 to {_MOST_CLASSES} tables")
        return [_Table(entry, self._where, f"{self._path}{key}[{index}].") for index, entry in enumerate(entries)]
