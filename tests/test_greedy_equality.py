"""Greedy output is the target's own, token by token, whatever drafts and however rows are batched."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from specplan.errors import InputError
from specplan_runtime.engine import Engine, Request
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence
from tests.runtime_helpers import (
    CONTEXT,
    FAMILY_VARIANTS,
    VARIANTS,
    checkpoint,
    perturbed,
    plan_for,
    prompt_of,
    reference_greedy,
    serve,
    variant,
)

NUM_TOKENS = 24
GREEDY = SamplingParams()
GAMMAS = (1, 2, 3, 5, 8)
#: Drafters as tests name them; the last three are ``draft_model`` with different drafts.
DRAFTERS = ("none", "ngram", "early_exit", "same", "near", "other")
SPECULATIVE = DRAFTERS[1:]


def make_engine(
    folder: Path, drafter: str, gamma: int = 3, batch_size: int = 1, context: int = CONTEXT, chunk: int = 7
) -> Engine:
    """An engine whose prefill chunk does not divide the prompts and whose logits come in tiles of two rows."""
    options: dict[str, Any] = {"drafter": drafter, "batch_size": batch_size}
    if drafter in ("same", "near", "other"):
        options |= {"drafter": "draft_model", "draft": draft_of(folder, drafter)}
    if drafter != "none":
        options["num_speculative_tokens"] = gamma
    knobs = {"prefill_chunk": chunk, "logits_rows": 2}
    return Engine(plan_for(folder, context=context, knobs=knobs, **options))


def draft_of(folder: Path, kind: str) -> Path:
    if kind == "same":
        return folder
    return perturbed(folder, 0.02) if kind == "near" else checkpoint("llama", seed=11, num_hidden_layers=2)


@cache
def prompts_of(folder: Path) -> tuple[tuple[int, ...], ...]:
    """One token, a few, and one that contains what will follow it, so that prompt lookup finds something."""
    plain = prompt_of(9)
    follows = reference_greedy(folder, plain, 12)
    return tuple(map(tuple, ([5], plain, plain + follows + plain[:7] + plain[-2:] + follows[:2])))


def check_against_reference(engine: Engine, folder: Path, prompts: list[list[int]], limits: list[int]) -> None:
    context = engine.plan.workload.context
    for prompt, limit, found in zip(prompts, limits, serve(engine, prompts, limits), strict=True):
        assert found == reference_greedy(folder, prompt, min(limit, context - len(prompt)))


@pytest.mark.parametrize("name", [*VARIANTS, *FAMILY_VARIANTS])
def test_plain_decoding(name: str) -> None:
    folder = variant(name)
    engine = make_engine(folder, "none")
    for prompt in map(list, prompts_of(folder)):
        assert engine.generate(prompt, NUM_TOKENS) == reference_greedy(folder, prompt, NUM_TOKENS)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("drafter", SPECULATIVE)
@pytest.mark.parametrize("name", VARIANTS)
def test_speculation(name: str, drafter: str, gamma: int) -> None:
    folder = variant(name)
    engine = make_engine(folder, drafter, gamma)
    for prompt in map(list, prompts_of(folder)):
        assert engine.generate(prompt, NUM_TOKENS) == reference_greedy(folder, prompt, NUM_TOKENS)
    assert drafter == "ngram" or engine.stats.num_draft_tokens > 0


@pytest.mark.parametrize(("drafter", "gamma", "batch_size"), [("near", 5, 1), ("early_exit", 2, 3), ("ngram", 8, 2)])
@pytest.mark.parametrize("name", FAMILY_VARIANTS)
def test_families(name: str, drafter: str, gamma: int, batch_size: int) -> None:
    """Windows, experts and other layouts: ragged batches that run far beyond the shortest window."""
    folder = variant(name)
    prompts = [list(prompt) for prompt in prompts_of(folder)] + [prompt_of(17, seed=3)]
    check_against_reference(make_engine(folder, drafter, gamma, batch_size, chunk=5), folder, prompts, [24, 3, 30, 40])


@pytest.mark.parametrize("drafter", ["ngram", "early_exit", "near"])
def test_some_proposals_are_accepted_and_some_not(drafter: str) -> None:
    """Guards the other tests: ragged acceptance is what they are about."""
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter)
    for prompt in map(list, prompts_of(folder)):
        engine.generate(prompt, NUM_TOKENS)
    assert 0 < engine.stats.num_accepted_tokens < engine.stats.num_draft_tokens


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_draft_that_is_the_target_is_always_right(name: str, gamma: int) -> None:
    engine = make_engine(variant(name), "same", gamma)
    steps = 4
    engine.generate(prompt_of(9), 1 + steps * (gamma + 1))  # the first token comes from the prefill
    assert engine.stats.num_passes == steps
    assert engine.stats.mean_accepted_length == gamma + 1
    assert engine.stats.draft_acceptance_rate == 1


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("batch_size", [2, 3])
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("name", VARIANTS)
def test_ragged_batches_give_the_same_tokens(name: str, drafter: str, batch_size: int) -> None:
    """More prompts than rows, of different lengths and limits: rows finish and are refilled while others run."""
    folder = variant(name)
    prompts = [list(prompt) for prompt in prompts_of(folder)] + [prompt_of(2), prompt_of(17, seed=3), [77]]
    limits = [24, 3, 11, 20, 1, 16]
    check_against_reference(make_engine(folder, drafter, 3, batch_size), folder, prompts, limits)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("drafter", SPECULATIVE)
def test_batches_at_every_gamma(drafter: str, gamma: int) -> None:
    folder = variant("llama-gqa")
    prompts = [prompt_of(length, seed=4) for length in (3, 1, 12, 7, 2, 9, 1)]
    limits = [9, 24, 2, 13, 1, 5, 18]
    check_against_reference(make_engine(folder, drafter, gamma, 3), folder, prompts, limits)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_batch_with_rows_that_stay_empty(drafter: str) -> None:
    folder = variant("qwen2-tied")
    engine = make_engine(folder, drafter, 3, batch_size=4)
    check_against_reference(engine, folder, [prompt_of(6), prompt_of(2)], [20, 10])
    check_against_reference(engine, folder, [prompt_of(8)], [20])


def test_a_pass_has_the_rows_that_somebody_needs() -> None:
    """One row of a sequence that drafts nothing, none of an empty place; on devices where rows cost little, a grid."""
    folder = variant("llama-gqa")
    engine = make_engine(folder, "ngram", 3, batch_size=3)
    prompts = [prompt_of(5), list(prompts_of(folder)[2])]
    target = engine.assembly.target
    for takes_ragged in (True, False):
        engine.assembly.takes_ragged = takes_ragged
        with mock.patch.object(target, "forward", wraps=target.forward) as forward:
            check_against_reference(engine, folder, prompts, [12, 20])
        passes = [work_span[1] for work_span, _ in forward.call_args_list if work_span[1].row is None]
        lengths = {tuple(span.lengths) for span in passes}
        assert ((1, 4, 0) in lengths) == takes_ragged
        assert ((4, 4, 4) in lengths) != takes_ragged
        assert any(span.is_ragged for span in passes) == takes_ragged


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_an_abandoned_batch_leaves_nothing_behind(drafter: str) -> None:
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter, 3, batch_size=2)
    stream = engine.serve([Request(0, prompt_of(9), 20), Request(1, prompt_of(4), 20)])
    for _ in range(4):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    check_against_reference(engine, folder, [prompt_of(5), prompt_of(7)], [20, 20])


@pytest.mark.parametrize("drafter", SPECULATIVE)
def test_speculation_can_be_switched_off_and_on(drafter: str) -> None:
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter)
    for speculating in (False, True, False, True):
        engine.set_speculating(speculating)
        engine.reset_counters()
        check_against_reference(engine, folder, [list(prompts_of(folder)[2])], [NUM_TOKENS])
        assert (engine.stats.num_draft_tokens > 0) == speculating


@pytest.mark.parametrize("drafter", SPECULATIVE)
def test_speculation_can_be_switched_in_the_middle_of_a_sequence(drafter: str) -> None:
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter)
    engine.set_speculating(False)
    sequence = engine.open(prompt_of(9), NUM_TOKENS)
    found = list(engine.start(sequence, GREEDY))
    for number, tokens in enumerate(engine.run_row(sequence, GREEDY)):
        found += tokens
        engine.set_speculating(number >= 5)
    assert found == reference_greedy(folder, prompt_of(9), NUM_TOKENS)


# ----------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7])
def test_gamma_beyond_the_tokens_that_remain(drafter: str, limit: int) -> None:
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter, gamma=8)
    assert engine.generate(prompt_of(9), limit) == reference_greedy(folder, prompt_of(9), limit)


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("room", [1, 2, 3, 6, 9])
def test_generation_ends_where_the_context_does(drafter: str, room: int) -> None:
    folder, context = variant("qwen3-wide-heads"), 29
    engine = make_engine(folder, drafter, gamma=5, context=context)
    prompt = prompt_of(context - room)
    sequence = engine.open(prompt, 100)
    engine.start(sequence, GREEDY)
    for _ in engine.run_row(sequence, GREEDY):
        pass
    assert sequence.new_tokens == reference_greedy(folder, prompt, room)
    assert sequence.finish_reason == "length"
    assert len(sequence.tokens) == context


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_batch_of_rows_at_the_end_of_the_context(drafter: str) -> None:
    folder, context = variant("llama-gqa"), 24
    engine = make_engine(folder, drafter, gamma=8, batch_size=2, context=context)
    prompts = [prompt_of(length) for length in (context - 1, 1, context - 2, context - 5, 3)]
    check_against_reference(engine, folder, prompts, [100] * len(prompts))


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_smallest_context(drafter: str) -> None:
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter, gamma=3, batch_size=2, context=2)
    check_against_reference(engine, folder, [[5], [9], [3]], [10, 1, 2])


@pytest.mark.parametrize("tokens", [[], list(range(CONTEXT)), [131], [-1]])
def test_prompts_that_cannot_be_served_are_refused(tokens: list[int]) -> None:
    engine = make_engine(variant("llama-gqa"), "none")
    with pytest.raises(InputError):
        engine.generate(tokens, 5)


def test_a_limit_of_no_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="max-new-tokens"):
        make_engine(variant("llama-gqa"), "none").generate([1], 0)


# -------------------------------------------------------------------------------------------------- eos


def eos_folder(position: int) -> tuple[Path, list[int]]:
    """A checkpoint whose greedy continuation meets its eos at ``position`` for the first time, and the prompt."""
    prompt = prompt_of(9)
    follows = reference_greedy(variant("llama-gqa"), prompt, NUM_TOKENS)
    while follows[position] in follows[:position]:
        position += 1
    return variant("llama-gqa", eos_token_id=follows[position]), prompt


@pytest.mark.parametrize("position", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_eos_among_accepted_tokens_ends_generation(drafter: str, position: int) -> None:
    folder, prompt = eos_folder(position)
    expected = reference_greedy(folder, prompt, NUM_TOKENS)
    assert len(expected) <= NUM_TOKENS
    engine = make_engine(folder, drafter, gamma=5)
    emissions = list(engine.serve([Request(0, prompt, NUM_TOKENS)]))
    assert [token for emission in emissions for token in emission.tokens] == expected
    assert [emission.finish_reason for emission in emissions] == [None] * (len(emissions) - 1) + ["stop"]


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_eos_in_one_row_of_a_batch(drafter: str) -> None:
    folder, prompt = eos_folder(4)
    prompts = [prompt_of(3), prompt, prompt_of(6), prompt, prompt_of(1), prompt]
    engine = make_engine(folder, drafter, gamma=5, batch_size=3)
    check_against_reference(engine, folder, prompts, [NUM_TOKENS] * len(prompts))


@pytest.mark.parametrize("position", [2, 4])
def test_statistics_count_what_was_emitted_when_eos_cuts_a_step(position: int) -> None:
    folder, prompt = eos_folder(position)
    engine = make_engine(folder, "same", gamma=8)
    new = engine.generate(prompt, NUM_TOKENS)
    assert engine.stats.num_emitted_tokens == engine.timings.num_decoded_tokens == len(new) - 1


def test_statistics_count_what_was_emitted_when_the_context_cuts_a_step() -> None:
    engine = make_engine(variant("llama-gqa"), "same", gamma=8, context=24)
    new = engine.generate(prompt_of(20), NUM_TOKENS)
    assert engine.stats.num_emitted_tokens == engine.timings.num_decoded_tokens == len(new) - 1


# ------------------------------------------------------------------------------------------------- drafts


@pytest.mark.parametrize("vocab_size", [3, 97, 130, 132, 200])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_draft_with_another_vocabulary(vocab_size: int, batch_size: int) -> None:
    """Padded vocabularies differ; the draft must neither propose nor be fed what it or the target does not know."""
    folder = variant("llama-gqa")
    draft = checkpoint("llama", seed=11, vocab_size=vocab_size)
    plan = plan_for(folder, drafter="draft_model", draft=draft, num_speculative_tokens=3, batch_size=batch_size)
    prompts = [[130, 4, 129, 96], prompt_of(9), [5]]
    check_against_reference(Engine(plan), folder, prompts, [NUM_TOKENS] * 3)


@pytest.mark.parametrize("draft", ["qwen2-tied", "qwen3-wide-heads", "mistral-mqa", "llama-llama3-rope"])
def test_a_draft_of_another_family(draft: str) -> None:
    folder = variant("llama-linear-rope")
    plan = plan_for(folder, drafter="draft_model", draft=variant(draft), num_speculative_tokens=3, batch_size=2)
    check_against_reference(Engine(plan), folder, [prompt_of(9), [5], prompt_of(4)], [NUM_TOKENS] * 3)


@pytest.mark.parametrize("precision", [
    {"draft_dtype": "bfloat16"}, {"draft_dtype": "float16", "draft_kv_dtype": "float32"}, {"draft_dtype": "int8"},
    {"draft_kv_dtype": "bfloat16"}, {"draft_kv_dtype": "float16"},
])  # fmt: skip
def test_the_drafts_precision_does_not_change_the_output(precision: dict[str, Any]) -> None:
    folder = variant("llama-gqa")
    plan = plan_for(folder, drafter="draft_model", draft=folder, num_speculative_tokens=4, batch_size=2, **precision)
    engine = Engine(plan)
    check_against_reference(engine, folder, [prompt_of(9), [5], prompt_of(4)], [NUM_TOKENS] * 3)
    assert (engine.stats.draft_acceptance_rate or 0) > 0.5


@pytest.mark.parametrize("precision", [
    {"dtype": "bfloat16"}, {"dtype": "float16"}, {"dtype": "int8"}, {"kv_dtype": "bfloat16"}, {"kv_dtype": "float16"},
    {"dtype": "bfloat16", "kv_dtype": "float32"}, {"dtype": "float16", "kv_dtype": "bfloat16"}, {"dtype": "int4"},
])  # fmt: skip
@pytest.mark.parametrize("drafter", ["ngram", "early_exit", "draft_model"])
def test_other_precisions_speculate_as_they_decode(drafter: str, precision: dict[str, Any]) -> None:
    """Half precision may differ at ties in the top two; the models here have none on these prompts."""
    folder = variant("qwen3-wide-heads")
    options: dict[str, Any] = {"draft": perturbed(folder, 0.02)} if drafter == "draft_model" else {}
    plain = Engine(plan_for(folder, drafter="none", **precision))
    plan = plan_for(folder, drafter=drafter, num_speculative_tokens=3, batch_size=2, **precision, **options)
    prompts = [prompt_of(9), [5], prompt_of(4)]
    assert serve(Engine(plan), prompts, 16) == serve(plain, prompts, 16)


# -------------------------------------------------------------------------------------------------- chat


def finish(engine: Engine, sequence: Sequence) -> list[int]:
    """Run a turn to its end."""
    found = list(engine.start(sequence, GREEDY))
    for tokens in engine.run_row(sequence, GREEDY):
        found += tokens
    assert found == sequence.new_tokens
    return found


@pytest.mark.parametrize("gamma", [1, 3, 8])
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_turns_of_a_chat(drafter: str, gamma: int) -> None:
    """Continue, repeat, shorten, branch off early, start over: always the reference of the whole prompt."""
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter, gamma)
    sequence = engine.open(prompt_of(9), 8)
    assert finish(engine, sequence) == reference_greedy(folder, prompt_of(9), 8)
    whole = list(sequence.tokens)
    turns = [
        whole + [3, 1, 4],
        whole + [3, 1, 4],
        whole[:-1] + [9],
        whole[:-2],
        whole[:9],
        whole[:4] + [100] + whole[5:] + [2],
        whole[:1],
        prompt_of(20, seed=9),
    ]
    for prompt in turns:
        engine.resume(sequence, prompt, 8)
        assert finish(engine, sequence) == reference_greedy(folder, prompt, 8)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_chat_goes_on_after_eos_cut_a_step(drafter: str) -> None:
    folder, prompt = eos_folder(4)
    engine = make_engine(folder, drafter, gamma=8)
    sequence = engine.open(prompt, NUM_TOKENS)
    assert finish(engine, sequence) == reference_greedy(folder, prompt, NUM_TOKENS)
    assert sequence.finish_reason == "stop"
    following = [*sequence.tokens, 8, 1]
    engine.resume(sequence, following, 12)
    assert finish(engine, sequence) == reference_greedy(folder, following, 12)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_chat_goes_on_after_an_interruption(drafter: str) -> None:
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter)
    sequence = engine.open(prompt_of(9), 20)
    engine.start(sequence, GREEDY)
    running = engine.run_row(sequence, GREEDY)
    next(running)
    running.close()  # type: ignore[attr-defined]
    following = [*sequence.tokens, 7]
    engine.resume(sequence, following, 12)
    assert finish(engine, sequence) == reference_greedy(folder, following, 12)


@pytest.mark.parametrize("drafter", SPECULATIVE)
def test_a_chat_with_turns_without_speculation(drafter: str) -> None:
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter)
    sequence = engine.open(prompt_of(9), 8)
    for speculating in (True, False, True, False, False, True):
        engine.set_speculating(speculating)
        assert finish(engine, sequence) == reference_greedy(folder, sequence.tokens[: sequence.num_prompt_tokens], 8)
        engine.resume(sequence, [*sequence.tokens[:-3], 6], 8)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_resuming_reads_only_what_is_new(drafter: str) -> None:
    engine = make_engine(variant("llama-gqa"), drafter)
    sequence = engine.open(prompt_of(9), 8)
    finish(engine, sequence)
    cached = len(sequence.tokens) - 1  # the last token has not been fed yet
    engine.resume(sequence, [*sequence.tokens, 3], 8)
    assert sequence.num_target_cached == cached
    assert drafter in ("none", "ngram") or sequence.num_draft_cached >= cached - 1


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_chats_in_different_rows_do_not_disturb_each_other(drafter: str) -> None:
    folder = variant("llama-gqa")
    engine = make_engine(folder, drafter, gamma=3, batch_size=2)
    chats = [engine.open(prompt_of(9), 6, row=0), engine.open(prompt_of(5), 6, row=1)]
    for _ in range(3):
        for chat in chats:
            assert finish(engine, chat) == reference_greedy(folder, chat.tokens[: chat.num_prompt_tokens], 6)
            engine.resume(chat, [*chat.tokens, 4], 6)


def test_a_chat_that_outgrows_the_context_is_refused() -> None:
    engine = make_engine(variant("llama-gqa"), "none", context=16)
    sequence = engine.open(prompt_of(9), 8)
    finish(engine, sequence)
    with pytest.raises(InputError, match="context"):
        engine.resume(sequence, [*sequence.tokens, 1], 4)
