"""Sizes as text."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specplan.errors import InputError
from specplan.units import format_bytes, format_exact_bytes, format_rate, parse_bytes

FACTORS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("8GiB", 8 << 30),
        ("8 gib", 8 << 30),
        (" 8 GB ", 8 * 10**9),
        ("512MiB", 512 << 20),
        ("1_000_000", 10**6),
        ("12345", 12345),
        ("1.5 GiB", 3 << 29),
        ("0.5KiB", 512),
        ("1B", 1),
    ],
)
def test_reads_sizes(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "GiB",
        "8 XB",
        "8GiBs",
        "-8GiB",
        "+8GiB",
        "0",
        "0GiB",
        "0.0001B",
        "1e9",
        "8,5GiB",
        ".5GiB",
        "5.GiB",
        "8 Gi B",
        "0x10",
        "nan",
        "inf",
        "٣GiB",
        "_1",
        "8GiB\x00",
        "1/2GiB",
    ],
)
def test_refuses_what_is_not_a_size(text: str) -> None:
    with pytest.raises(InputError):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 400 + ".5", "9" * 400 + ".5GiB", "1" * 5000 + "KiB"])
def test_refuses_numbers_beyond_all_memory(text: str) -> None:
    with pytest.raises(InputError):
        parse_bytes(text)


@given(st.integers(1, 1 << 50), st.sampled_from(sorted(FACTORS)))
def test_whole_numbers_are_exact(number: int, unit: str) -> None:
    assert parse_bytes(f"{number}{unit}") == number * FACTORS[unit]


@given(st.integers(0, 99_999), st.integers(0, 999), st.sampled_from(sorted(FACTORS)))
def test_decimals_are_exact_and_rounded_down(whole: int, thousandths: int, unit: str) -> None:
    exact = (whole + Fraction(thousandths, 1000)) * FACTORS[unit]
    text = f"{whole}.{thousandths:03}{unit}"
    if exact < 1:
        with pytest.raises(InputError):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == math.floor(exact)


def test_a_decimal_size_keeps_its_last_byte() -> None:
    assert parse_bytes("4.1GB") == 4_100_000_000


@given(st.integers(1, 1 << 50))
def test_formatted_sizes_read_back(num_bytes: int) -> None:
    assert abs(parse_bytes(format_bytes(num_bytes)) - num_bytes) <= 0.0005 * num_bytes + 1
    assert int(format_exact_bytes(num_bytes).replace(" ", "")) == num_bytes


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.000 KiB"), (3 << 29, "1.500 GiB"), (-(5 << 20), "-5.000 MiB")],
)
def test_formats_sizes(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_groups_digits() -> None:
    assert format_exact_bytes(13_476_831_232).replace("\u202f", " ") == "13 476 831 232"


@pytest.mark.parametrize(
    ("value", "text"), [(12.345, "12.3 t/s"), (999.4, "999 t/s"), (1234.5, "1234 t/s"), (0.00123, "0.00123 t/s")]
)
def test_formats_rates(value: float, text: str) -> None:
    assert format_rate(value, "t/s") == text
