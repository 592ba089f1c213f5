"""Cold starts: `specplan analyze` and `specplan --help` against the imports that they cannot do without.

    python -m bench.cold_start [--repeats 9]

Whole processes, interleaved; prints medians and the ratio to `python -c "import sympy, click"`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from tabulate import tabulate

COMMANDS = {
    "import sympy, click": ["-c", "import sympy, click"],
    "specplan --help": ["-m", "specplan", "--help"],
    "specplan analyze": [
        "-m",
        "specplan",
        "analyze",
        "--model",
        "llama-2-7b-chat",
        "--draft",
        "llama-68m",
        "--gpu",
        "rtx-4090",
    ],
}


def main() -> None:
    """Print medians of every command, and their ratio to the bare imports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if repeat:  # the first round fills the page cache
                seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds["import sympy, click"])
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        rows.append([name, f"{median:.3f}", f"{min(times):.3f}", f"{max(times):.3f}", f"{median / base:.2f}x"])
    print(tabulate(rows, ["", "median s", "min", "max", "to the imports"], disable_numparse=True))


if __name__ == "__main__":
    main()
