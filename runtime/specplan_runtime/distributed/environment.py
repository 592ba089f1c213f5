"""How the processes of one job find each other and end: known to whoever starts them, without torch."""

from __future__ import annotations

import os

#: Where the processes find each other, when ``specplan run`` started them.
RENDEZVOUS = "SPECPLAN_RENDEZVOUS"
#: Exit code of a rank that ended because another one did.
LOST_CODE = 3


def environment_rank() -> tuple[int, int]:
    """(rank, number of ranks) as torchrun sets them; those of the only process outside of it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
