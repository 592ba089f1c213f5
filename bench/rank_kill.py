"""Kill a random rank at a random moment, many times: all processes end, one message, finished prompts on disk.

    python -m bench.rank_kill [--times 20] [--seed 0]

Every job runs over four or two ranks; a kill comes up to 1.5 s after its second prompt is done.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import click

from specplan.parallelism import Parallelism
from tests.rank_helpers import children_of, finish, model_folder, save_plan, start, write_prompts

_LIMIT_S = 30.0
_SPLITS = (Parallelism(2, (4,)), Parallelism(1, (2, 2), draft_rank=1), Parallelism(2, (2, 2), draft_rank=2))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _once(folder: Path, number: int, chance: random.Random) -> bool:
    parallelism = _SPLITS[number % len(_SPLITS)]
    plan, output = folder / f"{number % len(_SPLITS)}.json", folder / f"{number}.jsonl"
    process = start("specplan", "run", plan, "--prompts", folder / "prompts.jsonl", "--raw", "--output", output)
    part = output.with_name(output.name + ".part")
    while not part.exists() or part.read_text().count("\n") < 2:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 1.5))
    pids = children_of(process.pid)
    victim = chance.randrange(len(pids))
    kept = part.read_text().count("\n") - 1
    began = time.monotonic()
    os.kill(pids[victim], signal.SIGKILL)
    code, _, err = finish(process)
    seconds = time.monotonic() - began
    orphans = sum(map(_alive, pids))
    lines = [line for line in err.splitlines() if "error" in line]
    still = part.read_text().count("\n") - 1
    good = code == 2 and len(lines) == 1 and not orphans and still >= kept and seconds < _LIMIT_S
    good = good and f"rank {victim} of {len(pids)}" in lines[0]
    click.echo(
        f"{number:3} {parallelism.describe():45} rank {victim}: {seconds:5.2f} s, exit {code}, {len(lines)} message, "
        f"{orphans} orphans, {still} prompts kept: {'ok' if good else 'NOT OK ' + err}"
    )
    return good


@click.command()
@click.option("--times", default=20)
@click.option("--seed", default=0)
def main(times: int, seed: int) -> None:
    """One line per kill; exit code 1 when one was not survived as promised."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_folder(folder / "model")
        write_prompts(folder / "prompts.jsonl", ["a b a b a", "c d e f g h i j k", "l m n"] * 2000)
        for index, parallelism in enumerate(_SPLITS):
            save_plan(folder / f"{index}.json", model, parallelism, drafter="ngram", num_speculative_tokens=3)
        results = [_once(folder, number, chance) for number in range(times)]
    click.echo(f"{sum(results)} of {times} kills ended as they must")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
