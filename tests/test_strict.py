"""Decoding of untrusted values: ranges, defaults, and errors that name the path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specplan.errors import InputError
from specplan.strict import Within, decode, encode
from specplan.toml_input import read_toml


@dataclass(frozen=True)
class Part:
    share: Annotated[float, Within(0, 1)]
    names: Annotated[tuple[str, ...], Within(1, 2)] = ("only",)

    def __post_init__(self) -> None:
        if self.names[0] == "wrong":
            raise ValueError("names begin with 'wrong'")


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    most: Annotated[int, Within(1, 1 << 40)] | None = None


def test_what_has_a_default_may_be_left_out_where_people_write() -> None:
    assert decode(Whole, {"parts": [{"share": 1}]}, "f", defaults=True) == Whole((Part(1.0),))
    with pytest.raises(InputError, match=r"^f: missing key most$"):
        decode(Whole, {"parts": []}, "f")
    with pytest.raises(InputError, match=r"^f: missing key parts\[0\]\.names$"):
        decode(Whole, {"parts": [{"share": 1}], "most": None}, "f")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"parts": [{"share": 1.5}]}, "parts[0].share must be from 0 to 1, found 1.5"),
        ({"parts": [{"share": float("nan")}]}, "parts[0].share must be a finite number, found nan"),
        ({"parts": [{"share": True}]}, "parts[0].share must be a number, found True"),
        ({"parts": [{"share": 0, "names": []}]}, "parts[0].names must be a list of 1 to 2 entries, found []"),
        ({"parts": [{"share": 0, "names": "ab"}]}, "parts[0].names must be a list, found 'ab'"),
        ({"parts": [{"share": 0, "names": ["wrong"]}]}, "parts[0]: names begin with 'wrong'"),
        ({"parts": [], "most": 0}, "most must be from 1 to 1099511627776, found 0"),
        ({"parts": [], "most": 1 << 70}, "most must be an integer below 2^62, found"),
        ({"parts": [], "mots": 1}, "unknown key mots: did you mean most?"),
        ({"parts": [], "\n": 1}, "unknown key"),
        ({"parts": [3]}, "parts[0] must be an object, found 3"),
        ({}, "missing key parts"),
        ([], "top level must be an object, found []"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(data: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        decode(Whole, data, "f", defaults=True)
    assert str(caught.value).startswith(f"f: {message}")


wholes = st.builds(
    Whole,
    st.lists(st.builds(Part, st.floats(0, 1), st.just(("a", "b"))), max_size=3).map(tuple),
    st.none() | st.integers(1, 1 << 40),
)


@given(wholes)
def test_what_was_encoded_is_decoded(whole: Whole) -> None:
    assert decode(Whole, encode(whole), "f") == whole


@pytest.mark.parametrize("content", [b"\xff", b"[", b"a = 1\na = 2", b"a = " + b"[" * 5000, b"\0"])
def test_what_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.toml: not TOML"):
        read_toml(path, "file", 1 << 20)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_text("a = 1")
    for path, message in (
        (tmp_path / "none", "no such fleet file"),
        (tmp_path, "is not a regular file, expected a fleet"),
        (tmp_path / "big", "fleet of 5 bytes, expected at most 4"),
        (tmp_path / ("x" * 5000), "cannot read fleet"),
        (Path("a\0b"), "cannot read fleet"),
    ):
        with pytest.raises(InputError, match=message):
            read_toml(path, "fleet", 4)
