"""Tiny random checkpoints, plans for them, and transformers as the reference."""

from __future__ import annotations

import atexit
import dataclasses
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from specplan.formulas.memory import MemoryModel
from specplan.parallel.checks import check_parallelism
from specplan.parallelism import Parallelism
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.planner.ranks import Card, binding_kind, rank_kinds, shares_of, spread_of
from specplan.provenance import Figure
from specplan.workload import Workload
from specplan_runtime.engine import Engine, Request

# the models are so small that handing rows to threads costs far more than the work itself
torch.set_num_threads(1)

#: Context of the plans made here unless a test says otherwise.
CONTEXT = 64

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_PARTIAL_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
_GEMMA: dict[str, Any] = {"head_dim": 8, "sliding_window": 8, "tie_word_embeddings": True}
_EXPERTS: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "head_dim": 8}
_LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

#: Config fields beyond the common ones, by the name that tests use.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-gqa": ("llama", {}),
    "llama-mha-biased": ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3-rope": ("llama", {"rope_parameters": _LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama-linear-rope": ("llama", {"rope_parameters": _LINEAR_ROPE, "intermediate_size": 52}),
    "mistral-mqa": ("mistral", {"num_key_value_heads": 1, "sliding_window": None, "hidden_size": 48, "head_dim": 16}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True, "num_hidden_layers": 3}),
    "qwen3-wide-heads": ("qwen3", {"head_dim": 16, "num_hidden_layers": 2}),
}

#: Families and layouts beyond plain llamas: too many to combine with everything.
FAMILY_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral-window": ("mistral", {"sliding_window": 7}),
    "qwen2-some-windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "gemma2": ("gemma2", {**_GEMMA, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", {**_GEMMA, "query_pre_attn_scalar": 12, "sliding_window_pattern": 2}),
    "gemma3-six": ("gemma3_text", {**_GEMMA, "query_pre_attn_scalar": 8, "num_hidden_layers": 7}),
    "phi3-partial-rotary": ("phi3", {"rope_parameters": _PARTIAL_ROPE, "sliding_window": 11, "bos_token_id": None}),
    "gpt-neox": ("gpt_neox", {"num_key_value_heads": ..., "rope_parameters": _PARTIAL_ROPE, "intermediate_size": 96}),
    "gpt-neox-sequential": ("gpt_neox", {"num_key_value_heads": ..., "use_parallel_residual": False}),
    "olmo2": ("olmo2", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3-moe": ("qwen3_moe", {**_EXPERTS, "mlp_only_layers": [1], "norm_topk_prob": True}),
    "qwen3-moe-raw-shares": ("qwen3_moe", {**_EXPERTS, "norm_topk_prob": False}),
}


@cache
def _workplace() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="specplan-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _checkpoint(family: str, seed: int, fields: str) -> Path:
    common: dict[str, Any] = {
        "vocab_size": 131,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    config = AutoConfig.for_model(family, **{k: v for k, v in (common | _FIELDS[fields]).items() if v is not ...})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model, seed)
    folder = _workplace() / f"{family}-{seed}-{len(list(_workplace().iterdir()))}"
    model.save_pretrained(folder)
    return folder


_FIELDS: dict[str, dict[str, Any]] = {}


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that the next token depends on all of the context; biases and norms random too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.35 * noise if parameter.dim() > 1 else 1 + 0.2 * noise)


def checkpoint(family: str = "llama", seed: int = 0, **fields: Any) -> Path:
    """A folder with config.json and model.safetensors, made once per session.

    Args:
        family: key of the config classes.
        seed: of the weights.
        fields: config fields that differ from the common ones.
    """
    key = repr(sorted(fields.items()))
    _FIELDS[key] = fields
    return _checkpoint(family, seed, key)


def variant(name: str, seed: int = 0, **fields: Any) -> Path:
    """A checkpoint of one of the ``VARIANTS``."""
    family, own = (VARIANTS | FAMILY_VARIANTS)[name]
    return checkpoint(family, seed, **own | fields)


@cache
def perturbed(folder: Path, scale: float, seed: int = 7) -> Path:
    """A copy of a checkpoint with noise on its matrices: a draft that is right some of the time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    copy = folder.with_name(f"{folder.name}-perturbed-{scale}-{seed}")
    model.save_pretrained(copy)
    return copy


@cache
def reference_model(folder: Path) -> Any:
    """The checkpoint in transformers, float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@cache
def _reference_greedy(folder: Path, prompt: tuple[int, ...], num_tokens: int) -> tuple[int, ...]:
    model = reference_model(folder)
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, pad_token_id=0
    )
    return tuple(output[0, len(prompt) :].tolist())


def reference_greedy(folder: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """What transformers' generate gives without sampling; ends with eos where the config has one."""
    return list(_reference_greedy(folder, tuple(prompt), num_tokens))


def reference_logits(folder: Path, tokens: list[int]) -> torch.Tensor:
    """Logits [len(tokens), V] of transformers in float32."""
    with torch.no_grad():
        logits: torch.Tensor = reference_model(folder)(torch.tensor([tokens])).logits[0]
    return logits


def plan_for(
    folder: Path,
    *,
    knobs: dict[str, int] | None = None,
    context: int = CONTEXT,
    gpu: str = "cpu-generic",
    **options: Any,
) -> Plan:
    """A plan by the planner itself.

    Args:
        folder: the target.
        knobs: ``prefill_chunk`` and ``logits_rows`` to use instead of what the planner chose.
        context: tokens per sequence.
        gpu: device profile.
        options: of ``ask``.
    """
    question = ask(model=str(folder), gpu=gpu, context=context, **_paths_as_text(options))
    device = question.inputs.device
    # the profile has no figure for half precision on a CPU, which the runtime runs all the same
    flops = {name: Figure(1e11, "assumed", "for tests") for name in ("float32", "bfloat16", "float16", "int8")}
    inputs = dataclasses.replace(question.inputs, device=dataclasses.replace(device, flop_per_s=flops))
    answer = analyze(dataclasses.replace(question, inputs=inputs))
    assert isinstance(answer, Plan)
    return with_knobs(answer, **knobs) if knobs else answer


def _paths_as_text(options: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def with_knobs(plan: Plan, **knobs: Any) -> Plan:
    """The same plan with other knobs, and the ledger that belongs to them."""
    changed = dataclasses.replace(plan, speculation=dataclasses.replace(plan.speculation, **knobs))
    return dataclasses.replace(changed, ledger=MemoryModel(changed.scenario).ledger())


def with_workload(plan: Plan, workload: Workload) -> Plan:
    """The same plan for another workload, and the ledger that belongs to it."""
    changed = dataclasses.replace(plan, workload=workload)
    return dataclasses.replace(changed, ledger=MemoryModel(changed.scenario).ledger())


def prompt_of(length: int, seed: int = 0, vocab_size: int = 131) -> list[int]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(vocab_size, (length,), generator=generator).tolist()


def serve(engine: Engine, prompts: list[list[int]], limits: int | list[int], params: Any = None) -> list[list[int]]:
    """Continue all prompts as a batch; new tokens in the order of the prompts."""
    limits = [limits] * len(prompts) if isinstance(limits, int) else limits
    found: list[list[int]] = [[] for _ in prompts]
    requests = [Request(index, prompts[index], limits[index]) for index in range(len(prompts))]
    for emission in engine.serve(requests, params):
        found[emission.index] += emission.tokens
    return found


def spread_over(plan: Plan, parallelism: Parallelism) -> Plan:
    """A plan of one device over several like it, spread in this way."""
    check_parallelism(plan.whole, parallelism)
    budget = plan.inputs.budget_bytes
    cards = [Card(plan.inputs.device, budget)] * parallelism.num_ranks
    kinds = rank_kinds(shares_of(plan.whole, parallelism, cards, budget))
    spread = spread_of(plan.whole, parallelism, kinds)
    return dataclasses.replace(plan, spread=spread, ledger=binding_kind(kinds).ledger)
