"""What the memory model says against what a CUDA (or ROCm) device reports, part by part.

    python -m bench.gpu_validate --fuzz 20 --plans --output profiles/measured/h100.json

``--fuzz N``: N random sequences of requests and frees are replayed by torch on the device and by
`specplan.allocator.model.AllocatorModel`, without and with expandable segments, each in a fresh process. After every
step requested, allocated and reserved bytes must be equal. Versions of torch choose differently between free blocks of
equal size: the model is told the version, and for 2.11 where the driver put each segment, which torch's snapshot says.

``--plans``: two dozen plans of eight families, with random weights (bench/random_plans.py). Runs on a CPU too.

A part prints its table and returns 0 when all is equal, else 1. Without a device it says so and returns 0.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.random_plans import validate_plans
from specplan.allocator.model import AllocatorModel
from specplan.units import format_bytes

#: ("malloc", bytes), ("free", index of a malloc) or ("empty", 0)
Op = tuple[str, int]
#: requested, allocated and reserved bytes after a step, and the address of a segment that the step brought
Step = tuple[int, int, int, int | None]

MIB = 1 << 20
#: Requests that are live at one time stay below this.
LIVE_BYTES = 1 << 30
BORDERS = (512, MIB, 2 * MIB, 9 * MIB, 10 * MIB, 19 * MIB, 20 * MIB, 32 * MIB, 40 * MIB)
NO_DEVICE = "no CUDA device here, nothing compared"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a process on the device reported.

    Attributes:
        torch: version.
        device: name.
        expandable: the process had expandable segments.
        sequences: steps of each sequence.
    """

    torch: str
    device: str
    expandable: bool
    sequences: list[list[Step]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first step of a sequence after which the figures differ."""

    sequence: int
    step: int
    op: Op
    measured: tuple[int, ...]
    predicted: tuple[int, ...]


def random_sequence(seed: int, steps: int) -> list[Op]:
    """Sizes from bytes to tens of MiB, many around the allocator's borders; frees in any order."""
    rng = random.Random(seed)
    share_of_frees = rng.choice((0.3, 0.45, 0.55))
    ops: list[Op] = []
    sizes: list[int] = []
    live: list[int] = []
    for _ in range(steps):
        kind = rng.random()
        if kind < 0.01:
            ops.append(("empty", 0))
            continue
        near_border = rng.choice(BORDERS) + rng.choice((-512, -511, -1, 0, 1, 512))
        size = max(1, near_border if rng.random() < 0.5 else int(2 ** rng.uniform(0, 26)))
        if live and (kind < share_of_frees or sum(sizes[index] for index in live) + size > LIVE_BYTES):
            ops.append(("free", live.pop(rng.randrange(len(live)))))
        else:
            ops.append(("malloc", size))
            live.append(len(sizes))
            sizes.append(size)
    return ops


def replay_on_device(sequences: list[list[Op]]) -> Measurement | None:
    """Run sequences through torch in this process; None without a device."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.cuda.init()
    measured, expandable = [], False
    for ops in sequences:
        tensors: dict[int, Any] = {}
        steps: list[Step] = []
        known: set[int] = set()
        for name, value in ops:
            if name == "malloc":
                tensors[len(tensors)] = torch.empty(value, dtype=torch.uint8, device="cuda")
            elif name == "free":
                tensors[value] = None
            else:
                torch.cuda.empty_cache()
            segments = torch.cuda.memory_snapshot()
            expandable = expandable or any(segment["is_expandable"] for segment in segments)
            addresses = {segment["address"] for segment in segments}
            new, known = addresses - known, addresses
            stats = torch.cuda.memory_stats()
            figures = [stats[f"{key}_bytes.all.current"] for key in ("requested", "allocated", "reserved")]
            steps.append((*figures, min(new, default=None)))
        tensors.clear()
        torch.cuda.empty_cache()
        measured.append(steps)
    return Measurement(torch.__version__, torch.cuda.get_device_name(), expandable, measured)


def measure(sequences: list[list[Op]], expandable: bool) -> Measurement | None:
    """The same in a fresh process with or without expandable segments; None without a device."""
    variables = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
    environment = {name: value for name, value in os.environ.items() if name not in variables}
    if expandable:
        environment |= dict.fromkeys(variables[:2], "expandable_segments:True")
    command = [sys.executable, "-m", "bench.gpu_validate", "--replay"]
    done = subprocess.run(
        command, input=json.dumps(sequences), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    answer = json.loads(done.stdout)
    if answer is None:
        return None
    steps = [[(a, b, c, address) for a, b, c, address in sequence] for sequence in answer["sequences"]]
    return Measurement(answer["torch"], answer["device"], answer["expandable"], steps)


def first_difference(number: int, ops: list[Op], steps: list[Step], torch: str, expandable: bool) -> Difference | None:
    """Replay one sequence in the model, up to the first step that differs from what that version of torch measured."""
    model = AllocatorModel(expandable, oldest_first=torch.startswith("2.12."))
    by_address = torch.startswith("2.11.") and not expandable
    handles: list[int] = []
    for index, ((name, value), (*measured, address)) in enumerate(zip(ops, steps, strict=True)):
        if name == "malloc":
            handles.append(model.malloc(value, address if by_address else None))
        elif name == "free":
            model.free(handles[value])
        else:
            model.empty_cache()
        predicted = (model.requested_bytes, model.allocated_bytes, model.reserved_bytes)
        if predicted != tuple(measured):
            return Difference(number, index, (name, value), tuple(measured), predicted)
    return None


def fuzz_allocator(num_sequences: int, steps: int, seed: int) -> int:
    """Part one: the allocator model against torch's allocator."""
    sequences = [random_sequence(seed * 1_000_003 + number, steps) for number in range(num_sequences)]
    rows, differences = [], []
    for expandable in (False, True):
        measurement = measure(sequences, expandable)
        if measurement is None:
            print(f"allocator fuzz: {NO_DEVICE}")
            return 0
        mode = "expandable" if expandable else "default"
        if measurement.expandable != expandable:
            rows.append([mode, measurement.device, measurement.torch, "not supported here", ""])
            continue
        found = [
            first_difference(number, ops, measured, measurement.torch, expandable)
            for number, (ops, measured) in enumerate(zip(sequences, measurement.sequences, strict=True))
        ]
        unequal = [difference for difference in found if difference is not None]
        differences += unequal
        largest = max((step[2] for measured in measurement.sequences for step in measured), default=0)
        equal = f"{num_sequences - len(unequal)} of {num_sequences}"
        rows.append([mode, measurement.device, measurement.torch, equal, format_bytes(largest)])
    print(tabulate(rows, ["segments", "device", "torch", "sequences equal", "most reserved"]))
    for difference in differences[:10]:
        print(difference)
    return 1 if differences else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that were asked for; 1 when any of them differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fuzz", type=int, metavar="N", default=0, help="part one: N random sequences of requests")
    parser.add_argument("--steps", type=int, default=400, help="steps of each sequence")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plans", action="store_true", help="part two: plans with random weights")
    parser.add_argument("--output", type=Path, help="part two: write what was measured to this JSON file")
    parser.add_argument("--replay", action="store_true", help=argparse.SUPPRESS)  # the process on the device
    options = parser.parse_args(arguments)
    if options.replay:
        measurement = replay_on_device(json.load(sys.stdin))
        fields = ("torch", "device", "expandable", "sequences")
        json.dump(measurement and {name: getattr(measurement, name) for name in fields}, sys.stdout)
        return 0
    results = []
    if options.fuzz:
        results.append(fuzz_allocator(options.fuzz, options.steps, options.seed))
    if options.plans:
        results.append(validate_plans(options.output))
    if not results:
        parser.error("choose a part: --fuzz N, --plans")
    return max(results)


if __name__ == "__main__":
    sys.exit(main())
