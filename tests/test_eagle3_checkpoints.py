"""EAGLE-3 heads from checkpoints: planned from their headers, and refused by name where they are not understood."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from specplan import planfile
from specplan.errors import InputError, SpecplanError
from specplan.models.heads import resolve_heads
from specplan.models.replace import with_weights
from specplan.models.resolve import resolve_model
from specplan.plan import Eagle3Input, Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan_runtime.engine import Engine
from tests.eagle_helpers import (
    DRAFT_VOCAB,
    HIDDEN,
    INNER,
    LAYERS,
    VOCAB,
    eagle_config,
    eagle_folder,
    eagle_tensors,
    speculators_config,
)
from tests.head_helpers import heads_folder, medusa_tensors
from tests.runtime_helpers import checkpoint, plan_for, variant
from tests.test_cli import ended

TARGET = "llama-gqa"


def resolved(folder: Path) -> Eagle3Input:
    found = resolve_heads(str(folder), resolve_model(str(variant(TARGET))).arch)
    assert isinstance(found, Eagle3Input)
    return found


def eagle_plan(heads: Path, **options: Any) -> Plan:
    chosen: dict[str, Any] = {"drafter": "eagle3", "num_speculative_tokens": 2} | options
    return plan_for(variant(TARGET), heads=heads, **chosen)


# ------------------------------------------------------------------------------------------------ what a config says


def test_sizes_come_from_the_config_and_the_embedding_from_the_file(tmp_path: Path) -> None:
    found = resolved(eagle_folder(tmp_path / "a", eagle_tensors(own_embedding=True)))
    assert found.head.own_embedding
    assert (found.head.intermediate_size, found.head.draft_vocab_size) == (INNER, DRAFT_VOCAB)
    assert found.head.feature_layers == tuple(LAYERS)
    assert not found.head.norm_before_residual
    spec = resolved(eagle_folder(tmp_path / "b", eagle_tensors("layers.0"), speculators_config()))
    assert spec.head == dataclasses.replace(found.head, own_embedding=False, norm_before_residual=True)
    assert spec.config_sha256 != found.config_sha256


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"eagle_aux_hidden_state_layer_ids": ...}, (2, 4, 5)),
        ({"eagle_aux_hidden_state_layer_ids": [0, 8, 3]}, (0, 8, 3)),
        ({"eagle_aux_hidden_state_layer_ids": ...,
          "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 3, 7]}}, (1, 4, 8)),
    ],
)  # fmt: skip
def test_layers_whose_states_are_read(tmp_path: Path, changes: Any, layers: tuple[int, ...]) -> None:
    target = checkpoint("llama", seed=1, num_hidden_layers=8)
    folder = eagle_folder(tmp_path, config=eagle_config(**changes))
    found = resolve_heads(str(folder), resolve_model(str(target)).arch)
    assert isinstance(found, Eagle3Input)
    assert found.head.feature_layers == layers


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (eagle_config(num_hidden_layers=2), "num_hidden_layers 2 in an EAGLE-3 head"),
        (eagle_config(attention_bias=True), "attention_bias in an EAGLE-3 head"),
        (eagle_config(mlp_bias=True), "mlp_bias in an EAGLE-3 head"),
        (eagle_config(model_type="qwen3"), "model_type 'qwen3' in an EAGLE-3 head"),
        (eagle_config(rope_scaling={"rope_type": "yarn", "factor": 2.0}), "rope type 'yarn' in an EAGLE-3 head"),
        (eagle_config(norm_before_fc=True), "norm_before_fc True is not supported"),
        (eagle_config(eagle_config={"norm_before_fc": True}), "norm_before_fc True is not supported"),
        (eagle_config(eagle_config={"use_aux_hidden_state": False}), "use_aux_hidden_state False"),
        (eagle_config(hidden_size=64), "hidden_size is 64, this target's is 32"),
        (eagle_config(vocab_size=132), "vocab_size is 132, this target's is 131"),
        (eagle_config(target_hidden_size=64), "target_hidden_size is 64, this target's is 32"),
        (eagle_config(draft_vocab_size=132), "draft_vocab_size is 132, expected 1 to 131"),
        (eagle_config(eagle_aux_hidden_state_layer_ids=[1, 2]), r"features of layers \[1, 2\]: expected 3"),
        (eagle_config(eagle_aux_hidden_state_layer_ids=[1, 2, 4]), "expected 3 of the target's 3 layers"),
        (eagle_config(eagle_aux_hidden_state_layer_ids=...), None),
        (speculators_config(norm_output=True), "norm_output True is not supported"),
        (speculators_config(transformer_layer_config=[1]), "expected a JSON object"),
    ],
)
def test_configs_that_are_not_understood_are_refused(tmp_path: Path, config: Any, message: str | None) -> None:
    tensors = eagle_tensors("layers.0" if "speculators_model_type" in config else "midlayer")
    folder = eagle_folder(tmp_path, tensors, config)
    if message is None:  # of three layers: 2, 1 and 0
        assert resolved(folder).head.feature_layers == (2, 1, 0)
        return
    with pytest.raises(SpecplanError, match=message):
        resolved(folder)


# ------------------------------------------------------------------------------------------------ tensors


def changed(**changes: Any) -> dict[str, torch.Tensor]:
    found = eagle_tensors() | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no EAGLE-3 layer"),
        (changed(fc__weight=None), "tensor fc.weight is missing"),
        (changed(midlayer__hidden_norm__weight=None), "tensor midlayer.hidden_norm.weight is missing"),
        (changed(d2t=None), "tensor d2t is missing: which 53 of 131 tokens"),
        (changed(d2t=torch.zeros(7, dtype=torch.int64)), r"tensor d2t is \[7\], expected \[53\]"),
        (changed(d2t=torch.zeros(DRAFT_VOCAB)), "tensor d2t is F32, expected one of I64, I32"),
        (changed(fc__weight=torch.zeros(HIDDEN, HIDDEN)), r"tensor fc.weight is \[32, 32\], expected \[32, 96\]"),
        (changed(fc__bias=torch.zeros(HIDDEN)), "tensor 'fc.bias' belongs to no EAGLE-3 head"),
        (changed(norm__weight=torch.zeros(HIDDEN, dtype=torch.int8)), "tensor norm.weight is I8"),
        (changed(embed_tokens__weight=torch.zeros(9, HIDDEN)), r"embed_tokens.weight is \[9, 32\]"),
        (changed(lm_head__weight=torch.zeros(VOCAB, HIDDEN)), r"lm_head.weight is \[131, 32\], expected \[53, 32\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    with pytest.raises(SpecplanError, match=message):
        resolved(eagle_folder(tmp_path, tensors))


@pytest.mark.parametrize(("entry", "message"), [(1 << 40, "names token"), (-60, "names token"), (0, "twice")])
def test_a_map_to_tokens_that_are_not_there_is_refused(tmp_path: Path, entry: int, message: str) -> None:
    tensors = eagle_tensors()
    tensors["d2t"][3] = tensors["d2t"][2] - 1 if message == "twice" else entry
    plan = eagle_plan(eagle_folder(tmp_path, tensors))
    with pytest.raises(InputError, match=f"tensor d2t names .*{message.removeprefix('names ')}"):
        Engine(plan)


def test_a_head_of_all_tokens_needs_no_map(tmp_path: Path) -> None:
    tensors = changed(d2t=None, t2d=None, lm_head__weight=torch.randn(VOCAB, HIDDEN))
    engine = Engine(eagle_plan(eagle_folder(tmp_path, tensors, eagle_config(draft_vocab_size=None))))
    head = engine.own.layout.eagle3
    assert head is not None
    assert torch.equal(head.token_map, torch.arange(VOCAB))
    assert engine.generate([1, 2, 3], 5)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    folder = eagle_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no model\.safetensors.*convert it"):
        resolved(folder)


# ------------------------------------------------------------------------------------------------ plans


def test_heads_bring_their_drafter_into_the_search(tmp_path: Path) -> None:
    question = ask(model=str(variant(TARGET)), gpu="cpu-generic", heads=str(eagle_folder(tmp_path)), context=64)
    assert question.drafters == ("none", "ngram", "early_exit", "eagle3")


def test_a_plan_with_a_head_survives_its_file(tmp_path: Path) -> None:
    plan = eagle_plan(eagle_folder(tmp_path / "heads"), alpha=0.99)
    assert (plan.forward, plan.speculation.drafter) == ("specplan", "eagle3")
    planfile.save(plan, tmp_path / "plan.json")
    assert planfile.load(tmp_path / "plan.json") == plan
    assert with_weights(plan, None, None).inputs.head_files == plan.inputs.head_files


def test_a_head_that_changed_is_refused(tmp_path: Path) -> None:
    plan = eagle_plan(eagle_folder(tmp_path))
    eagle_folder(tmp_path, config=eagle_config(rope_theta=501.0))
    with pytest.raises(InputError, match="not the heads that the plan was made for"):
        with_weights(plan, None, None)


def test_edited_plans_are_refused(tmp_path: Path) -> None:
    plan = eagle_plan(eagle_folder(tmp_path))
    files = plan.inputs.head_files
    assert isinstance(files, Eagle3Input)
    for head, message in (
        (dataclasses.replace(files.head, feature_layers=(1, 2, 4)), "the target has 3 layers"),
        (dataclasses.replace(files.head, feature_layers=(1, 2)), "expected 3 layers"),
        (dataclasses.replace(files.head, draft_vocab_size=200), "draft_vocab_size is more than"),
        (dataclasses.replace(files.head, rope_theta=0.0), "rope_theta is 0.0"),
        (dataclasses.replace(files.head, head_dim=14), "contradict"),
    ):
        inputs = dataclasses.replace(plan.inputs, heads=head)
        planfile.save(dataclasses.replace(plan, inputs=inputs), tmp_path / "plan.json")
        with pytest.raises(InputError, match=message):
            planfile.load(tmp_path / "plan.json")


def test_options_that_contradict_the_head(tmp_path: Path) -> None:
    eagle, medusa = eagle_folder(tmp_path / "e"), heads_folder(tmp_path / "m", medusa_tensors(2))
    for drafter, heads, message in (
        ("medusa", eagle, "holds heads of eagle3, not of --drafter medusa"),
        ("eagle3", medusa, "holds heads of medusa, not of --drafter eagle3"),
        ("ngram", eagle, "--heads is of no use with --drafter ngram"),
    ):
        with pytest.raises(InputError, match=message):
            eagle_plan(heads, drafter=drafter)


def test_without_a_head_to_load_it_is_a_plan_for_reading() -> None:
    plan = analyze(ask(model="llama-3.1-8b", drafter="eagle3", gpu="h200", context=2048))
    assert isinstance(plan, Plan)
    assert plan.forward == "unsupported"
    assert any("no heads to load without --heads" in note for note in plan.notes)


def test_the_command_line_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = eagle_folder(tmp_path, changed(fc__weight=None))
    options = ("--model", str(variant(TARGET)), "--gpu", "cpu-generic", "--heads", str(folder))
    result = ended(monkeypatch, capsys, "analyze", *options)
    assert result.returncode == 2
    assert "tensor fc.weight is missing" in result.stderr
