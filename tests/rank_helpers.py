"""Plans over several processes of this host, and the processes that run them."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from specplan import planfile
from specplan.parallelism import Parallelism
from specplan.plan import Plan
from specplan_runtime.distributed.environment import RENDEZVOUS
from specplan_runtime.distributed.member import follow, joined, leading
from specplan_runtime.engine import Engine
from specplan_runtime.report import owned_difference
from specplan_runtime.sampling import SamplingParams
from tests.cli_helpers import llama_folder
from tests.runtime_helpers import plan_for, randomize, serve, spread_over

ROOT = Path(__file__).parent.parent


def model_folder(folder: Path, **fields: Any) -> Path:
    """A random llama whose next token depends on all of the context, with a tokenizer."""
    llama_folder(folder, num_hidden_layers=4, **fields)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    randomize(model, 0)
    model.save_pretrained(folder)
    return folder


def save_plan(path: Path, model: Path, parallelism: Parallelism | None, **options: Any) -> Plan:
    """Plan for a model on one device, then over ranks as asked, and write the file."""
    plan = plan_for(model, dtype="float32", kv_dtype="float32", **options)
    if parallelism is not None:
        plan = spread_over(plan, parallelism)
    planfile.save(plan, path)
    return plan


def write_prompts(path: Path, prompts: list[str]) -> Path:
    """A file of prompts."""
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return path


def start(
    module: str, *arguments: object, stdin: int = subprocess.DEVNULL, **environment: str
) -> subprocess.Popen[str]:
    """A process of ours in a session of its own, with its output in pipes."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment,
        stdin=stdin,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def with_tokenizer(draft: Path, target: Path) -> Path:
    """Give a draft its target's tokenizer."""
    for file in target.glob("tokenizer*"):
        shutil.copy(file, draft)
    return draft


def children_of(pid: int) -> list[int]:
    """The processes that a process started, in that order."""
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@dataclass(frozen=True)
class Answer:
    """What ranks said and measured.

    Attributes:
        tokens: new ones of every prompt.
        proposals: of every step, by cache row.
        num_accepted: proposals that were accepted.
        differences: of every rank, bytes by which items that the runtime owns are not as planned.
    """

    tokens: list[list[int]]
    proposals: list[list[list[int]]]
    num_accepted: int
    differences: tuple[int, ...] = ()


def alone(plan: Plan, prompts: list[list[int]], limit: int, params: SamplingParams | None = None) -> Answer:
    """The same from one process."""
    engine = Engine(plan)
    proposals = _witness(engine)
    return Answer(serve(engine, prompts, limit, params), proposals, engine.stats.num_accepted_tokens)


def among_ranks(plan: Plan, prompts: list[list[int]], limit: int, params: SamplingParams | None = None) -> Answer:
    """Run a plan over as many forks of this process as it has ranks."""
    assert plan.spread is not None
    parallelism, context = plan.spread.parallelism, multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = (folder, plan, prompts, limit, params)
        processes = [context.Process(target=_take_part, args=(r, *arguments)) for r in range(parallelism.num_ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            process.kill()
        found = folder / "answer"
        assert found.exists(), "\n".join(file.read_text() for file in sorted(folder.glob("rank*")))
        answer: Answer = pickle.loads(found.read_bytes())
    assert [process.exitcode for process in processes] == [0] * parallelism.num_ranks
    return answer


def _take_part(
    rank: int, folder: Path, plan: Plan, prompts: list[list[int]], limit: int, params: SamplingParams | None
) -> None:
    assert plan.spread is not None
    size = plan.spread.parallelism.num_ranks
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), RENDEZVOUS: f"file://{folder}/rendezvous"}
    with (folder / f"rank{rank}").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with joined(plan, 30.0, patient=False) as ranks:
            if not ranks.decides:
                follow(plan, ranks)
                return
            with ranks.together():
                pass  # where a run reads its prompts
            engine = Engine(plan.seen_from(rank), ranks=ranks)
            proposals = _witness(engine)
            with leading(engine, ranks, None) as others:
                tokens = serve(engine, prompts, limit, params)
            differences = tuple(owned_difference(rank.items) for rank in others.measured)
            answer = Answer(tokens, proposals, engine.stats.num_accepted_tokens, differences)
            (folder / "part").write_bytes(pickle.dumps(answer))
            (folder / "part").rename(folder / "answer")


def _witness(engine: Engine) -> list[list[list[int]]]:
    """What an engine's drafter is about to propose."""
    seen: list[list[list[int]]] = []
    propose = engine.drafter.propose

    def noted(*arguments: Any) -> list[list[int]]:
        seen.append(propose(*arguments))
        return seen[-1]

    engine.drafter.propose = noted  # type: ignore[assignment,method-assign]
    return seen
