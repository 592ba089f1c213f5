"""Starting one process per rank on this host, and ending all of them when one ends badly."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from specplan.errors import EnvironmentProblem
from specplan.parallelism import Parallelism
from specplan_runtime.distributed.environment import LOST_CODE, RENDEZVOUS

#: After a rank has ended badly, the others have so long to end by themselves, their results on disk.
_GRACE_S = 5.0
_POLL_S = 0.05


class LaunchFailed(Exception):
    """A rank said itself what was wrong; there is nothing to add."""


def launch(arguments: Sequence[str], parallelism: Parallelism) -> None:
    """Run ``python -m specplan_runtime`` once per rank, and wait.

    Standard input is the deciding rank's; every rank writes to the standard output and error of this process.

    Args:
        arguments: of ``specplan run``.
        parallelism: of the plan.

    Raises:
        EnvironmentProblem: a rank died without a word, or did not answer the others.
        LaunchFailed: a rank refused and said why.
    """
    with tempfile.TemporaryDirectory(prefix="specplan-") as folder:
        processes = [_start(arguments, parallelism, rank, folder) for rank in range(parallelism.num_ranks)]
        try:
            codes = _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    _raise_for(codes)


def end_with_parent() -> None:
    """End this process when the one that launched it is gone, so that none is left behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(LOST_CODE)

    threading.Thread(target=watch, daemon=True).start()


def _start(arguments: Sequence[str], parallelism: Parallelism, rank: int, folder: str) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // parallelism.num_ranks)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(parallelism.num_ranks),
        RENDEZVOUS: f"file://{folder}/rendezvous",
    }
    stdin = None if rank == parallelism.deciding_rank else subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-m", "specplan_runtime", *arguments], env=environment, stdin=stdin)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Exit codes; None for ranks that had not ended a while after another had ended badly."""
    deadline: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return codes
        if deadline is None and any(codes):
            deadline = time.monotonic() + _GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            return codes
        with contextlib.suppress(KeyboardInterrupt):  # the ranks hear it too: the deciding one stops an answer, or all
            time.sleep(_POLL_S)


def _raise_for(codes: Sequence[int | None]) -> None:
    """The cause among all endings: a signal, else a refusal, else a rank that the others waited for."""
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            raise EnvironmentProblem(f"rank {rank} of {len(codes)} was ended by {name}: the others ended too")
    if any(code not in (0, None, LOST_CODE) for code in codes):
        raise LaunchFailed
    if any(codes):
        silent = [str(rank) for rank, code in enumerate(codes) if code is None]
        who = f"rank {', '.join(silent)}" if silent else "a rank"
        raise EnvironmentProblem(f"{who} of {len(codes)} did not answer the others in time: the job was ended")
