"""``fleet.toml``: untrusted, and refused by the path of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specplan.fleet.demand import FleetQuestion
from specplan.strict import decode
from specplan.toml_input import read_toml

_MAX_BYTES = 1 << 20


def read_fleet(path: Path) -> FleetQuestion:
    """Read a fleet file.

    Raises:
        InputError: a file that cannot be read, an unknown or missing key, a value out of range.
    """
    return fleet_of(read_toml(path, "fleet", _MAX_BYTES), str(path))


def fleet_of(data: Mapping[str, Any], where: str) -> FleetQuestion:
    """The question that a fleet file asks; arguments and errors as of ``read_fleet``."""
    return decode(FleetQuestion, data, where, defaults=True)
