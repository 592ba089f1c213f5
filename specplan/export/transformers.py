"""transformers 5: a Python script around ``generate``. There is no server and no pool: the cache grows."""

from __future__ import annotations

import json

from specplan.dtypes import STORED
from specplan.export.command import Command, Pool
from specplan.export.request import Request

_FILE = "generate.py"
_DEVICES = {"cuda": "cuda", "rocm": "cuda", "mps": "mps", "cpu": "cpu"}


def transformers_command(request: Request, pool: Pool | None) -> Command:
    """``python generate.py``: prompts from stdin, one sequence at a time."""
    lines = ["import sys", "", "import torch", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines += [f"tokenizer = AutoTokenizer.from_pretrained({_text(request.target_name)})"]
    lines += _loaded("target", request.target_name, request.workload.dtype, request.revision, request)
    keywords = [f"max_length={request.workload.context}", "do_sample=False"]
    if request.draft_name is not None:
        lines += _loaded("draft", request.draft_name, request.workload.draft_dtype, request.draft_revision, request)
        lines += [f"draft.generation_config.num_assistant_tokens = {request.shape.num_draft_nodes}"]
        lines += ['draft.generation_config.num_assistant_tokens_schedule = "constant"']
        lines += ["draft.generation_config.assistant_confidence_threshold = 0.0  # by default drafts are cut short"]
        keywords.insert(0, "assistant_model=draft")
    else:
        keywords.insert(0, f"prompt_lookup_num_tokens={request.shape.num_draft_nodes}")
    lines += ["", 'prompt = tokenizer(sys.stdin.read(), return_tensors="pt").to(target.device)']
    lines += [f"output = target.generate(**prompt, {', '.join(keywords)})"]
    lines += ["print(tokenizer.decode(output[0], skip_special_tokens=True))"]
    return Command(("python", _FILE), request.names, {_FILE: "\n".join(lines) + "\n"})


def _loaded(role: str, name: str, dtype: str, revision: str | None, request: Request) -> list[str]:
    kind = '"auto"' if dtype == STORED else f"torch.{dtype}"
    keywords = [_text(name), *([f"revision={_text(revision)}"] if revision is not None else []), f"dtype={kind}"]
    device = _DEVICES[request.device.kind]
    return [f'{role} = AutoModelForCausalLM.from_pretrained({", ".join(keywords)}).to("{device}").eval()']


def _text(text: str) -> str:
    """A string of Python, which JSON's are too."""
    return json.dumps(text)
