"""Dataclasses to plain JSON values and back, refusing whatever is not declared.

Used for plan files and profiles: both are untrusted input, so every key, type and literal is checked
and an error names the path of the offending key.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from specplan.errors import InputError

T = TypeVar("T")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


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


def decode(cls: type[T], data: Any, where: str) -> T:
    """Build ``cls`` from JSON values.

    Args:
        cls: a dataclass.
        data: what ``json.loads`` gave.
        where: prefix of error messages, usually the file name.

    Raises:
        InputError: an unknown or missing key, a wrong type, a value outside a ``Literal``, a non-finite number.
    """
    result: T = _dataclass(cls, data, where, "")
    return result


def _dataclass(cls: type, data: Any, where: str, path: str) -> Any:
    if not isinstance(data, dict):
        raise InputError(f"{where}: {path or 'top level'} must be an object, found {_kind(data)}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise InputError(f"{where}: unknown key {_join(path, str(key))}")
    for name in fields:
        if name not in data:
            raise InputError(f"{where}: missing key {_join(path, name)}")
    hints = _hints(cls)
    values = {name: _value(hints[name], data[name], where, _join(path, name)) for name in fields}
    try:
        return cls(**values)
    except ValueError as error:
        raise InputError(f"{where}: {path}: {error}" if path else f"{where}: {error}") from error


def _value(hint: Any, data: Any, where: str, path: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(get_args(hint), data, where, path)
    if origin is Literal:
        if data not in get_args(hint) or isinstance(data, bool):
            raise InputError(f"{where}: {path} must be one of {', '.join(map(str, get_args(hint)))}, found {data!r}")
        return data
    if origin is tuple:
        entry = get_args(hint)[0]
        _expect(isinstance(data, list), "a list", data, where, path)
        return tuple(_value(entry, item, where, f"{path}[{index}]") for index, item in enumerate(data))
    if origin is dict:
        entry = get_args(hint)[1]
        _expect(isinstance(data, dict), "an object", data, where, path)
        return {key: _value(entry, item, where, _join(path, key)) for key, item in data.items()}
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, data, where, path)  # type: ignore[arg-type]
    return _scalar(hint, data, where, path)


def _union(choices: tuple[Any, ...], data: Any, where: str, path: str) -> Any:
    if data is None and type(None) in choices:
        return None
    declared = [choice for choice in choices if choice is not type(None)]
    if len(declared) == 1:
        return _value(declared[0], data, where, path)
    keys = set(data) if isinstance(data, dict) else set()
    # dataclasses, told apart by their keys: the one that has most of them, and of those the one that lacks fewest, says
    # what is wrong with the others
    names = [{field.name for field in dataclasses.fields(choice)} for choice in declared]
    best = max(range(len(declared)), key=lambda index: (len(keys & names[index]), -len(names[index] - keys)))
    return _value(declared[best], data, where, path)


def _scalar(hint: Any, data: Any, where: str, path: str) -> Any:
    if hint is bool:
        _expect(isinstance(data, bool), "true or false", data, where, path)
    elif hint is int:
        _expect(isinstance(data, int) and not isinstance(data, bool), "an integer", data, where, path)
        _expect(abs(data) < 1 << 62, "an integer below 2^62", data, where, path)
    elif hint is float:
        _expect(isinstance(data, int | float) and not isinstance(data, bool), "a number", data, where, path)
        _expect(abs(data) < 1e300, "a finite number", data, where, path)
    elif hint is str:
        _expect(isinstance(data, str), "a string", data, where, path)
    else:  # pragma: no cover - a declared field type that this module does not know
        raise TypeError(f"no decoder for {hint!r} at {path}")
    return data


def _expect(condition: bool, what: str, data: Any, where: str, path: str) -> None:
    if not condition:
        raise InputError(f"{where}: {path} must be {what}, found {_kind(data)}")


def _kind(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 40 else f"{type(data).__name__}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
