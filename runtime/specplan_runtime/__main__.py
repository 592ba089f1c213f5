"""``python -m specplan_runtime plan.json …``: one rank of ``specplan run``, as torchrun starts it."""

from __future__ import annotations

import sys

from specplan.cli.main import entry_point

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    entry_point()
