"""llama.cpp: ``llama-server``. All cells are placed while loading: the context is the size of the cache."""

from __future__ import annotations

import shlex
from pathlib import Path

from specplan.export.command import Command, Pool, listening
from specplan.export.request import Request
from specplan.models.gguf_file_names import gguf_file_name
from specplan.plan import ModelInput
from specplan.speculation import Drafter

_TYPES: dict[Drafter, str] = {
    "draft_model": "draft-simple", "ngram": "ngram-simple", "eagle3": "draft-eagle3", "mtp": "draft-mtp",
}  # fmt: skip
_PORT = 8080
#: Tokens that a match of ``ngram-simple`` needs: the longest that the planned drafter looks up.
_LOOKUP = 3


def llama_cpp_command(request: Request, pool: Pool | None) -> Command:
    """``llama-server``; models that are no GGUF files are converted once."""
    workload = request.workload
    context, batch = workload.context * workload.batch_size, workload.batch_size
    rows = str(max(request.prefill_chunk, batch * request.num_verify_tokens))
    argv = ["llama-server", "-m", _file(request.target, request.target_name, workload.dtype), "-ngl", "all"]
    argv += ["-c", str(context), "-np", str(batch), "-b", rows, "-ub", rows, "-fa", "on"]
    argv += ["-ctk", workload.kv_dtype, "-ctv", workload.kv_dtype, "--fit", "off", *_speculation(request)]
    made = _conversions(request)
    read = tuple(name for name in request.names if name.endswith(".gguf"))
    return Command(tuple(argv), read, {}, listening(_PORT), _PORT, tuple(made), tuple(made.values()))


def _speculation(request: Request) -> list[str]:
    """Chains of the planned length: none is cut short for want of confidence."""
    if request.drafter == "none":
        return []
    argv, tokens = ["--spec-type", _TYPES[request.drafter]], str(request.shape.num_draft_nodes)
    if request.drafter == "ngram":
        return [*argv, "--spec-ngram-simple-size-n", str(_LOOKUP), "--spec-ngram-simple-size-m", tokens]
    if request.draft is not None and request.draft_name is not None:
        argv += ["-md", _file(request.draft, request.draft_name, request.workload.draft_dtype), "-ngld", "all"]
        kv = request.workload.draft_kv_dtype
        argv += ["-ctkd", kv, "-ctvd", kv]
    elif request.draft_name is not None:
        argv += ["-md", request.draft_name, "-ngld", "all"]
    return [*argv, "--spec-draft-n-max", tokens, "--spec-draft-n-min", "0", "--spec-draft-p-min", "0"]


def _file(model: ModelInput, name: str, dtype: str) -> str:
    return name if model.kind == "gguf" else gguf_file_name(name, dtype)


def _conversions(request: Request) -> dict[str, str]:
    """Commands by the files that they make; hub ids are fetched by the converter itself."""
    models = [(request.target, request.target_name, request.workload.dtype)]
    if request.draft is not None and request.draft_name is not None:
        models.append((request.draft, request.draft_name, request.workload.draft_dtype))
    made = {}
    for model, name, dtype in models:
        if model.kind != "gguf":
            file, kind = gguf_file_name(name, dtype), {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype]
            remote = "" if Path(name).exists() else " --remote"
            made[file] = f"convert_hf_to_gguf.py {shlex.quote(name)}{remote} --outtype {kind} --outfile {file}"
    return made
