"""Typed access to what a config.json or a GGUF header says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specplan.errors import InputError

#: No width of a model is larger, no frequency or factor either.
MAX_SIZE = 1 << 20
MAX_NUMBER = 1e15


class ConfigReader:
    """Typed access to a config whose every error names the file and the field."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config = config
        self.where = where

    def integer(self, field: str, default: int | None = None) -> int:
        """A whole number; ``default`` where the field is absent or null."""
        value = self.config.get(field)
        if value is None:
            if default is None:
                raise InputError(f"{self.where}: field {field} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{self.where}: {field} is {value!r}, expected an integer")
        return value

    def size(self, field: str, default: int | None = None, *, least: int = 1, most: int = MAX_SIZE) -> int:
        """A whole number from ``least`` to ``most``."""
        value = self.integer(field, default)
        if not least <= value <= most:
            raise InputError(f"{self.where}: {field} is {value}, expected {least} to {most}")
        return value

    def layers(self, field: str) -> tuple[int, ...]:
        """Numbers of layers, as in configs that were cut shorter perhaps beyond the last; none where absent or null."""
        value = self.config.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(type(entry) is int and entry >= 0 for entry in value):
            raise InputError(f"{self.where}: {field} is {value!r}, expected a list of layers")
        return tuple(value)

    def number(self, field: str, default: float) -> float:
        """A real number; ``default`` where the field is absent or null."""
        value = self.config.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{self.where}: {field} is {value!r}, expected a number")
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{self.where}: {field} is beyond any float") from None

    def positive(self, field: str, default: float) -> float:
        """A real number above 0, within reason."""
        value = self.number(field, default)
        if not 0 < value < MAX_NUMBER:
            raise InputError(f"{self.where}: {field} is {value!r}, expected a positive number")
        return value

    def flag(self, field: str, default: bool) -> bool:
        """A boolean; ``default`` where the field is absent. Null is no: refused where absent means yes."""
        value = self.config.get(field, default)
        if value is None and not default:
            return False
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: {field} is {value!r}, expected true or false")
        return value

    def text(self, field: str, default: str | None = None) -> str:
        """A string; ``default`` where the field is absent or null."""
        value = self.config.get(field)
        if value is None:
            value = default
        if not isinstance(value, str):
            raise InputError(f"{self.where}: {field} is {value!r}, expected a string")
        return value
