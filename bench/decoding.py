"""Our decoding beside transformers' generate: same process, weights, dtype and prompts, interleaved.

    python -m bench.decoding --model FILE.gguf [--draft FILE.gguf] [--repeats 5]

Prints medians of tokens/s for both sides, and the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from transformers import AutoConfig, AutoModelForCausalLM

from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan_runtime import Engine
from specplan_runtime.text import Tokenizer

EDIT = (Path(__file__).parent.parent / "docs" / "demo-prompt.txt").read_text()
PROMPTS = {
    "edit": EDIT,
    "chat": "Explain in a few sentences how a bicycle stays upright.",
    "code": "Write a Python function that returns the n-th Fibonacci number, with a docstring.",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    return parser.parse_args()


def make_engine(options: argparse.Namespace, drafter: str, gamma: int | None) -> Engine:
    draft = options.draft if drafter == "draft_model" else None
    plan = analyze(
        ask(
            model=options.model, draft=draft, gpu="local", drafter=drafter, context=options.context,
            dtype="float32", num_speculative_tokens=gamma,
        )
    )  # fmt: skip
    assert isinstance(plan, Plan), "the model does not fit this machine"
    engine = Engine(plan)
    engine.assembly.eos_token_ids = ()  # both sides decode the same number of tokens
    return engine


def reference_model(engine: Engine) -> Any:
    """Transformers' model over the very weights that our engine holds."""
    arch, target = engine.plan.inputs.target.arch, engine.assembly.layout.target
    config = AutoConfig.for_model(
        arch.model_type, hidden_size=arch.hidden_size, intermediate_size=arch.intermediate_size,
        num_hidden_layers=arch.num_hidden_layers, num_attention_heads=arch.num_attention_heads,
        num_key_value_heads=arch.num_key_value_heads, vocab_size=arch.vocab_size, rms_norm_eps=arch.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": arch.rope_theta}, tie_word_embeddings=False,
        max_position_embeddings=arch.max_position_embeddings, bos_token_id=None, pad_token_id=0,
        eos_token_id=arch.vocab_size - 1,  # a token that never comes; without any, prompt lookup does not end
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state = {"model.embed_tokens.weight": target.embedding, "model.norm.weight": target.final_norm.weight}
    state["lm_head.weight"] = target.head.weight
    q, kv = arch.num_attention_heads * arch.head_dim, arch.num_key_value_heads * arch.head_dim
    for index, layer in enumerate(target.layers):
        prefix = f"model.layers.{index}."
        for kind in ("weight", "bias"):
            fused = getattr(layer.qkv, kind)
            if fused is not None:
                for name, part in zip("qkv", fused.split([q, kv, kv]), strict=True):
                    state[f"{prefix}self_attn.{name}_proj.{kind}"] = part
        state[prefix + "self_attn.o_proj.weight"] = layer.output.weight
        assert layer.gate_up is not None
        assert layer.down is not None
        gate, up = layer.gate_up.weight.chunk(2)
        state |= {prefix + "mlp.gate_proj.weight": gate, prefix + "mlp.up_proj.weight": up}
        state[prefix + "mlp.down_proj.weight"] = layer.down.weight
        for name, norm in (("input", layer.attention_in), ("post_attention", layer.mlp_in)):
            assert norm is not None
            state[f"{prefix}{name}_layernorm.weight"] = norm.weight
    model.load_state_dict(state, assign=True, strict=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its tables are buffers, still on meta
    return model.eval()


def ours(engine: Engine, prompt: list[int], tokens: int) -> tuple[float, list[int], float]:
    engine.reset_counters()
    began = time.perf_counter()
    out = engine.generate(prompt, tokens)
    return time.perf_counter() - began, out, engine.stats.mean_accepted_length or 1.0


def theirs(model: Any, prompt: list[int], tokens: int, **options: Any) -> tuple[float, list[int], float]:
    began = time.perf_counter()
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
            **options,
        )[0, len(prompt) :].tolist()  # fmt: skip
    return time.perf_counter() - began, out, 0.0


def main() -> None:
    options = arguments()
    plain = make_engine(options, "none", None)
    tokenizer = Tokenizer(plain.plan.inputs.target)
    runs: dict[str, Any] = {"ours, plain": lambda p: ours(plain, p, options.tokens)}
    ngram = make_engine(options, "ngram", 8)
    runs["ours, ngram γ 8"] = lambda p: ours(ngram, p, options.tokens)
    if options.draft:
        drafted = make_engine(options, "draft_model", 4)
        runs["ours, draft γ 4"] = lambda p: ours(drafted, p, options.tokens)
    model = reference_model(plain)
    runs["transformers, plain"] = lambda p: theirs(model, p, options.tokens)
    runs["transformers, prompt lookup"] = lambda p: theirs(model, p, options.tokens, prompt_lookup_num_tokens=8)
    rows = []
    for name, text in PROMPTS.items():
        prompt = tokenizer.encode_prompt(text, raw=False)
        seconds: dict[str, list[float]] = {run: [] for run in runs}
        outputs, lengths = {}, {}
        for repeat in range(options.repeats + 1):
            for run, function in runs.items():
                took, outputs[run], lengths[run] = function(prompt)
                if repeat:  # the first round warms up
                    seconds[run].append(took)
        plain_s, peer_s = (statistics.median(seconds[run]) for run in ("ours, plain", "transformers, plain"))
        for run, times in seconds.items():
            median = statistics.median(times)
            same = "yes" if outputs[run] == outputs["transformers, plain"] else "NO"
            length = f"{lengths[run]:.2f}" if lengths[run] else ""
            rows.append(
                [name, run, f"{options.tokens / median:.1f}", length, f"{plain_s / median:.2f}x",
                 f"{peer_s / median:.2f}x", same]
            )  # fmt: skip
    headers = ["prompt", "", "tokens/s", "accepted length", "to our plain", "to transformers' plain", "same tokens"]
    print(f"{options.model}, float32, {options.tokens} tokens, prefill included, medians of {options.repeats}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip
    print(tabulate(rows, headers, disable_numparse=True))


if __name__ == "__main__":
    main()
