"""Training of an EAGLE-3 head: features as transformers has them, steps as they are drafted, files, resuming."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from specplan.acceptance_profiles import read_acceptance
from specplan.cli.main import cli
from specplan.errors import BudgetError, InputError
from specplan.heads import Eagle3Head
from specplan.models.resolve import resolve_model
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.speculation import Chain, Tree
from specplan.speed.head_counts import HeadTrace, accuracies, chain_tree, head_steps
from specplan_runtime.engine import Engine
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.training import feature_recorder
from specplan_runtime.training.adamw import AdamW
from specplan_runtime.training.eagle_model import EagleModel, TargetParts
from specplan_runtime.training.eagle_trainer import EagleTrainer
from specplan_runtime.training.feature_shards import FeatureShard, Text, load_feature_shard
from specplan_runtime.training.memory import tile_rows_within, training_items
from specplan_runtime.training.options import TrainOptions
from specplan_runtime.training.stages import Setting
from specplan_runtime.training.summary import to_text
from specplan_runtime.training.train import train_heads
from specplan_runtime.verification import verify
from tests import eagle_helpers
from tests.cli_helpers import WORDS, llama_folder
from tests.eagle_helpers import HIDDEN, VOCAB, ReferenceHead, token_map
from tests.runtime_helpers import reference_model, variant, with_knobs
from tests.test_trace import StorageTrace
from tests.training_helpers import assert_refuses_damage, assert_resumes, prepared

TEMPLATE = "{% for m in messages %}a {{ m['content'] }} b {% endfor %}{% if add_generation_prompt %}c{% endif %}"
OPTIONS = TrainOptions(
    kind="eagle3",
    num_heads=2,
    num_tokens=1500,
    new_tokens=12,
    question_tokens=5,
    num_epochs=3,
    batch_tokens=64,
    learning_rate=0.01,
    draft_vocab_size=20,
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("target"), TEMPLATE, initializer_range=0.2)


def setting(target: Path, folder: Path, options: TrainOptions = OPTIONS, **fields: Any) -> Setting:
    return prepared(target, folder, options, **fields)


def shards(of: Setting) -> list[FeatureShard]:
    arch = of.target.arch
    paths = sorted(of.work.glob("shard-*.safetensors"))
    return [load_feature_shard(path, arch.hidden_size, arch.vocab_size) for path in paths]


# ------------------------------------------------------------------------------------------------- text


def test_recorded_features_are_those_of_transformers(target: Path, tmp_path: Path) -> None:
    """The inputs of layers 2, 1 and 0 of a target of two layers: of prompts and answers, in batches."""
    words = ["hello", "worlds", "spec", "mem", "planner", "x", "y", "zzz", "queue", "k"]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": " ".join(word)}) + "\n" for word in words))
    made = setting(target, tmp_path / "out", prompts=path)
    train_heads(made)
    (shard,) = shards(made)
    texts = {
        tuple(text.tokens[: text.num_prompt_tokens].tolist()): text
        for side in (True, False)
        for text in shard.texts(side)
    }
    assert len(texts) == len(words)
    for word in words:
        prompt = [WORDS.index(letter) for letter in ["a", *word, "b", "c"]]
        text = texts[tuple(prompt)]
        with torch.no_grad():
            output = reference_model(target)(text.tokens[None], output_hidden_states=True)
        assert torch.equal(output.logits[0, len(prompt) - 1 : -1].argmax(-1), text.tokens[len(prompt) :])
        expected = [layer_inputs(target, text.tokens)[layer][:-1] for layer in (2, 1, 0)]
        assert torch.allclose(text.features.float(), torch.stack(expected, 1), rtol=1e-2, atol=1e-3)
        states = output.hidden_states[-1][0, len(prompt) - 1 : -1]
        assert torch.allclose(text.states, states, atol=1e-5)


def layer_inputs(folder: Path, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Residual streams [n, h] at the entry of every layer, and behind the last."""
    model, seen = reference_model(folder), {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, i=index: seen.update({i: args[0][0]}))
        for index, layer in enumerate(model.model.layers)
    ]
    hooks.append(model.model.norm.register_forward_pre_hook(lambda _, args: seen.update({len(hooks) - 1: args[0][0]})))
    with torch.no_grad():
        model(tokens[None])
    for hook in hooks:
        hook.remove()
    return [seen[index] for index in range(len(hooks))]


# ---------------------------------------------------------------------------------------------- the head


def random_model(seed: int = 3) -> tuple[EagleModel, torch.Tensor]:
    """A head of other sizes than its target, with random weights, and the tokens that it proposes."""
    arch = resolve_model(str(variant("llama-gqa"))).arch
    head = Eagle3Head(
        intermediate_size=eagle_helpers.INNER,
        num_attention_heads=eagle_helpers.HEADS,
        num_key_value_heads=eagle_helpers.KV_HEADS,
        head_dim=eagle_helpers.HEAD_DIM,
        draft_vocab_size=eagle_helpers.DRAFT_VOCAB,
        own_embedding=False,
        feature_layers=(1, 2, 3),
        norm_before_residual=True,
        rms_norm_eps=eagle_helpers.EPSILON,
        rope_theta=eagle_helpers.THETA,
        rope_scaling=None,
    )  # fmt: skip
    generator, ids = torch.Generator().manual_seed(seed), token_map()
    parts = TargetParts(
        torch.randn(VOCAB, HIDDEN, generator=generator),
        torch.randn(len(ids), HIDDEN, generator=generator),
        1 + torch.rand(HIDDEN, generator=generator),
        0.5 + torch.rand(3, HIDDEN, generator=generator),
    )
    model = EagleModel(head, arch, parts, seed)
    with torch.no_grad():
        for parameter in model.parameters.values():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model, ids


def random_text(seed: int, length: int = 12, prompt: int = 4) -> Text:
    generator = torch.Generator().manual_seed(seed)
    return Text(
        torch.randint(VOCAB, (length,), generator=generator),
        torch.randn(length - 1, 3, HIDDEN, generator=generator),
        torch.randn(length - prompt, HIDDEN, generator=generator),
        finished=True,
    )


def test_unrolled_steps_are_what_the_head_says_when_it_drafts() -> None:
    """Against the published definition, which goes along one chain at a time."""
    model, ids = random_model()
    text, steps = random_text(1), 4
    head = ReferenceHead(model.tensors(ids), model.parts.embedding, norm_before_residual=True)
    with torch.no_grad():
        outputs = model.unrolled(text.features, text.tokens[1:], steps)
        fused = head.fuse(*text.features.unbind(1))
        for begin in range(len(fused) - steps):
            features = fused[: begin + 1]
            for step in range(steps):
                hidden, logits = head(features, text.tokens[1 : begin + step + 2].tolist())
                found = outputs[step][begin + step] @ model.parts.output_rows.T
                assert torch.allclose(found, logits[-1], atol=1e-4)
                features = torch.cat([features, hidden[-1:]])


def trainer_of(model: EagleModel, ids: torch.Tensor, tile_rows: int = 3, steps: int = 3) -> EagleTrainer:
    optimizer = AdamW(model.parameters, 0.01, 50)
    return EagleTrainer(model, ids, VOCAB, None, steps, optimizer, tile_rows)


def test_steps_are_those_of_autograd_and_adamw() -> None:
    (model, ids), (copy, _) = random_model(), random_model()
    trainer = trainer_of(model, ids)
    optimizer = torch.optim.AdamW(copy.parameters.values(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01)
    for batch in range(3):
        texts = [random_text(10 * batch + number, 9 + 2 * number, 2 + number) for number in range(3)]
        found, losses, total = trainer.train_batch(texts), [torch.zeros(()) for _ in range(3)], 0
        for text in texts:
            outputs = copy.unrolled(text.features, text.tokens[1:], 3)
            for entry in range(max(2, text.num_prompt_tokens - 2), len(text.tokens) - 2):
                if text.tokens[entry + 2] not in ids:
                    continue
                total += 1
                wanted = torch.softmax(copy.parts.output_rows @ text.states[entry + 2 - text.num_prompt_tokens], -1)
                for step in range(3):
                    logits = outputs[step][entry] @ copy.parts.output_rows.T
                    losses[step] = losses[step] - (wanted * torch.log_softmax(logits, -1)).sum()
        assert found == pytest.approx([float(loss.detach()) / total for loss in losses], rel=1e-4)
        torch.stack([0.8**step * loss / total for step, loss in enumerate(losses)]).sum().backward()
        optimizer.param_groups[0]["lr"] = trainer.optimizer.rate()
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in model.parameters.items():
            assert torch.allclose(parameter, copy.parameters[name], atol=2e-5), name


def test_what_training_takes_is_within_its_items() -> None:
    """Everything that operators make for a batch, against the items that are counted for it."""
    arch = resolve_model(str(variant("llama-gqa"))).arch
    options = TrainOptions(kind="eagle3", new_tokens=60, question_tokens=20, draft_vocab_size=64, num_heads=3)
    model, ids = random_model()
    trainer = trainer_of(model, ids, tile_rows=16)
    texts = [random_text(seed, 140, 70) for seed in range(3)]
    trainer.train_batch(texts)
    with StorageTrace() as trace:
        trainer.train_batch(texts)
    items = training_items(arch, dataclasses.replace(options, draft_vocab_size=131), 16)
    wider = 1 + 3 * eagle_helpers.HEADS * eagle_helpers.HEAD_DIM // HIDDEN  # this head is wider than a trained one
    assert trace.peak_bytes <= wider * sum(items.values())


# ---------------------------------------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def learned(target: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Any]:
    made = setting(target, tmp_path_factory.mktemp("learned") / "out")
    return made, train_heads(made)


def test_the_loss_falls_and_what_was_held_out_is_right_more_often(target: Path, tmp_path: Path) -> None:
    losses: list[list[float]] = []

    def listen(what: str, done: float) -> None:
        if what.startswith("training"):
            losses.append([float(word) for word in what.split("loss ")[1].rstrip(",").split()])

    made = setting(target, tmp_path / "out")
    after = accuracies(train_heads(made, listen).held_out, 1)
    begun = setting(target, tmp_path / "begun", dataclasses.replace(OPTIONS, learning_rate=1e-9, num_epochs=1))
    before = accuracies(train_heads(begun).held_out, 1)
    assert all(last < 0.9 * first for first, last in zip(losses[0], losses[-1], strict=True))
    assert len(after) == 5
    assert all(late[0] > 0.1 + early[0] for early, late in zip(before[:2], after[:2], strict=True))


def test_what_is_written_loads_and_decodes(target: Path, learned: tuple[Setting, Any]) -> None:
    made, result = learned
    tensors = load_file(made.folder / "model.safetensors")
    assert tensors["lm_head.weight"].shape == (20, 32)
    assert torch.equal(torch.nonzero(tensors["t2d"])[:, 0], tensors["d2t"] + torch.arange(20))
    profile = read_acceptance(made.folder / "acceptance.json")
    assert profile == result.profile
    assert (profile.drafter, profile.source) == ("eagle3", "measured")
    assert "step 2, earlier ones right" in to_text(result)
    plan = head_plan(target, made.folder, None)
    assert plan.estimate.alpha.source == "measured"
    assert plan.forward == "specplan"
    assert [proof.difference for proof in verify(plan).proofs] == [0] * len(verify(plan).proofs)
    engine, prompt = Engine(plan), [3, 9, 12, 4, 5]
    drafted = engine.generate(prompt, 20)
    assert engine.stats.num_accepted_tokens > 0
    engine.set_speculating(False)
    assert engine.generate(prompt, 20) == drafted


def head_plan(target: Path, heads: Path, shape: Chain | Tree | None) -> Plan:
    asked = ask(
        model=str(target), gpu="cpu-generic", heads=str(heads), drafter="eagle3", context=64, num_speculative_tokens=2
    )
    plan = analyze(dataclasses.replace(asked, must_speculate=True))
    assert isinstance(plan, Plan)
    return plan if shape is None else with_knobs(plan, shape=shape)


@pytest.fixture(scope="module")
def exact(target: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, Any]:
    """Features as the engine has them, and not in half precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_recorder, "FEATURE_DTYPE", torch.float32)
        made = setting(target, tmp_path_factory.mktemp("exact") / "out")
        return made, train_heads(made)


BRANCHES = Tree(((0,), (1,), (0, 0), (1, 0), (0, 1), (2,), (2, 0), (1, 0, 0)))


@pytest.mark.parametrize("shape", [Chain(1), Chain(3), BRANCHES], ids=["one", "three", "tree"])
def test_replayed_steps_are_those_of_the_runtime(target: Path, exact: tuple[Setting, Any], shape: Chain | Tree) -> None:
    """Traces of answers that were held out, against what the engine accepts when it gives these answers."""
    made, result = exact
    texts = [text for shard in shards(made) for text in shard.texts(held_out=True)]
    engine = Engine(head_plan(target, made.folder, shape))
    engine.assembly.eos_token_ids = (1,)
    tree = shape if isinstance(shape, Tree) else chain_tree(shape.num_speculative_tokens)
    accepted, pairs = 0, list(zip(texts, result.held_out, strict=True))[:25]
    for text, trace in pairs:
        assert isinstance(trace, HeadTrace)
        sequence = engine.open(text.tokens[: text.num_prompt_tokens].tolist(), OPTIONS.new_tokens + 8)
        params = SamplingParams()
        engine.start(sequence, params)
        replayed = [step.num_accepted for step in head_steps(trace, tree)]
        if sequence.finish_reason is None:
            emitted = [len(tokens) - 1 for tokens in engine.run_row(sequence, params)]
            whole = len(replayed) - 1  # the last step of a cut answer may go on
            assert emitted[:whole] == replayed[:whole]
        accepted += sum(replayed)
    assert len(pairs) > 5
    assert accepted > 0


# ------------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("at", ["text", "training, epoch 1", "training, epoch 3", "measuring"])
def test_a_resumed_training_ends_as_one_that_was_never_interrupted(target: Path, tmp_path: Path, at: str) -> None:
    options = dataclasses.replace(OPTIONS, num_tokens=2500)
    assert_resumes(target, tmp_path, options, at, "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 64])
def test_damaged_shards_and_checkpoints_are_refused(target: Path, tmp_path: Path, content: bytes) -> None:
    assert_refuses_damage(setting(target, tmp_path), content)


def test_another_kind_is_another_training(target: Path, tmp_path: Path) -> None:
    setting(target, tmp_path)
    with pytest.raises(InputError, match="--resume: kind differ from the training"):
        setting(target, tmp_path, dataclasses.replace(OPTIONS, kind="medusa"), resume=True)


# ------------------------------------------------------------------------------------------------ budget


def test_logits_take_what_the_budget_leaves(target: Path) -> None:
    arch = resolve_model(str(target)).arch
    needed = [sum(training_items(arch, OPTIONS, rows).values()) for rows in (256, 64, 16)]
    assert [tile_rows_within(arch, OPTIONS, size + 100, 100) for size in needed] == [256, 64, 16]
    with pytest.raises(BudgetError, match=f"needs {needed[-1] + 100} bytes, the budget is {needed[-1] + 99}"):
        tile_rows_within(arch, OPTIONS, needed[-1] + 99, 100)
    longer = sum(training_items(arch, OPTIONS, 16, 500).values())
    assert longer > needed[-1]
    with pytest.raises(BudgetError, match=f"needs {longer} bytes"):
        tile_rows_within(arch, OPTIONS, needed[-1], 0, 500)


# ---------------------------------------------------------------------------------------------- command


def test_the_command_trains_and_analyze_finds_the_profile(target: Path, tmp_path: Path) -> None:
    args = ["train-heads", "--model", str(target), "-o", str(tmp_path / "out"), "--tokens", "900", "--new-tokens", "12"]
    args += ["--kind", "eagle3", "--epochs", "1", "--draft-vocab", "9", "--format", "json"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["accuracies"]) == 5
    plan = analyze(ask(model=str(target), gpu="cpu-generic", heads=str(tmp_path / "out"), tree="best", context=64))
    assert isinstance(plan, Plan)
    assert plan.forward == "specplan"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--kind", "eagle3", "--num-layers", "2"], "--num-layers is of no use with --kind eagle3"),
        (["--kind", "eagle3", "--loss-tokens", "9"], "--loss-tokens is of no use with --kind eagle3"),
        (["--draft-vocab", "9"], "--draft-vocab is of no use with --kind medusa"),
        (["--kind", "eagle3", "--draft-vocab", "0"], "--draft-vocab 0: expected at least 1"),
    ],
)
def test_options_that_make_no_sense(target: Path, tmp_path: Path, args: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["train-heads", "--model", str(target), "-o", str(tmp_path / "out"), *args])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
