"""Medusa heads from checkpoints: planned from their headers, loaded, and lossless."""

from __future__ import annotations

import dataclasses
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from specplan import planfile
from specplan.checks import check_plan
from specplan.errors import InputError
from specplan.knob import KNOBS
from specplan.models.heads import resolve_heads
from specplan.models.replace import with_weights
from specplan.models.resolve import resolve_model
from specplan.plan import HeadsInput, Plan
from specplan.planner.solve import solve, solve_options
from specplan_runtime.engine import Engine
from specplan_runtime.sampling import SamplingParams
from tests.head_helpers import HIDDEN, VOCAB, heads_folder, medusa_tensors
from tests.runtime_helpers import plan_for, prompt_of, reference_greedy, serve, variant

TARGET = "llama-gqa"


def arch() -> Any:
    return resolve_model(str(variant(TARGET))).arch


def resolved(folder: Path) -> HeadsInput:
    found = resolve_heads(str(folder), arch())
    assert isinstance(found, HeadsInput)
    return found


def shape(found: HeadsInput) -> tuple[int, int, bool]:
    return found.num_heads, found.num_layers, found.shares_head


def medusa_plan(heads: Path, **options: Any) -> Plan:
    return plan_for(variant(TARGET), heads=heads, drafter="medusa", **options)


# ------------------------------------------------------------------------------------------------ headers


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("num_heads", "num_layers", "shares_head"), [(5, 1, False), (3, 2, True), (1, 1, True)])
def test_the_file_says_how_many_heads_there_are(
    tmp_path: Path, pickled: bool, dtype: Any, num_heads: int, num_layers: int, shares_head: bool
) -> None:
    tensors = medusa_tensors(num_heads, num_layers, shares_head, dtype=dtype)
    folder = heads_folder(tmp_path, tensors, pickled, medusa_num_layers=num_layers)
    assert shape(resolved(folder)) == (num_heads, num_layers, shares_head)


@pytest.mark.parametrize("prefix", ["medusa_head.", "medusa_heads."])
def test_prefixes_of_other_publishers(tmp_path: Path, prefix: str) -> None:
    folder = heads_folder(tmp_path, medusa_tensors(2, prefix=prefix))
    assert shape(resolved(folder)) == (2, 1, False)


def vllm_tensors(biased: bool) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in medusa_tensors(2).items():
        head, layer, *_ = name.split(".")
        kind = name.rpartition(".")[2]
        renamed = f"blocks.{head}.layers.{layer}.{kind}" if "linear" in name else f"lm_heads.{head}.weight"
        if kind != "bias" or biased:
            found[renamed] = tensor
    return found


@pytest.mark.parametrize("biased", [False, True])
def test_names_of_vllm(tmp_path: Path, biased: bool) -> None:
    folder = heads_folder(tmp_path, vllm_tensors(biased))
    assert shape(resolved(folder)) == (2, 1, False)
    engine = Engine(medusa_plan(folder))
    medusa = engine.own.layout.medusa
    assert medusa is not None
    found = medusa.heads[-1].blocks[0].bias
    assert found is not None
    own = medusa_tensors(2)[f"{len(medusa.heads) - 1}.0.linear.bias"]
    assert torch.equal(found, own if biased else torch.zeros(HIDDEN))


def test_heads_that_changed_have_another_fingerprint(tmp_path: Path) -> None:
    one = resolved(heads_folder(tmp_path / "a", medusa_tensors(2)))
    assert resolved(heads_folder(tmp_path / "b", medusa_tensors(2))).config_sha256 == one.config_sha256
    assert resolved(heads_folder(tmp_path / "c", medusa_tensors(3))).config_sha256 != one.config_sha256
    assert resolved(heads_folder(tmp_path / "d", medusa_tensors(2), base="x")).config_sha256 != one.config_sha256


def damaged(tensors: dict[str, torch.Tensor], **changes: Any) -> dict[str, torch.Tensor]:
    found = tensors | {name.replace("_", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no Medusa heads"),
        (damaged(medusa_tensors(2), **{"1_0_linear_bias": None}), "1.0.linear.bias is missing"),
        (damaged(medusa_tensors(2), **{"0_1_weight": None}), "0.1.weight is missing"),
        (damaged(medusa_tensors(2), lstm=torch.zeros(1)), "'lstm' belongs to no Medusa head"),
        (damaged(medusa_tensors(2), **{"0_0_linear_weight": torch.zeros(8, 8)}), r"\[8, 8\], this target needs"),
        (damaged(medusa_tensors(2), **{"0_1_weight": torch.zeros(VOCAB + 1, HIDDEN)}), "this target needs"),
        (damaged(medusa_tensors(2), **{"0_0_linear_bias": torch.zeros(HIDDEN).to(torch.int8)}), "is I8"),
        (damaged(medusa_tensors(1), **{"9999_0_linear_weight": torch.zeros(HIDDEN, HIDDEN)}), "count 10000 heads"),
        (damaged(medusa_tensors(1), **{"medusa.head.0.0.linear.bias": torch.zeros(HIDDEN)}), "belongs to no"),
        (medusa_tensors(1) | medusa_tensors(1, prefix="medusa_head."), "begin in 2 ways"),
    ],
)
def test_files_that_hold_no_heads_of_this_target_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolved(heads_folder(tmp_path, tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"medusa_num_layers": 2}, "medusa_num_layers is 2, medusa_lm_head.safetensors has 1"),
        ({"medusa_num_layers": "1"}, "must be a whole number"),
        ({"medusa_num_heads": True}, "must be a whole number"),
        ({"hidden_size": 4096}, "hidden_size is 4096, this target's is 32"),
        ({"speculators_model_type": "eagle"}, "'eagle' is not loaded, --heads takes Medusa and EAGLE-3 heads"),
        ({"architectures": ["EAGLEModel"]}, "'EAGLEModel' is not loaded, --heads takes Medusa and EAGLE-3 heads"),
        ({"vocab_size": [1]}, r"vocab_size is \[1\]"),
    ],
)
def test_configs_that_contradict_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolved(heads_folder(tmp_path, medusa_tensors(2), **config))


def test_places_without_heads_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for reference, message in (
        (str(tmp_path), "holds none of"),
        (str(tmp_path / "no"), "no such"),
        ("\0", "no such"),
        ("~nobody-here/x", "no such"),
    ):
        with pytest.raises(InputError, match=message):
            resolve_heads(reference, arch())
    heads_folder(tmp_path, medusa_tensors(1))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="must be an object"):
        resolved(tmp_path)


# ------------------------------------------------------------------------------------------------ pickles


class Evil:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "owned")


def test_a_pickle_is_never_looked_into_while_planning(tmp_path: Path) -> None:
    folder, mark = heads_folder(tmp_path, medusa_tensors(2), pickled=True), tmp_path / "mark"
    path = folder / "medusa_lm_head.pt"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, pickle.dumps(Evil(mark)) if name.endswith("data.pkl") else content)
    plan = medusa_plan(folder)
    assert plan.inputs.head_files is not None
    with pytest.raises(InputError, match="torch cannot read it as weights only"):
        Engine(plan)
    assert not mark.exists()


@pytest.mark.parametrize("cut", [0, 10, 400, -30])
def test_truncated_pickles_are_refused(tmp_path: Path, cut: int) -> None:
    path = heads_folder(tmp_path, medusa_tensors(2), pickled=True) / "medusa_lm_head.pt"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="not a zip archive"):
        resolved(tmp_path)


@pytest.mark.parametrize("tensors", [medusa_tensors(3) | {"more": torch.zeros(7)}, {"one": torch.zeros(HIDDEN)}])
def test_pickles_of_other_sizes_are_refused(tmp_path: Path, tensors: Any) -> None:
    with pytest.raises(InputError, match="not heads of 1 layers for a target with hidden_size 32"):
        resolved(heads_folder(tmp_path, tensors, pickled=True))


def test_pickles_of_the_right_sizes_and_other_names_are_refused_at_load(tmp_path: Path) -> None:
    renamed = {name.replace("linear", "matrix"): tensor for name, tensor in medusa_tensors(2).items()}
    plan = medusa_plan(heads_folder(tmp_path, renamed, pickled=True))
    with pytest.raises(InputError, match="belongs to no Medusa head"):
        Engine(plan)


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = heads_folder(tmp_path, medusa_tensors(1), pickled=True) / "medusa_lm_head.pt"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, bytes(len(content)))
    with pytest.raises(InputError, match="compressed"):
        resolved(tmp_path)


# ------------------------------------------------------------------------------------------------ plans


def test_a_plan_with_a_checkpoint_runs_and_says_so(tmp_path: Path) -> None:
    folder = heads_folder(tmp_path / "heads", medusa_tensors(3))
    plan = medusa_plan(folder)
    assert plan.forward == "specplan"
    assert not any("heads" in note for note in plan.notes)
    assert plan.inputs.head_files == resolved(folder)
    path = tmp_path / "plan.json"
    planfile.save(plan, path)
    assert planfile.load(path) == plan
    assert check_plan(plan, None) == ()
    heads_folder(folder, medusa_tensors(3), base_model_name_or_path="another")
    (finding,) = check_plan(plan, None)
    assert finding.kind == "stale"
    with pytest.raises(InputError, match="not the heads that the plan was made for"):
        with_weights(plan, None, None)


def test_without_a_checkpoint_a_plan_is_for_reading() -> None:
    plan = plan_for(variant(TARGET), drafter="medusa")
    assert (plan.forward, plan.inputs.head_files) == ("unsupported", None)
    assert any("--heads" in note for note in plan.notes)


def test_the_search_goes_no_deeper_than_the_heads(tmp_path: Path) -> None:
    for count in (1, 2, 4):
        plan = medusa_plan(heads_folder(tmp_path / str(count), medusa_tensors(count)), alpha=0.95)
        assert plan.speculation.shape.depth == count


def test_heads_join_the_search_of_auto(tmp_path: Path) -> None:
    folder = heads_folder(tmp_path, medusa_tensors(2, shares_head=True))
    plan = plan_for(variant(TARGET), heads=folder, alpha=0.9)
    assert "medusa" in plan.marks.drafters
    plain = plan_for(variant(TARGET), heads=folder, alpha=0.0)
    assert (plain.speculation.drafter, plain.inputs.head_files) == ("none", None)


def test_the_longest_chain_is_one_token_of_each_head(tmp_path: Path) -> None:
    folder = heads_folder(tmp_path, medusa_tensors(2))
    knob = KNOBS["num_speculative_tokens"]
    options = {"model": str(variant(TARGET)), "gpu": "cpu-generic", "heads": str(folder), "drafter": "medusa"}
    assert solve(solve_options(knob.name, **options), knob).best.value == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafter": "ngram"}, "no use with --drafter ngram"),
        ({"drafter": "medusa", "share_head": True}, "--share-head is for heads without --heads"),
        ({"drafter": "medusa", "forward": "transformers"}, "no use with --forward transformers"),
        ({"drafter": "medusa", "tree": "medusa-default"}, "--tree: drafts 4 tokens ahead"),
        ({"drafter": "medusa", "num_speculative_tokens": 3}, "--num-speculative-tokens: drafts 3 tokens ahead"),
        ({"drafter": "medusa", "dtype": "int8"}, "--heads that end in the target's output head: needs floating"),
    ],
)
def test_options_that_contradict_heads(tmp_path: Path, options: Any, message: str) -> None:
    folder = heads_folder(tmp_path, medusa_tensors(2, shares_head=True))
    with pytest.raises(InputError, match=message):
        plan_for(variant(TARGET), heads=folder, **options)


def test_edited_plans_are_refused(tmp_path: Path) -> None:
    plan = medusa_plan(heads_folder(tmp_path / "heads", medusa_tensors(2)), alpha=0.9)
    files = plan.inputs.head_files
    assert isinstance(files, HeadsInput)
    for other, message in (
        (None, "no heads to load"),
        (dataclasses.replace(files, num_layers=2), "contradict"),
        (dataclasses.replace(files, num_heads=1), "inputs.heads are more"),
    ):
        path = tmp_path / "plan.json"
        planfile.save(dataclasses.replace(plan, inputs=dataclasses.replace(plan.inputs, head_files=other)), path)
        with pytest.raises(InputError, match=message):
            planfile.load(path)


def test_a_profile_beside_the_heads_is_used(tmp_path: Path) -> None:
    folder = heads_folder(tmp_path, medusa_tensors(2))
    target = resolve_model(str(variant(TARGET)))
    rates = {"accepted_lengths": [], "accepted_per_step": [0.5, 0.2], "draft_rate": 1.0, "num_steps": 100}
    profile = {
        "schema_version": 1, "name": "own", "aliases": [], "target": "mine", "target_sha256": target.config_sha256,
        "drafter": "medusa", "draft": None, "draft_sha256": None, "num_exit_layers": None, "source": "measured",
        "reference": "here", "categories": {"all": {**rates, "rank_rates": [[0.5, 0.3], [0.4, 0.2]]}},
        "conditions": {"prompts": "p", "num_prompts": 1, "num_tokens": 9, "weights": None, "dtype": None,
                       "sampling": "greedy"},
    }  # fmt: skip
    (folder / "acceptance.json").write_text(json.dumps(profile))
    plan = medusa_plan(folder)
    assert "acceptance profile own" in plan.estimate.alpha.reference
    (folder / "acceptance.json").write_text(json.dumps(profile | {"target_sha256": "0" * 64}))
    assert "own" not in medusa_plan(folder).estimate.alpha.reference
    (folder / "acceptance.json").write_text(json.dumps(profile | {"drafter": "mtp"}))
    with pytest.raises(InputError, match="expected medusa"):
        medusa_plan(folder)


# ------------------------------------------------------------------------------------------------ running


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("shares_head", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_loaded_heads_draft_without_changing_the_output(
    tmp_path: Path, pickled: bool, shares_head: bool, batch_size: int
) -> None:
    tensors = medusa_tensors(4, shares_head=shares_head, dtype=torch.float16)
    folder = heads_folder(tmp_path, tensors, pickled)
    plan = medusa_plan(folder, batch_size=batch_size, num_draft_nodes=7, alpha=0.5)
    engine = Engine(plan)
    layout = engine.own.layout
    assert layout.medusa is not None
    assert plan.inputs.heads is not None
    assert len(layout.medusa.heads) == plan.inputs.heads.num_heads <= 4  # type: ignore[union-attr]
    for index, head in enumerate(layout.medusa.heads):
        assert torch.equal(head.blocks[0].weight, tensors[f"{index}.0.linear.weight"].float())
        assert torch.equal(head.blocks[0].bias, tensors[f"{index}.0.linear.bias"].float())  # type: ignore[arg-type]
        own = layout.target.head.weight if shares_head else tensors[f"{index}.1.weight"].float()
        assert torch.equal(head.head.weight, own)
    prompts, limits = [prompt_of(9), [5], prompt_of(17, seed=3)], [20, 9, 30]
    for prompt, limit, found in zip(prompts, limits, serve(engine, prompts, limits), strict=True):
        assert found == reference_greedy(variant(TARGET), prompt, limit)
    assert engine.stats.num_draft_tokens > 0
    planned = {item.name: item.bytes for item in plan.ledger.owned_items() if item.name != "kernel_output"}
    assert planned == layout.arena.bytes_by_item


def test_heads_over_an_int8_target(tmp_path: Path) -> None:
    folder = heads_folder(tmp_path, medusa_tensors(2, dtype=torch.bfloat16))
    plan = medusa_plan(folder, dtype="int8", num_draft_nodes=5, alpha=0.5)
    engine = Engine(plan)
    drafted = engine.generate(prompt_of(9), 12)
    engine.set_speculating(False)
    assert engine.generate(prompt_of(9), 12) == drafted


def test_sampling_with_loaded_heads(tmp_path: Path) -> None:
    engine = Engine(medusa_plan(heads_folder(tmp_path, medusa_tensors(2)), num_draft_nodes=5, alpha=0.5))
    assert len(engine.generate(prompt_of(9), 12, SamplingParams(temperature=1.0, seed=3))) == 12
