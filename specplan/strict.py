"""Dataclasses to plain JSON values and back, refusing whatever is not declared.

Used for plan files, profiles and what people write as TOML: all are untrusted input, so every key, type, literal and
range is checked and an error names the path of the offending key.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from specplan.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Within:
    """A range that a field declares, ends included: ``Annotated[int, Within(1, 64)]``; of a list, for its length."""

    least: float
    most: float


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def encode(value: Any) -> Any:
    """Turn frozen dataclasses, tuples and dicts into JSON values. Keys keep their declared names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [encode(entry) for entry in value]
    if isinstance(value, dict):
        return {key: encode(entry) for key, entry in value.items()}
    return value


def canonical(data: Any) -> str:
    """JSON text of plain values: sorted keys, no NaN, a newline at the end."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def decode(cls: type[T], data: Any, where: str, *, defaults: bool = False) -> T:
    """Build ``cls`` from JSON or TOML values.

    Args:
        cls: a dataclass.
        data: what ``json.loads`` or ``tomllib.loads`` gave.
        where: prefix of error messages, usually the file name.
        defaults: keys whose fields have a default may be left out. What a program wrote has them all.

    Raises:
        InputError: an unknown or missing key, a wrong type, a value outside a ``Literal`` or a ``Within``, a non-finite
            number, or what the dataclass itself refuses with a ValueError.
    """
    result: T = _Decoder(where, defaults).dataclass(cls, data, "")
    return result


@dataclass(frozen=True, slots=True)
class _Decoder:
    """Arguments as of ``decode``."""

    where: str
    defaults: bool

    def dataclass(self, cls: type, data: Any, path: str) -> Any:
        if not isinstance(data, dict):
            raise InputError(f"{self.where}: {path or 'top level'} must be an object, found {_kind(data)}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in data:
            if key not in fields:
                raise InputError(f"{self.where}: unknown key {_join(path, str(key))}{_meant(str(key), fields)}")
        for name, field in fields.items():
            if name not in data and not (self.defaults and _has_default(field)):
                raise InputError(f"{self.where}: missing key {_join(path, name)}")
        hints = _hints(cls)
        given = [name for name in fields if name in data]
        values = {name: self.value(hints[name], data[name], _join(path, name)) for name in given}
        try:
            return cls(**values)
        except ValueError as error:
            raise InputError(f"{self.where}: {path}: {error}" if path else f"{self.where}: {error}") from error

    def value(self, hint: Any, data: Any, path: str) -> Any:
        origin = get_origin(hint)
        if origin is Annotated:
            return self.within(hint, data, path)
        if origin in (Union, types.UnionType):
            return self.union(get_args(hint), data, path)
        if origin is Literal:
            if data not in get_args(hint) or isinstance(data, bool):
                choices = ", ".join(map(str, get_args(hint)))
                raise InputError(f"{self.where}: {path} must be one of {choices}, found {data!r}")
            return data
        if origin is tuple:
            entry = get_args(hint)[0]
            self.expect(isinstance(data, list), "a list", data, path)
            return tuple(self.value(entry, item, f"{path}[{index}]") for index, item in enumerate(data))
        if origin is dict:
            entry = get_args(hint)[1]
            self.expect(isinstance(data, dict), "an object", data, path)
            return {key: self.value(entry, item, _join(path, key)) for key, item in data.items()}
        if dataclasses.is_dataclass(hint):
            return self.dataclass(hint, data, path)  # type: ignore[arg-type]
        return self.scalar(hint, data, path)

    def within(self, hint: Any, data: Any, path: str) -> Any:
        declared, *marks = get_args(hint)
        value = self.value(declared, data, path)
        for mark in marks:
            if isinstance(mark, Within) and value is not None:
                span = f"{mark.least:.16g} to {mark.most:.16g}"
                if isinstance(value, tuple):
                    self.expect(mark.least <= len(value) <= mark.most, f"a list of {span} entries", data, path)
                else:
                    self.expect(mark.least <= value <= mark.most, f"from {span}", data, path)
        return value

    def union(self, choices: tuple[Any, ...], data: Any, path: str) -> Any:
        if data is None and type(None) in choices:
            return None
        declared = [choice for choice in choices if choice is not type(None)]
        if len(declared) == 1:
            return self.value(declared[0], data, path)
        keys = set(data) if isinstance(data, dict) else set()
        # dataclasses, told apart by their keys: the one that has most of them, and of those the one that lacks fewest,
        # says what is wrong with the others
        names = [{field.name for field in dataclasses.fields(choice)} for choice in declared]
        best = max(range(len(declared)), key=lambda index: (len(keys & names[index]), -len(names[index] - keys)))
        return self.value(declared[best], data, path)

    def scalar(self, hint: Any, data: Any, path: str) -> Any:
        if hint is bool:
            self.expect(isinstance(data, bool), "true or false", data, path)
        elif hint is int:
            self.expect(isinstance(data, int) and not isinstance(data, bool), "an integer", data, path)
            self.expect(abs(data) < 1 << 62, "an integer below 2^62", data, path)
        elif hint is float:
            self.expect(isinstance(data, int | float) and not isinstance(data, bool), "a number", data, path)
            self.expect(abs(data) < 1e300, "a finite number", data, path)
        elif hint is str:
            self.expect(isinstance(data, str), "a string", data, path)
        else:  # pragma: no cover - a declared field type that this module does not know
            raise TypeError(f"no decoder for {hint!r} at {path}")
        return data

    def expect(self, condition: bool, what: str, data: Any, path: str) -> None:
        if not condition:
            raise InputError(f"{self.where}: {path} must be {what}, found {_kind(data)}")


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _meant(key: str, known: Iterable[str]) -> str:
    """The known keys that look like it."""
    import difflib  # late: only errors need it

    near = difflib.get_close_matches(key, known)
    return f": did you mean {' or '.join(near)}?" if near else ""


def _kind(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 40 else f"{type(data).__name__}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
