"""Plans over several processes of this host, and the processes that run them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from specplan import planfile
from specplan.parallelism import Parallelism
from specplan.plan import Plan
from tests.cli_helpers import llama_folder
from tests.runtime_helpers import plan_for, randomize, spread_over

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


def start(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A process of ours, with its output in pipes."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL,
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
