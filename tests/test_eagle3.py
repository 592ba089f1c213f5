"""EAGLE-3 heads: the published definition as the oracle, lossless output, and memory to the byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from specplan.plan import Plan
from specplan_runtime.drafters.eagle3 import Eagle3Drafter
from specplan_runtime.engine import Engine
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence
from specplan_runtime.verification import verify
from tests.eagle_helpers import (
    DRAFT_VOCAB,
    HIDDEN,
    INNER,
    LAYERS,
    ReferenceHead,
    eagle_config,
    eagle_folder,
    eagle_tensors,
    speculators_config,
    token_map,
)
from tests.runtime_helpers import (
    checkpoint,
    plan_for,
    prompt_of,
    reference_greedy,
    reference_model,
    serve,
    variant,
)
from tests.test_sampling_exact import Branches

TARGET = "llama-gqa"
GAMMA = 3
PROMPTS = [prompt_of(9), [5], prompt_of(20), prompt_of(4), prompt_of(7)]
LIMITS = [24, 30, 10, 17, 1]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eagle_folder(tmp_path_factory.mktemp("eagle") / "heads")


def eagle_plan(heads: Path, target: str = TARGET, gamma: int = GAMMA, chunk: int = 7, **options: Any) -> Plan:
    knobs = {"prefill_chunk": chunk, "logits_rows": 2}
    return plan_for(
        variant(target), heads=heads, drafter="eagle3", num_speculative_tokens=gamma, knobs=knobs, **options
    )


def drafter_of(engine: Engine) -> Eagle3Drafter:
    assert isinstance(engine.drafter, Eagle3Drafter)
    return engine.drafter


# ------------------------------------------------------------------------------------------------ the oracle


@cache
def features_of(folder: Path, tokens: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Hidden states [n, h] at the entry of the layers that the head reads, by hooks on transformers' model."""
    model = reference_model(folder)
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, args, out, i=index: seen.update({i: args[0][0], i + 1: _first(out)[0]}))
        for index, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        model(torch.tensor([tokens]))
    for hook in hooks:
        hook.remove()
    return tuple(seen[layer] for layer in LAYERS)


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


class Witness:
    """Keeps what a drafter proposes, beside what the tokens were before."""

    def __init__(self, engine: Engine) -> None:
        self.seen: list[tuple[list[int], list[int]]] = []
        self._propose = engine.drafter.propose
        engine.drafter.propose = self.propose  # type: ignore[method-assign]

    def propose(self, rows: Any, limits: Any, params: Any) -> list[list[int]]:
        found = self._propose(rows, limits, params)
        self.seen += [(list(row.tokens), list(p)) for row, p in zip(rows, found, strict=True) if row is not None]
        return found


def expected_drafts(folder: Path, head: ReferenceHead, tokens: list[int], count: int) -> list[int]:
    return head.draft(head.fuse(*features_of(folder, tuple(tokens[:-1]))), tokens, count)


FORMATS: dict[str, tuple[dict[str, Any], Any, bool]] = {
    "authors": ({}, None, False),
    "authors, own embedding": ({"own_embedding": True}, None, False),
    "speculators": ({"layer": "layers.0"}, speculators_config(), True),
}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_proposals_are_those_of_the_published_definition(tmp_path: Path, name: str, batch_size: int) -> None:
    """Step by step: after a prefill in chunks, after rejections, in ragged batches, in rows that were taken over."""
    options, config, norm_first = FORMATS[name]
    tensors, folder = eagle_tensors(**options), variant(TARGET)
    engine = Engine(eagle_plan(eagle_folder(tmp_path / "heads", tensors, config), batch_size=batch_size))
    embedding = reference_model(folder).get_input_embeddings().weight
    head, witness = ReferenceHead(tensors, embedding, norm_first), Witness(engine)
    serve(engine, PROMPTS, LIMITS)
    assert len(witness.seen) > 40
    with torch.no_grad():
        for tokens, proposal in witness.seen:
            assert proposal == expected_drafts(folder, head, tokens, len(proposal))
    assert any(len(proposal) == GAMMA for _, proposal in witness.seen)


# ------------------------------------------------------------------------------------------------ lossless


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("gamma", [1, 2, 5])
@pytest.mark.parametrize("name", [TARGET, "llama-llama3-rope", "mistral-window", "gemma2", "gemma3", "olmo2",
                                  "gpt-neox", "qwen3-moe"])  # fmt: skip
def test_greedy_output_is_the_targets(heads: Path, name: str, gamma: int, batch_size: int) -> None:
    engine = Engine(eagle_plan(heads, name, gamma, batch_size=batch_size))
    for prompt, limit, found in zip(PROMPTS, LIMITS, serve(engine, PROMPTS, LIMITS), strict=True):
        assert found == reference_greedy(variant(name), prompt, limit)
    assert engine.stats.num_draft_tokens > 0


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"dtype": "int8"}, {"kv_dtype": "int8"}, {"chunk": 64}])
@pytest.mark.parametrize("name", [TARGET, "qwen2-tied"])
def test_other_precisions_and_chunks_give_what_plain_decoding_gives(heads: Path, name: str, options: Any) -> None:
    engine = Engine(eagle_plan(heads, name, batch_size=2, **options))
    found = serve(engine, PROMPTS, 12)
    assert engine.stats.num_draft_tokens > 0
    engine.set_speculating(False)
    assert serve(engine, PROMPTS, 12) == found


def test_a_context_that_fills_up(heads: Path) -> None:
    engine = Engine(eagle_plan(heads, gamma=5, batch_size=2, context=24))
    prompts = [prompt_of(22), prompt_of(19), [3]]
    found = serve(engine, prompts, 100)
    assert [len(p) + len(tokens) for p, tokens in zip(prompts, found, strict=True)] == [24] * 3
    for prompt, tokens in zip(prompts, found, strict=True):
        assert tokens == reference_greedy(variant(TARGET), prompt, 24 - len(prompt))


# ------------------------------------------------------------------------------------------------ conversations


@pytest.mark.parametrize("name", [TARGET, "mistral-window"])
@pytest.mark.parametrize("shared", [None, 12, 3])
def test_the_next_turn_drafts_as_from_the_start(heads: Path, name: str, shared: int | None) -> None:
    """The head's cache goes on with the conversation, or back to where it changed."""
    engine, folder = Engine(eagle_plan(heads, name, chunk=4, context=90)), variant(name)
    sequence = engine.open(prompt_of(9), 11)
    engine.start(sequence, SamplingParams())
    list(engine.run_row(sequence, SamplingParams()))
    prompt = [*sequence.tokens[:shared], *prompt_of(6, seed=3)]
    engine.resume(sequence, prompt, 15)
    assert sequence.num_target_cached <= len(prompt) - 6
    witness = Witness(engine)
    found = engine.start(sequence, SamplingParams())
    found += [token for tokens in engine.run_row(sequence, SamplingParams()) for token in tokens]
    assert found == reference_greedy(folder, prompt, 15)
    embedding = reference_model(folder).get_input_embeddings().weight
    head = ReferenceHead(eagle_tensors(), embedding)
    with torch.no_grad():
        for tokens, proposal in witness.seen:
            assert proposal == expected_drafts(folder, head, tokens, len(proposal))


def test_nothing_is_drafted_for_a_sequence_whose_features_were_missed(heads: Path) -> None:
    engine = Engine(eagle_plan(heads))
    sequence = engine.open(prompt_of(9), 20)
    engine.start(sequence, SamplingParams())
    engine._rows = [sequence]
    engine.step(SamplingParams())
    engine.set_speculating(False)
    engine.step(SamplingParams())
    engine.set_speculating(True)
    drafted = engine.stats.num_draft_tokens
    while sequence.finish_reason is None:
        engine.step(SamplingParams())
    assert engine.stats.num_draft_tokens == drafted
    assert sequence.new_tokens == reference_greedy(variant(TARGET), prompt_of(9), 20)


def test_steps_without_drafts_keep_the_head_up_to_date(heads: Path) -> None:
    """As adaptive speculation asks for: the limit falls to nothing and rises again."""
    engine, folder = Engine(eagle_plan(heads)), variant(TARGET)
    sequence = engine.open(prompt_of(9), 20)
    engine.start(sequence, SamplingParams())
    engine._rows = [sequence]
    limits, witness = iter([2, 0, 0, 1, 0] * 9), Witness(engine)
    engine._limits = lambda: [next(limits)]  # type: ignore[method-assign]
    while sequence.finish_reason is None:
        engine.step(SamplingParams())
    head = ReferenceHead(eagle_tensors(), reference_model(folder).get_input_embeddings().weight)
    with torch.no_grad():
        for tokens, proposal in witness.seen:
            assert proposal == expected_drafts(folder, head, tokens, len(proposal))
    assert {len(proposal) for _, proposal in witness.seen} == {0, 1, 2}


# ------------------------------------------------------------------------------------------------ rigged models

FEW, KNOWN = 16, torch.arange(0, 16, 2)  # tokens of the rigged target, and those that its head proposes
#: What follows each token: even ones in a circle, odd ones in another.
NEXT = [(token + 2) % FEW for token in range(FEW)]


@cache
def rigged_target(root: Path, logits: tuple[tuple[float, ...], ...]) -> Path:
    """A target that only looks at the last token t: its logits are ``logits[t]``."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint("llama", seed=2, vocab_size=FEW, rms_norm_eps=1e-12), dtype=torch.float32
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1)
        model.get_input_embeddings().weight.copy_(torch.eye(FEW, HIDDEN))
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :FEW] = torch.tensor(logits).T / HIDDEN**0.5
    folder = root / "target"
    model.save_pretrained(folder)
    return folder


def rigged_tensors(logits: torch.Tensor, walks: bool) -> dict[str, torch.Tensor]:
    """A head whose hidden state is the embedding of a token: of the feature's own, or of the one that follows it.

    Args:
        logits: [V_d, V], what it says of that token.
        walks: the MLP moves on to the token that follows.
    """
    tensors = eagle_tensors(ids=KNOWN)
    for name in ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        tensors[f"midlayer.{name}.weight"].zero_()
    for name in ("midlayer.hidden_norm", "midlayer.post_attention_layernorm", "norm"):
        tensors[f"{name}.weight"].fill_(1)
    unit = torch.eye(HIDDEN)
    tensors["fc.weight"] = torch.cat([unit, 0 * unit, 0 * unit], dim=1)
    if walks:
        size = torch.tensor(1 / (1 / HIDDEN + 1e-5) ** 0.5)
        inner = torch.nn.functional.silu(size) * size
        for name in ("gate_proj", "up_proj"):
            tensors[f"midlayer.mlp.{name}.weight"] = torch.eye(INNER, HIDDEN)
        for token in range(FEW):
            tensors["midlayer.mlp.down_proj.weight"][:, token] = (unit[NEXT[token]] - unit[token]) / inner
    tensors["lm_head.weight"] = torch.zeros(len(KNOWN), HIDDEN)
    tensors["lm_head.weight"][:, :FEW] = logits / HIDDEN**0.5
    return tensors


def rigged_plan(root: Path, target: torch.Tensor, draft: torch.Tensor, walks: bool, gamma: int) -> Plan:
    folder = rigged_target(root, tuple(map(tuple, target.tolist())))
    config = eagle_config(vocab_size=FEW, draft_vocab_size=len(KNOWN))
    heads = eagle_folder(root / "heads", rigged_tensors(draft, walks), config)
    return plan_for(folder, heads=heads, drafter="eagle3", num_speculative_tokens=gamma)


def test_a_head_that_agrees_is_accepted_throughout(tmp_path: Path) -> None:
    """On even tokens everything is accepted; odd ones it does not know."""
    target = torch.full((FEW, FEW), -9.0)
    target[range(FEW), NEXT] = 9.0
    draft = target[:, KNOWN].T
    engine = Engine(rigged_plan(tmp_path, target, draft, walks=True, gamma=4))
    assert engine.generate([6, 8, 10], 26) == [(12 + 2 * step) % FEW for step in range(26)]
    stats = engine.stats
    assert stats.num_accepted_tokens == stats.num_draft_tokens == 20
    assert stats.num_passes == 5
    engine.reset_counters()
    assert engine.generate([7, 9, 11], 16) == [(13 + 2 * step) % FEW for step in range(16)]
    assert engine.stats.num_accepted_tokens == 0
    assert engine.stats.num_passes == 15


def thirds(tokens: dict[int, int]) -> torch.Tensor:
    """Logits of a distribution in thirds."""
    shares = torch.zeros(FEW)
    for token, share in tokens.items():
        shares[token] = share / 3
    return shares.log().clamp_min(-1e4)


TARGET_THIRDS: dict[int, dict[int, int]] = {token: {NEXT[token]: 2, 3: 1} for token in range(FEW)} | {
    10: {4: 1, 8: 1, 3: 1}, 8: {2: 1, 6: 2}, 4: {5: 3},
}  # fmt: skip
DRAFTS: list[dict[int, int]] = [{4: 2, 8: 1}, {8: 3}, {4: 1, 6: 1, 8: 1}, {0: 2, 8: 1}]


@pytest.mark.parametrize("drafted", DRAFTS, ids=str)
def test_sampling_emits_the_targets_distribution_exactly(tmp_path: Path, drafted: dict[int, int]) -> None:
    """Every branch of a step, weighed: a vocabulary of 8 tokens drafts for a target of 16, some of which it lacks."""
    target = torch.stack([thirds(TARGET_THIRDS[token]) for token in range(FEW)])
    draft = thirds(drafted)[KNOWN][:, None].expand(-1, FEW)
    engine = Engine(rigged_plan(tmp_path, target, draft, walks=False, gamma=1))
    first: dict[int, Fraction] = defaultdict(Fraction)
    joint: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    for weight, tokens in all_branches(engine, [6, 10]):
        first[tokens[0]] += weight
        if len(tokens) == 2:
            joint[tokens[0], tokens[1]] += weight
    assert dict(first) == {token: Fraction(share, 3) for token, share in TARGET_THIRDS[10].items()}
    for token in {one for one, _ in joint}:
        accepted = sum(weight for (one, _), weight in joint.items() if one == token)
        after = {two: weight / accepted for (one, two), weight in joint.items() if one == token}
        assert after == {two: Fraction(share, 3) for two, share in TARGET_THIRDS[token].items()}
    assert joint


def all_branches(engine: Engine, prompt: list[int]) -> Iterator[tuple[Fraction, list[int]]]:
    """What one step emits after a prompt of two tokens, for every outcome of its random decisions."""
    source, params = Branches(6), SamplingParams(temperature=1.0)
    for weight in source.runs():
        sequence = Sequence(0, prompt[:1], 1, 9)
        engine.start(sequence, SamplingParams())
        sequence.uniform = source
        sequence.tokens[-1] = prompt[1]  # whatever the first token is: the step begins from here
        engine._rows = [sequence]
        ((_, tokens),) = engine.step(params)
        yield weight(), tokens


def test_draft_probabilities_stand_at_the_targets_tokens(heads: Path) -> None:
    engine = Engine(eagle_plan(heads, batch_size=2))
    kept = engine.own.layout.eagle3_chain
    assert kept is not None
    kept.probs.copy_(torch.rand(kept.probs.shape, generator=torch.Generator().manual_seed(1)))
    for row, position in ((0, 0), (1, 2), (0, 1)):
        found = drafter_of(engine).probs(row, position)
        assert found is not None
        assert torch.equal(found[token_map()], kept.probs[row, position])
        assert int((found != 0).sum()) == DRAFT_VOCAB


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_kept_token_is_greedy(heads: Path, batch_size: int) -> None:
    engine = Engine(eagle_plan(heads, batch_size=batch_size))
    greedy = serve(engine, PROMPTS, 16)
    assert serve(engine, PROMPTS, 16, SamplingParams(temperature=1.0, top_k=1)) == greedy
    sampled = SamplingParams(temperature=2.0, top_k=9, top_p=0.9, seed=4)
    assert serve(engine, PROMPTS, 16, sampled) == serve(
        engine, PROMPTS, 16, SamplingParams(temperature=2.0, top_k=9, top_p=0.9, seed=4)
    )


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16", "batch_size": 3}, {"dtype": "int8", "batch_size": 2},
                                     {"kv_dtype": "int4", "dtype": "float16"}])  # fmt: skip
@pytest.mark.parametrize("own_embedding", [False, True])
def test_verify_agrees_to_the_byte(tmp_path: Path, own_embedding: bool, options: Any) -> None:
    folder = eagle_folder(tmp_path / "heads", eagle_tensors(own_embedding=own_embedding))
    plan = eagle_plan(folder, **options)
    assert not [item.name for item in plan.ledger.owned_items() if item.source != "exact"]
    assert [proof.difference for proof in verify(plan).proofs] == [0] * len(verify(plan).proofs)


def test_weights_are_the_files_floats_and_a_map(heads: Path) -> None:
    tensors = eagle_tensors()
    floats = sum(tensor.nbytes for tensor in tensors.values() if tensor.is_floating_point())
    ledger = eagle_plan(heads).ledger.by_name()
    assert ledger["drafter.weights"].bytes == floats + tensors["d2t"].nbytes
