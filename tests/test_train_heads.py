"""Training of Medusa heads: what is recorded, learned, measured and resumed."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from specplan.acceptance_profiles import read_acceptance
from specplan.cli.main import cli
from specplan.errors import BudgetError, InputError, UnsupportedError
from specplan.models.resolve import resolve_model
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.speculation import Tree
from specplan.speed.acceptance_counts import Step
from specplan.speed.head_counts import HeadTrace, accuracies, chain_tree, count_heads, head_steps
from specplan_runtime.engine import Engine
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.training.evaluate import traces
from specplan_runtime.training.memory import tile_rows_within, training_items
from specplan_runtime.training.options import TrainOptions
from specplan_runtime.training.shards import Shard, is_held_out, load_shard
from specplan_runtime.training.stages import Setting, setting_of
from specplan_runtime.training.summary import to_text
from specplan_runtime.training.train import output_head, train_heads
from specplan_runtime.training.trainer import HeadTrainer
from tests.cli_helpers import WORDS, llama_folder
from tests.runtime_helpers import reference_model, with_knobs
from tests.training_helpers import assert_refuses_damage, assert_resumes, prepared

TEMPLATE = "{% for m in messages %}a {{ m['content'] }} b {% endfor %}{% if add_generation_prompt %}c{% endif %}"
OPTIONS = TrainOptions(
    num_heads=2,
    num_layers=1,
    num_tokens=1500,
    new_tokens=12,
    question_tokens=5,
    num_epochs=3,
    learning_rate=0.02,
    loss_tokens=20,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("target"), TEMPLATE)


def setting(target: Path, folder: Path, options: TrainOptions = OPTIONS, **fields: Any) -> Setting:
    return prepared(target, folder, options, **fields)


def shards(of: Setting) -> list[Shard]:
    arch = of.target.arch
    paths = sorted(of.work.glob("shard-*.safetensors"))
    return [load_shard(path, arch.hidden_size, arch.vocab_size) for path in paths]


# ------------------------------------------------------------------------------------------------- text


def prompts_file(folder: Path, texts: list[str]) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


def test_recorded_states_are_those_of_transformers(target: Path, tmp_path: Path) -> None:
    texts = ["h e l l o", "w o r l d s", "s p e c", "m e m", "p l a n n e r", "x", "y", "z z z", "q u e u e", "k"]
    made = setting(target, tmp_path / "out", prompts=prompts_file(tmp_path, texts))
    train_heads(made)
    (shard,) = shards(made)
    model = reference_model(target)
    first = 0
    for text, size in zip(texts, shard.lengths.tolist(), strict=True):
        prompt = [WORDS.index(word) for word in ["a", *text.split(), "b", "c"]]
        answer = shard.tokens[first : first + size]
        with torch.no_grad():
            output = model(torch.tensor([prompt + answer.tolist()]), output_hidden_states=True)
        states = output.hidden_states[-1][0, len(prompt) - 1 : -1]
        assert torch.allclose(shard.states[first : first + size], states, atol=1e-5)
        assert torch.equal(output.logits[0, len(prompt) - 1 : -1].argmax(-1), answer)
        first += size


def test_labels_lie_behind_the_next_token() -> None:
    tokens = torch.arange(10, 19)
    shard = Shard(tokens, torch.zeros(9, 1), torch.tensor([5, 1, 3]), *(torch.zeros(3, dtype=torch.bool),) * 2)
    assert shard.labels(3).tolist() == [
        [11, 12, 13, 14, -1, -1, 17, 18, -1],
        [12, 13, 14, -1, -1, -1, 18, -1, -1],
        [13, 14, -1, -1, -1, -1, -1, -1, -1],
    ]


def test_equal_prompts_are_held_out_together() -> None:
    sides = [is_held_out([5, number]) for number in range(400)]
    assert 20 < sum(sides) < 90
    assert sides == [is_held_out((5, number)) for number in range(400)]


def test_chosen_answers_are_whole() -> None:
    held_out = torch.tensor([False, True, False])
    shard = Shard(torch.arange(6), torch.arange(6.0)[:, None], torch.tensor([1, 2, 3]), ~held_out, held_out)
    assert shard.chosen(True).tokens.tolist() == [1, 2]
    kept = shard.chosen(False)
    assert (kept.tokens.tolist(), kept.states[:, 0].tolist(), kept.lengths.tolist()) == (
        [0, 3, 4, 5],
        [0.0, 3.0, 4.0, 5.0],
        [1, 3],
    )


# ---------------------------------------------------------------------------------------------- learning


def random_trainer(num_layers: int = 2, tile: int = 3) -> tuple[HeadTrainer, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    head = torch.randn(17, 8, generator=generator)
    trainer = HeadTrainer(head, TrainOptions(num_heads=2, num_layers=num_layers), 50, tile)
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return trainer, head


def test_steps_are_those_of_autograd_and_adamw() -> None:
    trainer, head = random_trainer()
    copies = {name: p.detach().clone().requires_grad_() for name, p in trainer.parameters.items()}
    optimizer = torch.optim.AdamW(copies.values(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01)
    generator = torch.Generator().manual_seed(4)
    for _ in range(6):
        states = torch.randn(10, 8, generator=generator)
        labels = torch.randint(-1, 17, (2, 10), generator=generator)
        losses = trainer.train_batch(states, labels)
        expected = []
        for index in range(2):
            x = states
            for layer in range(2):
                weight, bias = copies[f"{index}.{layer}.linear.weight"], copies[f"{index}.{layer}.linear.bias"]
                x = x + torch.nn.functional.silu(x @ weight.T + bias)
            expected.append(torch.nn.functional.cross_entropy(x @ head.T, labels[index], ignore_index=-1))
        torch.stack(expected).sum().backward()
        optimizer.param_groups[0]["lr"] = trainer.optimizer.rate()
        optimizer.step()
        optimizer.zero_grad()
        assert losses == pytest.approx([loss.item() for loss in expected], rel=1e-5)
        for name, parameter in trainer.parameters.items():
            assert torch.allclose(parameter, copies[name], atol=1e-6)


def test_heads_begin_as_the_targets_output_head() -> None:
    head = torch.randn(17, 8, generator=torch.Generator().manual_seed(0))
    trainer = HeadTrainer(head, TrainOptions(), 1, 4)
    states = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trainer.logits(2, states), states @ head.T)


@cache
def trained(target: Path, folder: Path) -> tuple[Setting, Any]:
    made = setting(target, folder)
    return made, train_heads(made)


def test_heads_learn_and_are_measured_on_what_was_held_out(target: Path, tmp_path_factory: Any) -> None:
    made, result = trained(target, tmp_path_factory.mktemp("learned") / "out")
    head = output_head(made.target, torch.device("cpu"))
    fresh = HeadTrainer(head, made.options, 1, 16)
    before = accuracies(traces(fresh, head, [shard.chosen(True) for shard in shards(made)], 16), 1)
    after = accuracies(result.held_out, 1)
    assert all(learned[0] > 0.1 + untrained[0] for learned, untrained in zip(after, before, strict=True))
    assert sum(trace.num_tokens for trace in result.held_out) == sum(s.chosen(True).num_tokens for s in shards(made))
    text = to_text(result)
    assert "head 1, 3 tokens on" in text
    assert "chain, γ 2" in text


def test_what_is_written_is_a_published_layout(target: Path, tmp_path_factory: Any) -> None:
    made, result = trained(target, tmp_path_factory.mktemp("written") / "out")
    tensors = load_file(made.folder / "medusa_lm_head.safetensors")
    assert sorted(tensors) == [f"{head}.0.linear.{name}" for head in range(2) for name in ("bias", "weight")]
    assert json.loads((made.folder / "config.json").read_text())["medusa_num_heads"] == 2
    profile = read_acceptance(made.folder / "acceptance.json")
    assert profile == result.profile
    assert (profile.drafter, profile.source, profile.conditions.sampling) == ("medusa", "measured", "greedy")


# ------------------------------------------------------------------------------------------------ replay


def head_plan(target: Path, heads: Path, tree: Tree) -> Plan:
    plan = analyze(ask(model=str(target), gpu="cpu-generic", heads=str(heads), drafter="medusa", context=64))
    assert isinstance(plan, Plan)
    spec = dataclasses.replace(plan.inputs.heads, num_heads=tree.depth, topk=tree.topk)  # type: ignore[type-var]
    plan = dataclasses.replace(plan, inputs=dataclasses.replace(plan.inputs, heads=spec))
    return with_knobs(plan, shape=tree)


@pytest.mark.parametrize(
    "tree", [chain_tree(1), chain_tree(2), Tree(((0,), (1,), (0, 0), (1, 0), (0, 1), (2,), (2, 0)))]
)
def test_replayed_steps_are_those_of_the_runtime(target: Path, tmp_path_factory: Any, tree: Tree) -> None:
    folder = tmp_path_factory.mktemp("replayed")
    texts = [" ".join(word) for word in ("memory", "spec", "planning", "budget", "token", "draft", "heads", "tree")]
    made = setting(target, folder / "out", prompts=prompts_file(folder, texts))
    train_heads(made)
    (shard,) = shards(made)
    head = output_head(made.target, torch.device("cpu"))
    trainer = HeadTrainer(head, made.options, 1, 16)
    saved = load_file(made.folder / "medusa_lm_head.safetensors")
    learned = {f"head.{name}": tensor for name, tensor in saved.items()}
    trainer.optimizer.restore(trainer.optimizer.state() | learned, 1)
    found = traces(trainer, head, [shard], 16)
    engine = Engine(head_plan(target, made.folder, tree))
    engine.assembly.eos_token_ids = (1,)
    accepted = 0
    for text, trace in zip(texts, found, strict=True):
        prompt = [WORDS.index(word) for word in ["a", *text.split(), "b", "c"]]
        sequence = engine.open(prompt, made.options.new_tokens + 8)
        params = SamplingParams()
        engine.start(sequence, params)
        replayed = [step.num_accepted for step in head_steps(trace, tree)]
        if sequence.finish_reason is None:
            emitted = [len(tokens) - 1 for tokens in engine.run_row(sequence, params)]
            assert emitted[: len(replayed)] == replayed
        accepted += sum(replayed)
    assert accepted > 0


def test_counts_of_a_hand_made_trace() -> None:
    """Head 0 is right at 0, 3, 5 and 6, head 1 at 1, 2, 4 and 5; a step that begins at s looks at s - 1."""
    trace = HeadTrace(((0, 1, -1, 0, 2, 0, 0), (1, 0, 0, -1, 0, 0)), 8, False)
    assert list(head_steps(trace, chain_tree(1))) == [
        Step(1, True, 1), Step(3, True, 0), Step(4, True, 1), Step(6, True, 1)
    ]  # fmt: skip
    assert [step.num_accepted for step in head_steps(trace, Tree(((0,), (0, 1), (1,))))] == [2, 1, 1]
    counted = count_heads([trace], 3)
    assert counted.accepted_lengths == (1.75, 2.0)
    assert counted.rank_rates[0] == (0.75, 0.0, 0.0)


# ------------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("at", ["text", "training, epoch 1", "training, epoch 3", "measuring"])
def test_a_resumed_training_ends_as_one_that_was_never_interrupted(target: Path, tmp_path: Path, at: str) -> None:
    options = dataclasses.replace(OPTIONS, num_tokens=2500, num_epochs=3)
    assert_resumes(target, tmp_path, options, at, "medusa_lm_head.safetensors")


def test_a_folder_in_use_is_not_overwritten(target: Path, tmp_path: Path) -> None:
    setting(target, tmp_path)
    with pytest.raises(InputError, match="give --resume"):
        setting(target, tmp_path)
    with pytest.raises(InputError, match="--resume: num_epochs, seed differ"):
        setting(target, tmp_path, dataclasses.replace(OPTIONS, num_epochs=9, seed=1), resume=True)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 64])
def test_damaged_shards_and_checkpoints_are_refused(target: Path, tmp_path: Path, content: bytes) -> None:
    assert_refuses_damage(setting(target, tmp_path), content)


# ------------------------------------------------------------------------------------------------ budget


def test_logits_take_what_the_budget_leaves(target: Path) -> None:
    arch = resolve_model(str(target)).arch
    needed = [sum(training_items(arch, OPTIONS, rows).values()) for rows in (256, 64, 16)]
    assert [tile_rows_within(arch, OPTIONS, size + 100, 100) for size in needed] == [256, 64, 16]
    with pytest.raises(BudgetError, match=f"needs {needed[-1] + 100} bytes, the budget is {needed[-1] + 99}"):
        tile_rows_within(arch, OPTIONS, needed[-1] + 99, 100)


def test_a_budget_below_the_target_is_refused(target: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="generating text"):
        setting(target, tmp_path, budget=1 << 20)


def test_targets_that_cannot_be_trained_for(target: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no weights here"):
        setting_of("smollm2-135m", tmp_path, OPTIONS, None, "auto", None)
    with pytest.raises(UnsupportedError, match="int8"):
        setting_of(str(target), tmp_path, OPTIONS, None, "int8", None)


# ---------------------------------------------------------------------------------------------- command


def test_the_command_trains_and_analyze_finds_the_profile(target: Path, tmp_path: Path) -> None:
    args = ["train-heads", "--model", str(target), "-o", str(tmp_path / "out"), "--tokens", "900", "--new-tokens", "12"]
    result = CliRunner().invoke(cli, [*args, "--num-heads", "2", "--epochs", "1", "--format", "json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert len(data["accuracies"]) == 2
    question = ask(model=str(target), gpu="cpu-generic", heads=str(tmp_path / "out"), drafter="medusa", context=64)
    plan = analyze(question)
    assert isinstance(plan, Plan)
    assert plan.estimate.alpha.source == "measured"
    assert plan.forward == "specplan"
    prompt = [3, 9, 12, 4, 5]
    engine = Engine(plan)
    drafted = engine.generate(prompt, 20)
    engine.set_speculating(False)
    assert engine.generate(prompt, 20) == drafted


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tokens", "0"], "--tokens 0: expected at least 1"),
        (["--epochs", "-1"], "--epochs -1"),
        (["--num-heads", "0"], "--num-heads 0"),
        (["--learning-rate", "2"], "--learning-rate 2.0"),
        (["--loss-tokens", "-5"], "--loss-tokens -5"),
        (["--temperature", "-1"], "--temperature -1"),
    ],
)
def test_numbers_that_make_no_sense(target: Path, tmp_path: Path, args: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["train-heads", "--model", str(target), "-o", str(tmp_path / "out"), *args])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
