"""How long an answer takes: whole processes, and configurations per second of the search.

    OMP_NUM_THREADS=1 python -m bench.search_speed [--repeats 5]

Medians. Processes are started in turns, the first round only fills the page cache; the search runs in this process on
one core, and is timed by the processor's clock: other load counts little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from tabulate import tabulate

from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.space import all_candidates

#: Options of ``analyze``: pairs and devices of every kind, and one space with every knob free.
QUESTIONS = (
    "--model llama-2-7b-chat --draft llama-68m --gpu rtx-4090",
    "--model llama-3.1-8b --draft llama-3.2-1b --gpu l4",
    "--model qwen2.5-7b --draft qwen2.5-0.5b --gpu rtx-4090 --draft-device any",
    "--model qwen3-32b --draft qwen3-0.6b --gpu h100-80gb",
    "--model gemma-2-9b --draft gemma-2-2b --gpu a100-40gb",
    "--model vicuna-7b-v1.3 --drafter medusa --gpu titan-rtx",
    "--model deepseek-v3 --drafter mtp --gpu b200",
    "--model gpt-oss-20b --gpu rtx-4090",
    "--model jamba-v0.1 --gpu h200",
    "--model qwen3-30b-a3b --draft qwen3-0.6b --dtype gptq-int4 --gpu rtx-3090",
    "--model smollm2-135m --gpu jetson-orin-nano-8gb",
    "--model llama-3.1-70b --draft llama-3.2-1b --gpu mi300x --concurrency 64",
)
RANKINGS = (
    "--model llama-3.1-8b --draft llama-3.2-1b --gpu any",
    "--model llama-3.1-405b --gpu any",
)
WIDEST = "--model llama-3.1-8b --draft llama-3.2-1b --gpu rtx-4090 --allow kv-quant --allow weight-quant"


def cold_seconds(arguments: Sequence[str]) -> float:
    """Wall-clock of one process."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "specplan", "analyze", *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr.decode())
    return time.perf_counter() - began


def options_of(text: str) -> dict[str, object]:
    """Keyword arguments of ``ask`` from the options of the command line."""
    words = text.split()
    found: dict[str, object] = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        name = option.removeprefix("--").replace("-", "_")
        if name == "allow":
            found[name] = (*found.get(name, ()), value)  # type: ignore[misc]
        else:
            found[name] = int(value) if value.isdecimal() else value
    return found


def search_row(text: str, repeats: int) -> list[str]:
    """Configurations, and how many per second are evaluated and answered."""
    question = ask(**options_of(text))  # type: ignore[arg-type]
    count = sum(len(group) for group in all_candidates(question))  # the first call compiles the formulas
    evaluated, answered = [], []
    for _ in range(repeats):
        began = time.process_time()
        all_candidates(question)
        middle = time.process_time()
        analyze(question)
        evaluated.append(middle - began)
        answered.append(time.process_time() - middle)
    search, answer = statistics.median(evaluated), statistics.median(answered)
    return [text, f"{count:,}", f"{search:.3f}", f"{count / search:,.0f}", f"{answer:.3f}", f"{count / answer:,.0f}"]


def main() -> None:
    """Print seconds of whole processes, then configurations per second of the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print("load at the beginning:", *(f"{load:.2f}" for load in os.getloadavg()))
    seconds: dict[str, list[float]] = {text: [] for text in (*QUESTIONS, *RANKINGS)}
    for repeat in range(repeats + 1):
        for text, times in seconds.items():
            taken = cold_seconds(text.split())
            if repeat:
                times.append(taken)
    rows = [
        [text, *(f"{value:.2f}" for value in (statistics.median(times), min(times), max(times)))]
        for text, times in seconds.items()
    ]
    print(tabulate(rows, ["analyze, a whole process", "median s", "min", "max"], disable_numparse=True))
    searches = [search_row(text, repeats) for text in (*QUESTIONS, WIDEST, f"{WIDEST} --concurrency 64")]
    headers = ["the search, one process", "configurations", "search, CPU s", "per s", "answer, CPU s", "per s"]
    print("\n" + tabulate(searches, headers, disable_numparse=True))
    print("load at the end:", *(f"{load:.2f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
