"""specplan's totals beside those of other memory calculators that pip installs, on the same questions.

    python -m bench.peers --install .peers      # once: an environment for each peer, about 5 GB
    python -m bench.peers [--venvs .peers] [--only NAME,NAME] [--repeats 3]

Every peer runs in its own environment, in a process with a time limit, offline: it gets a folder or a hub cache with
config.json and a safetensors header. Each total stands beside the exact weights and KV; the last table says what it
counts beyond them. Ours are the same two items of the ledger, whose KV holds a slot for every verified token beyond the
context, and the whole peak on a device. Seconds are medians of whole processes. The pair, a target with its drafter, is
put to specplan alone: no peer takes a second model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.peer_adapters import NOT_ASKED, PEERS, Peer
from bench.peer_questions import (
    CONTEXT,
    GIB,
    LLAMA_2_7B,
    LLAMA_2_70B,
    LLAMA_68M,
    QUESTIONS,
    Question,
    model_folder,
    write_model,
)

_TIME_LIMIT_S = 120
_GAMMA = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One process: what it printed, its exit code (None past the time limit), and its wall time."""

    stdout: str
    stderr: str
    code: int | None
    seconds: float


def main() -> int:
    """Ask every peer that is installed every question, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, default=Path(".peers"), help="folder with one environment a peer")
    parser.add_argument(
        "--install", type=Path, metavar="DIR", help="make the environments that DIR lacks, and use them"
    )
    parser.add_argument("--only", help="names of peers, comma-separated")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [peer.name for peer in PEERS]
    wanted = [peer for peer in PEERS if peer.name in names]
    if len(wanted) != len(set(names)):
        parser.error("--only takes names among " + ", ".join(peer.name for peer in PEERS))
    venvs = (options.install or options.venvs).resolve()
    if options.install:
        for peer in wanted:
            install(peer, venvs)
    present = [peer for peer in wanted if installed_version(peer, venvs)]
    with tempfile.TemporaryDirectory() as home:
        for question in QUESTIONS:
            write_model(question, Path(home))
        for question in QUESTIONS:
            print(compare(question, present, venvs, Path(home), options.repeats), end="\n\n")
        print(pair(present, options.repeats), end="\n\n")
        print(about(present, venvs, Path(home)))
    missing = [peer.name for peer in wanted if peer not in present]
    print("\nnot installed here: " + (", ".join(missing) or "none"))
    print("not asked: " + "; ".join(f"{name} ({why})" for name, why in NOT_ASKED.items()))
    return 0


def install(peer: Peer, venvs: Path) -> None:
    """One environment with the pinned peer; a failure is reported and leaves the peer missing."""
    if installed_version(peer, venvs) == peer.version:
        return
    print(f"installing {peer.name}", file=sys.stderr)
    pip = [str(venvs / peer.name / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    steps = [[sys.executable, "-m", "venv", "--clear", str(venvs / peer.name)]]
    steps += [[*pip, peer.needs[0]]] if peer.needs else []
    steps += [[*pip, *peer.needs, f"{peer.name}=={peer.version}"]]
    for step in steps:
        if subprocess.run(step, check=False, stdout=subprocess.DEVNULL).returncode:
            print(f"{peer.name} could not be installed", file=sys.stderr)
            return


def installed_version(peer: Peer, venvs: Path) -> str | None:
    """The version in the peer's environment, None without one."""
    name = peer.name.replace("-", "_")
    found = sorted((venvs / peer.name).glob(f"lib/python*/site-packages/{name}-*.dist-info"))
    return found[0].name.removeprefix(f"{name}-").removesuffix(".dist-info") if found else None


def run(argv: Sequence[str], env: dict[str, str], cwd: Path | None = None) -> Run:
    """One process under the time limit."""
    began = time.perf_counter()
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=env, cwd=cwd,
                              timeout=_TIME_LIMIT_S, stdin=subprocess.DEVNULL)  # fmt: skip
    except subprocess.TimeoutExpired:
        return Run("", f"over {_TIME_LIMIT_S} s", None, time.perf_counter() - began)
    return Run(done.stdout, done.stderr, done.returncode, time.perf_counter() - began)


def run_peer(peer: Peer, question: Question, venvs: Path, home: Path, extra: Sequence[str] = ()) -> Run:
    """Ask a peer, with no way out to a network and nothing of ours in its path."""
    binaries = venvs / peer.name / "bin"
    nowhere = "http://127.0.0.1:9"  # the discard port: a request fails at once instead of waiting for a name server
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nowhere)
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "HOME": str(home), "COLUMNS": "200", "NO_COLOR": "1"}
    env = {"PATH": f"{binaries}:/usr/bin:/bin", "LANG": "C.UTF-8", "TERM": "dumb"} | proxies | settings
    names = {"folder": model_folder(question, home), "hub_id": question.hub_id}
    program, *arguments = peer.argv
    filled = [word if "\n" in word else word.format(num_parameters=question.num_parameters, **names)
              for word in arguments]  # fmt: skip
    return run([str(binaries / program), *filled, *extra], env, home)


def run_specplan(*arguments: str) -> Run:
    """``specplan analyze --format json`` in a process of its own, timed."""
    command = [sys.executable, "-m", "specplan", "analyze", "--context", str(CONTEXT), "--dtype", "float16"]
    return run([*command, *arguments, "--format", "json"], dict(os.environ))


def plan_of(arguments: Sequence[str], repeats: int) -> tuple[dict[str, Any], float]:
    """Its answer, and the median seconds of asking."""
    answers = [run_specplan(*arguments) for _ in range(repeats)]
    if answers[0].code:
        sys.exit(f"specplan analyze {' '.join(arguments)}: {answers[0].stderr}")
    return json.loads(answers[0].stdout), statistics.median(answer.seconds for answer in answers)


def compare(question: Question, peers: Sequence[Peer], venvs: Path, home: Path, repeats: int) -> str:
    """The table of one question."""
    arguments = ("--model", question.profile, "--gpu", question.gpu, "--drafter", "none")
    plan, seconds = plan_of(arguments, repeats)
    version = plan["tool_version"]
    rows = [
        ["exact: weights + KV", "", f"{question.exact_gib:.3f}", "", "", ""],
        row("specplan: weights + KV", version, resident_gib(plan, "target"), question, seconds),
        row(f"specplan: peak on {question.gpu}", version, plan["peak_bytes"] / GIB, question, seconds),
    ]
    answers = [(peer, *ask(peer, question, venvs, home, repeats)) for peer in peers]
    totals = [gib for _, gib, _, _ in answers if gib is not None]
    for peer, gib, time_s, why in sorted(answers, key=lambda answer: abs((answer[1] or 1e9) - question.exact_gib)):
        version = installed_version(peer, venvs) or ""
        if gib is None:
            rows.append([peer.name, version, "-", "", "", f"{time_s:.2f}", why])
        else:
            rows.append(row(peer.name, version, gib, question, time_s))
    headers = ["", "version", "total GiB", "beyond W + KV", "", "seconds"]
    table = tabulate(rows, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 4))
    spread = f"\npeers spread {max(totals) / min(totals):.2f}x" if len(totals) > 1 else ""
    return f"{question.title}, float16, context {CONTEXT}, batch 1\n{table}{spread}"


def ask(peer: Peer, question: Question, venvs: Path, home: Path, repeats: int) -> tuple[float | None, float, str]:
    """(GiB or None, median seconds, why there is no answer)."""
    answers = [run_peer(peer, question, venvs, home) for _ in range(repeats)]
    seconds = statistics.median(answer.seconds for answer in answers)
    try:
        return peer.read(answers[0].stdout), seconds, ""
    except (ValueError, KeyError):
        lines = (answers[0].stderr or answers[0].stdout).strip().splitlines()
        return None, seconds, "no answer: " + (lines[-1][:60] if lines else f"exit code {answers[0].code}")


def row(name: str, version: str, gib: float, question: Question, seconds: float) -> list[str]:
    """One line of a table: a total beside the exact bytes."""
    error = gib - question.exact_gib
    return [
        name,
        version,
        f"{gib:.3f}",
        f"{error:+.3f}",
        f"{100 * error / question.exact_gib:+.2f} %",
        f"{seconds:.2f}",
    ]


def resident_gib(plan: dict[str, Any], *owners: str) -> float:
    """Weights and KV of the ledger's owners."""
    names = [f"{owner}.{item}" for owner in owners for item in ("weights", "kv_cache")]
    sizes = {item["name"]: item["bytes"] for item in plan["ledger"]["items"]}
    return float(sum(sizes[name] for name in names)) / GIB


def pair(peers: Sequence[Peer], repeats: int) -> str:
    """The question that no peer takes: a target with its drafter."""
    models = ("--model", LLAMA_2_7B.profile, "--draft", LLAMA_68M.profile, "--gpu", LLAMA_2_7B.gpu)
    plan, median = plan_of((*models, "--drafter", "draft_model", "--num-speculative-tokens", str(_GAMMA)), repeats)
    seconds = f"{median:.2f}"
    rows = [
        ["exact: weights + KV of both", f"{LLAMA_2_7B.exact_gib + LLAMA_68M.exact_gib:.3f}", ""],
        ["specplan: weights + KV of both", f"{resident_gib(plan, 'target', 'draft'):.3f}", seconds],
        [f"specplan: peak on {LLAMA_2_7B.gpu}", f"{plan['peak_bytes'] / GIB:.3f}", seconds],
        *([peer.name, "no draft", ""] for peer in peers),
    ]
    title = f"{LLAMA_2_7B.title} with {LLAMA_68M.title} drafting {_GAMMA} tokens, float16, context {CONTEXT}, batch 1"
    table = tabulate(rows, ["", "total GiB", "seconds"], disable_numparse=True, colalign=("left", "right", "right"))
    return f"{title}\n{table}"


def about(peers: Sequence[Peer], venvs: Path, home: Path) -> str:
    """What each was given, what its total counts, and its exit code for a model that does not fit."""
    ours = run_specplan("--model", LLAMA_2_70B.profile, "--gpu", "h100-80gb")
    rows = [["specplan", "bundled profile", "every item of the ledger", ours.code]]
    for peer in peers:
        code = "no such question" if peer.unfit is None else run_peer(peer, LLAMA_2_70B, venvs, home, peer.unfit).code
        rows.append([peer.name, peer.asked, peer.counts, code])
    headers = ["", "asked with", "its total counts", f"exit code: {LLAMA_2_70B.title} on 80 GB"]
    return tabulate(rows, headers, disable_numparse=True)


if __name__ == "__main__":
    sys.exit(main())
