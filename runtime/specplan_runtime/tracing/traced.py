"""``Traced``: bytes that a replay saw, and the ledger items that should hold them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traced:
    """One observation.

    Attributes:
        subject: what was replayed.
        items: names of the ledger items that speak of the same bytes.
        traced_bytes: seen.
        method: how.
    """

    subject: str
    items: tuple[str, ...]
    traced_bytes: int
    method: str
