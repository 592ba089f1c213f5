"""Plans of transformers' forward, run: greedy output is that of transformers' own ``generate``, token by token.

Ragged batches over one cache of the plan's size, with rejected tokens written over; measured bytes are the planned ones
where the plan is exact, and no more where it is a bound.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from specplan import planfile
from specplan.errors import InputError, UnsupportedError
from specplan.ledger import MemoryLedger
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan_runtime.engine import Engine
from specplan_runtime.report import measure_items
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.span import Span
from specplan_runtime.transformers_forward.decoder import TransformersDecoder
from specplan_runtime.transformers_forward.masks import layer_masks
from tests.cli_helpers import llama_folder
from tests.gguf_checkpoints import write_gguf
from tests.runtime_helpers import (
    CONTEXT,
    FAMILY_VARIANTS,
    checkpoint,
    perturbed,
    plan_for,
    prompt_of,
    reference_greedy,
    reference_logits,
    serve,
    variant,
)
from tests.test_cli import ended

GREEDY = SamplingParams()
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_routed_experts": 4, "n_shared_experts": 2}
_LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12}
_DEEPSEEK: dict[str, Any] = _EXPERTS | _LATENT | {"first_k_dense_replace": 1, "num_key_value_heads": 4}
_SINKS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 6}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32}
#: What only transformers computes.
ONLY_HERE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-oss": ("gpt_oss", {**_SINKS, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "deepseek-v2": ("deepseek_v2", {**_DEEPSEEK, "q_lora_rank": 24, "topk_method": "greedy"}),
    "deepseek-v2-groups": (
        "deepseek_v2",
        {**_DEEPSEEK, "q_lora_rank": None, "topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1},
    ),
    "deepseek-v3": ("deepseek_v3", {**_DEEPSEEK, "q_lora_rank": None, "n_group": 2, "topk_group": 1}),
    "llama-yarn": ("llama", {"rope_parameters": _YARN}),
}
OWN = ("llama-gqa", "qwen2-tied", "qwen3-wide-heads", *FAMILY_VARIANTS)


def folder_of(name: str) -> Path:
    if name in ONLY_HERE:
        family, fields = ONLY_HERE[name]
        return checkpoint(family, **fields)
    return variant(name)


def transformers_plan(folder: Path, drafter: str, gamma: int = 3, batch_size: int = 1, **options: Any) -> Plan:
    """A plan whose prefill chunk does not divide the prompts and whose logits come in tiles of two rows."""
    if drafter == "draft_model":
        options = {"draft": perturbed(folder, 0.02)} | options
    if drafter != "none":
        options["num_speculative_tokens"] = gamma
    knobs = {"prefill_chunk": 7, "logits_rows": 2}
    return plan_for(folder, forward="transformers", knobs=knobs, drafter=drafter, batch_size=batch_size, **options)


@cache
def prompts_of(folder: Path) -> tuple[tuple[int, ...], ...]:
    """One token, a few, and one that contains what will follow it."""
    plain = prompt_of(9)
    follows = reference_greedy(folder, plain, 12)
    return tuple(
        map(tuple, ([5], plain, plain + follows + plain[:7] + plain[-2:] + follows[:2], prompt_of(17, seed=3)))
    )


@pytest.mark.parametrize(("drafter", "gamma", "batch_size"), [("ngram", 5, 1), ("draft_model", 3, 3)])
@pytest.mark.parametrize("name", [*OWN, *ONLY_HERE])
def test_greedy_output_is_that_of_generate(name: str, drafter: str, gamma: int, batch_size: int) -> None:
    """Batches are ragged, and run beyond the shortest window; every item is measured as it was planned."""
    folder = folder_of(name)
    prompts, limits = list(map(list, prompts_of(folder))), [24, 3, 30, 40]
    engine = Engine(transformers_plan(folder, drafter, gamma, batch_size))
    for prompt, limit, found in zip(prompts, limits, serve(engine, prompts, limits), strict=True):
        assert found == reference_greedy(folder, prompt, min(limit, CONTEXT - len(prompt)))
    for entry in measure_items(engine, None):
        if entry.item.name.endswith(".forward"):
            assert 0 < (entry.measured_bytes or 0) <= entry.item.bytes
        elif entry.owned:
            assert entry.difference == 0, entry.item.name


def test_some_proposals_are_accepted_and_some_not() -> None:
    """Guards the tests above: ragged acceptance is what they are about."""
    for drafter in ("ngram", "draft_model"):
        engine = Engine(transformers_plan(variant("llama-gqa"), drafter))
        for prompt in map(list, prompts_of(variant("llama-gqa"))):
            engine.generate(prompt, 24)
        assert 0 < engine.stats.num_accepted_tokens < engine.stats.num_draft_tokens


@pytest.mark.parametrize("name", ["llama-gqa", "gemma2", "deepseek-v2"])
def test_plain_decoding(name: str) -> None:
    folder = folder_of(name)
    engine = Engine(transformers_plan(folder, "none"))
    assert engine.generate(prompt_of(9), 24) == reference_greedy(folder, prompt_of(9), 24)


@pytest.mark.parametrize("gamma", [1, 4])
def test_a_draft_that_is_the_target_is_always_right(gamma: int) -> None:
    folder = variant("qwen3-wide-heads")
    engine = Engine(transformers_plan(folder, "draft_model", gamma, draft=folder))
    engine.generate(prompt_of(9), 1 + 3 * (gamma + 1))
    assert engine.stats.mean_accepted_length == gamma + 1


def test_sampling_from_a_draft_that_is_the_target_accepts_everything() -> None:
    folder = variant("llama-gqa")
    engine = Engine(transformers_plan(folder, "draft_model", 3, draft=folder))
    engine.generate(prompt_of(9), 13, SamplingParams(temperature=1.0, top_k=20))
    assert engine.stats.draft_acceptance_rate == 1


def test_idle_rows_keep_their_cache() -> None:
    """One sequence of a batch goes on alone; the other takes up where it was."""
    folder = variant("mistral-window")
    engine = Engine(transformers_plan(folder, "draft_model", 3, 2))
    prompts = [prompt_of(11), prompt_of(14, seed=2)]
    sequences = [engine.open(prompt, 20, row) for row, prompt in enumerate(prompts)]
    for sequence in sequences:
        engine.start(sequence, GREEDY)
    for sequence, prompt in zip(sequences, prompts, strict=True):
        for _ in engine.run_row(sequence, GREEDY):
            pass
        assert sequence.new_tokens == reference_greedy(folder, prompt, 20)


def test_a_conversation_keeps_what_its_turns_share() -> None:
    folder = variant("qwen2-some-windows")
    engine = Engine(transformers_plan(folder, "ngram"))
    sequence = engine.open(prompt_of(12), 8)
    engine.start(sequence, GREEDY)
    for _ in engine.run_row(sequence, GREEDY):
        pass
    following = [*sequence.tokens[:-3], 6, 7]
    engine.resume(sequence, following, 12)
    assert sequence.num_target_cached == len(following) - 2
    engine.start(sequence, GREEDY)
    for _ in engine.run_row(sequence, GREEDY):
        pass
    assert sequence.new_tokens == reference_greedy(folder, following, 12)


# ------------------------------------------------------------------------------------------------ memory


def test_caches_take_the_bytes_of_the_plan_and_never_grow() -> None:
    plan = transformers_plan(variant("llama-gqa"), "ngram", 5, 3)
    engine = Engine(plan)
    target = engine.assembly.target
    assert isinstance(target, TransformersDecoder)
    planned = plan.ledger.by_name()["target.kv_cache"].bytes
    assert target.cache.num_bytes == planned == 2 * 3 * 2 * 3 * (CONTEXT + 6) * 8 * 4
    before = [tensor.data_ptr() for block in target.cache.blocks for tensor in block]
    serve(engine, [prompt_of(9), prompt_of(20), prompt_of(30)], 20)
    assert [tensor.data_ptr() for block in target.cache.blocks for tensor in block] == before


def test_everything_that_stays_lies_in_one_block() -> None:
    """Without a byte between: the allocator rounds up once. Large tensors start at multiples of 256 bytes."""
    plan = transformers_plan(variant("gpt-neox"), "draft_model", 3, 2)
    engine = Engine(plan)
    decoders = [decoder for decoder in engine.assembly.decoders if isinstance(decoder, TransformersDecoder)]
    tensors: list[torch.Tensor] = [tensor for decoder in decoders for tensor in decoder.model.parameters()]
    tensors += [tensor for decoder in decoders for block in decoder.cache.blocks for tensor in block]
    block = tensors[0].untyped_storage()
    everything = [*tensors, *decoders[0].model.buffers(), *decoders[1].model.buffers()]
    assert {tensor.untyped_storage().data_ptr() for tensor in everything} == {block.data_ptr()}
    resident = sum(item.bytes for item in plan.ledger.owned_items() if item.phase == "resident")
    assert block.nbytes() == resident + plan.ledger.by_name()["verify.sampling"].bytes
    assert {tensor.data_ptr() % 256 - block.data_ptr() % 256 for tensor in tensors if tensor.nbytes % 256 == 0} == {0}


def test_latent_attention_keeps_compressed_rows() -> None:
    plan = transformers_plan(folder_of("deepseek-v2"), "ngram", 3)
    assert plan.ledger.by_name()["target.kv_cache"].bytes == 3 * (CONTEXT + 4) * (16 + 4) * 4
    assert plan.ledger.by_name()["verify.forward"].source == "modelled"


@pytest.mark.parametrize("name", ["gemma2", "gpt-neox", "mixtral", "qwen3-moe", "gpt-oss", "deepseek-v3", "llama-gqa"])
@pytest.mark.parametrize("sizes", [{"intermediate_size": 512, "hidden_size": 64}, {"vocab_size": 1031}])
def test_bounds_hold_in_half_precision(name: str, sizes: dict[str, int]) -> None:
    family, fields = (FAMILY_VARIANTS | ONLY_HERE | {"llama-gqa": ("llama", {})})[name]
    plan = transformers_plan(checkpoint(family, **fields | sizes), "ngram", 4, 2, dtype="bfloat16", context=96)
    engine = Engine(plan, random_weights=True)
    for entry in measure_items(engine, None):
        assert not entry.owned or entry.difference == 0, entry.item.name
        if entry.item.name.endswith(".forward"):
            assert 0.2 * entry.item.bytes < (entry.measured_bytes or 0) <= entry.item.bytes


def test_routers_keep_their_corrections_in_float32() -> None:
    plan = transformers_plan(folder_of("deepseek-v3"), "none", dtype="bfloat16")
    target = Engine(plan).assembly.target
    assert isinstance(target, TransformersDecoder)
    wide = [name for name, buffer in target.model.named_buffers() if buffer.dtype == torch.float32]
    assert [name for name in wide if "e_score_correction_bias" in name]
    assert target.model.dtype == torch.bfloat16


def test_rows_of_a_mask_see_their_own_window() -> None:
    arch = plan_for(variant("mistral-window")).inputs.target.arch
    span = Span([[0, 0, 0], [0, 0, 0]], [8, 2])
    seen = layer_masks(arch, span, 16, torch.bool, torch.device("cpu"))
    added = layer_masks(arch, span, 16, torch.float32, torch.device("cpu"))
    assert isinstance(seen, torch.Tensor)
    assert isinstance(added, torch.Tensor)
    for sequence, start in enumerate(span.starts):
        for row in range(3):
            visible = [slot for slot in range(16) if start + row - 7 < slot <= start + row]
            assert seen[sequence, 0, row].nonzero().flatten().tolist() == visible
            assert (added[sequence, 0, row] == 0).nonzero().flatten().tolist() == visible


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["llama-llama3-rope", "qwen2-tied", "gemma2", "gemma3-six"])
def test_gguf_files(name: str, tmp_path: Path) -> None:
    folder = variant(name)
    engine = Engine(transformers_plan(write_gguf(folder, tmp_path / "model.gguf"), "ngram"))
    assert engine.generate(prompt_of(40), 16) == reference_greedy(folder, prompt_of(40), 16)


def test_a_checkpoint_without_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = load_file(folder_of("gpt-oss") / "model.safetensors")
    name = next(name for name in tensors if name.endswith("sinks"))
    (folder / "config.json").write_text((folder_of("gpt-oss") / "config.json").read_text())
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(InputError, match=name):
        Engine(transformers_plan(folder, "none"))


def test_code_that_a_config_names_is_not_run(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    named = {"AutoModelForCausalLM": "elsewhere--modeling.Llama", "AutoConfig": "elsewhere--modeling.Config"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": named}))
    plan = transformers_plan(variant("llama-gqa"), "none")
    target = dataclasses.replace(plan.inputs.target, reference=str(folder))
    renamed = dataclasses.replace(plan, inputs=dataclasses.replace(plan.inputs, target=target))
    with pytest.raises(
        InputError, match=r"target\.weights is .* analyze again"
    ):  # another model, by transformers' code
        Engine(renamed)


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "falcon-h1-0.5b"}, "keep a state"),
        ({"model": "qwen3-next-80b-a3b"}, "keep a state"),
        ({"model": "smollm2-135m", "drafter": "early_exit"}, "early_exit"),
        ({"model": "smollm2-135m", "drafter": "medusa"}, "medusa"),
        (
            {"model": "smollm2-135m", "draft": "smollm2-135m", "drafter": "draft_model", "tree": "medusa-default"},
            "chains only",
        ),
        ({"model": "smollm2-135m", "gpu": "apple-m2-16gb"}, "apple-m2-16gb"),
    ],
)
def test_what_cannot_run_is_not_planned(options: dict[str, Any], words: str) -> None:
    fields: dict[str, Any] = {"gpu": "h200", "context": 256, "forward": "transformers", "dtype": "bfloat16"}
    with pytest.raises(UnsupportedError, match=words):
        analyze(ask(**fields | options))


def test_frequencies_that_move_are_planned_for_reading() -> None:
    plan = analyze(ask(model="phi-4-mini", gpu="h200", context=256, forward="transformers"))
    assert isinstance(plan, Plan)
    assert plan.forward == "unsupported"
    assert any("longrope" in note for note in plan.notes)


def test_another_release_of_transformers_is_refused() -> None:
    plan = transformers_plan(variant("llama-gqa"), "none")
    older = dataclasses.replace(plan, inputs=dataclasses.replace(plan.inputs, transformers_version="5.17.2"))
    with pytest.raises(InputError, match=r"5\.17\.2.*analyze again"):
        Engine(older)


@pytest.mark.parametrize("name", ["target.weights", "target.kv_cache", "target.buffers", "verify.sampling"])
def test_an_edited_ledger_is_refused(name: str) -> None:
    plan = transformers_plan(variant("llama-gqa"), "ngram")
    items = tuple(
        dataclasses.replace(item, bytes=item.bytes + 1) if item.name == name else item for item in plan.ledger.items
    )
    with pytest.raises(InputError, match=name):
        Engine(dataclasses.replace(plan, ledger=MemoryLedger(items)))


def test_contradictory_plans_are_refused(tmp_path: Path) -> None:
    plan = transformers_plan(variant("llama-gqa"), "none")
    path = tmp_path / "plan.json"
    path.write_text(planfile.dumps(plan))
    assert planfile.load(path) == plan
    path.write_text(
        planfile.dumps(dataclasses.replace(plan, inputs=dataclasses.replace(plan.inputs, transformers_version=None)))
    )
    with pytest.raises(InputError, match="transformers_version"):
        planfile.load(path)


def test_the_runtimes_own_parts_are_not_there() -> None:
    engine = Engine(transformers_plan(variant("llama-gqa"), "none"))
    with pytest.raises(UnsupportedError, match="transformers"):
        _ = engine.own
    with pytest.raises(UnsupportedError, match="all layers"):
        engine.assembly.target.forward(engine.assembly.workspaces["verify"], Span([[1]], [0]), 1)


def test_logits_of_chosen_rows() -> None:
    folder, tokens = variant("gemma2"), prompt_of(6)
    engine = Engine(transformers_plan(folder, "ngram"))
    target, work = engine.assembly.target, engine.assembly.workspaces["prefill_target"]
    with torch.no_grad():
        target.forward(work, Span([tokens], [0], 0))
        found = [tile.clone() for _, tile in target.logits(work, [1, 4, 2], 3)]
    expected = reference_logits(folder, tokens)[[1, 4, 2]]
    torch.testing.assert_close(torch.cat(found), expected, atol=5e-4, rtol=5e-4)


@pytest.mark.usefixtures("uncapped")
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plan, report = llama_folder(tmp_path / "model"), tmp_path / "plan.json", tmp_path / "report.json"
    asked = ["--model", str(folder), "--gpu", "cpu-generic", "--context", "64", "--forward", "transformers"]
    assert ended(monkeypatch, capsys, "analyze", *asked, "--drafter", "ngram", "-o", str(plan)).returncode == 0
    prompt = ["--prompt", "a b c a b c", "--max-new-tokens", "12", "--baseline", "--report", str(report)]
    result = ended(monkeypatch, capsys, "run", str(plan), *prompt)
    assert result.returncode == 0, result.stderr
    assert "0 bytes difference" in result.stderr
    data = json.loads(report.read_text())
    assert data["baseline_equal"] is True
    measured = {item["name"]: item["measured_bytes"] for item in data["ledger"]}
    assert measured["verify.forward"] > 0
