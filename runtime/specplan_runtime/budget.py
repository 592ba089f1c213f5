"""Holding the budget: refused before loading when it does not fit, capped while running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from specplan.errors import BudgetError, UnsupportedError
from specplan.plan import Plan
from specplan.units import format_bytes

#: Python objects, token lists and library scratch may grow by this much after loading.
HOST_HEADROOM_BYTES = 256 << 20


def torch_device(plan: Plan) -> torch.device:
    """The device that the plan was made for.

    Raises:
        UnsupportedError: torch does not see such a device here.
    """
    kind = plan.inputs.device.kind
    if kind == "cpu":
        return torch.device("cpu")
    if kind in ("cuda", "rocm") and torch.cuda.is_available():
        return torch.device("cuda")
    if kind == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    raise UnsupportedError(
        f"the plan is for {plan.inputs.device.title} ({kind}), which torch does not see on this machine: "
        "analyze with --gpu local"
    )


def check_before_loading(plan: Plan, device: torch.device) -> None:
    """Compare the plan with its budget and with what is free.

    Raises:
        BudgetError: names the bytes that are missing and the largest item.
    """
    peak, item = plan.peak_bytes, max(plan.ledger.items, key=lambda item: item.bytes)
    largest = f"the largest item is {item.name} with {item.bytes} bytes"
    if peak > plan.inputs.budget_bytes:
        raise BudgetError(f"the plan needs {peak} bytes, its budget is {plan.inputs.budget_bytes}: {largest}")
    needed = plan.ledger.owned_bytes
    free = free_bytes(device)
    if free is not None and needed > free:
        raise BudgetError(
            f"the plan needs {needed} bytes ({format_bytes(needed)}), {free} are free on {device}: "
            f"{needed - free} bytes too many; {largest}"
        )
    if device.type == "cpu":
        resident = process_bytes("VmRSS") or 0
        if resident + needed > plan.inputs.budget_bytes:
            raise BudgetError(
                f"the process already takes {resident} bytes, with the plan's {needed} that exceeds its budget of "
                f"{plan.inputs.budget_bytes}; {largest}"
            )
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, plan.inputs.budget_bytes / total), device)
        torch.backends.cuda.enable_cudnn_sdp(False)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where the platform does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu":
        return _available_host_bytes()
    return None


def _available_host_bytes() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def cap_process(plan: Plan, device: torch.device) -> int | None:
    """Limit this process's data to what it has now plus a headroom; returns the limit, None where impossible.

    Only for a process that does nothing but run a plan: the limit holds for everything in it. What transformers'
    forward allocates in a pass comes on top, since it is free now.
    """
    if device.type != "cpu":
        return None
    data = process_bytes("VmData")
    if data is None:
        return None
    import resource

    passes = (item.bytes for item in plan.ledger.items if item.name.endswith(".forward"))
    limit = data + HOST_HEADROOM_BYTES + max(passes, default=0)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return limit


@contextmanager
def refusing_growth() -> Iterator[None]:
    """Turn a refused allocation into an error that says so.

    Raises:
        BudgetError: the process wanted more than its cap.
    """
    try:
        yield
    except MemoryError as error:
        raise BudgetError("the process was about to exceed its cap while generating") from error
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise BudgetError(f"the process was about to exceed its cap while generating: {reason}") from error


def process_bytes(field: str) -> int | None:
    """A field of /proc/self/status in bytes: VmRSS (resident now), VmHWM (resident at most), VmData."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return None
