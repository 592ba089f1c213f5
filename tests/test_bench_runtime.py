"""What bench.runtime and bench.batches compare, on models of a few thousand weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import batches, runtime
from bench.answers import Answer, decode_tokens_per_s, mean_accepted_length, tokens_per_s
from bench.batches_report import BatchLine
from bench.contenders import Contender, Trial, contenders, peak_bytes
from bench.medusa_gather import full_tree
from bench.ours import Models, plan_of
from bench.questions import BUILT_IN, questions
from bench.reference import load_reference
from bench.runtime_report import Rounds, Spread, lines_of
from specplan.errors import InputError, UnsupportedError
from specplan.models.resolve import resolve_model
from specplan.plan import Plan
from specplan.provenance import Figure
from specplan_runtime.text import Tokenizer
from tests.cli_helpers import llama_folder
from tests.head_helpers import heads_folder, medusa_tensors
from tests.runtime_helpers import checkpoint, prompt_of, reference_greedy, reference_model

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
PROMPT = prompt_of(9) * 2
TOKENS = 13


@pytest.fixture(scope="module")
def everyone(tmp_path_factory: pytest.TempPathFactory) -> list[Contender]:
    """The target drafts for itself, so that a chain is always right; random heads hardly ever are."""
    folder = str(checkpoint("llama"))
    heads = heads_folder(tmp_path_factory.mktemp("heads"), medusa_tensors(3), medusa_num_heads=3)
    models = Models(folder, folder, str(heads))
    return contenders(Trial(models, len(PROMPT) + TOKENS, (2, 3), 5, ()))


def named(everyone: list[Contender], side: str, method: str, numbers: str) -> Contender:
    (found,) = [c for c in everyone if (c.side, c.method, c.numbers) == (side, method, numbers)]
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("tied", [False, True])
def test_reference_model_has_the_numbers_of_the_files(family: str, tied: bool) -> None:
    folder = checkpoint(family, tie_word_embeddings=tied)
    theirs, expected = load_reference(resolve_model(str(folder)), torch.float32), reference_model(folder)
    tokens = torch.tensor([PROMPT])
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, expected(tokens).logits)
    assert (
        theirs.get_output_embeddings().weight.data_ptr() == theirs.get_input_embeddings().weight.data_ptr() or not tied
    )


def test_families_whose_forward_is_not_spelled_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="compare llama"):
        load_reference(resolve_model(str(checkpoint("gemma2"))), torch.float32)


def test_everyone_gives_the_same_tokens(everyone: list[Contender]) -> None:
    expected = tuple(reference_greedy(checkpoint("llama"), PROMPT, TOKENS))
    methods = set()
    for contender in everyone:
        contender.begin()
        answer = contender.answer(PROMPT, TOKENS)
        assert answer.tokens == expected, contender
        assert 0 < answer.first_s < answer.seconds
        methods.add(contender.family)
    ours = ("plain", "draft_model", "draft_model, adaptive", "ngram", "ngram, adaptive")
    over_heads = ("medusa, tree", "medusa, tree, adaptive", "medusa")
    theirs = ("plain", "prompt lookup", "assisted")
    assert methods == {("specplan", name) for name in ours + over_heads} | {("transformers", name) for name in theirs}


@pytest.mark.parametrize(("side", "method", "first"), [("specplan", "draft_model", 1), ("transformers", "assisted", 3)])
def test_accepted_lengths_are_counted_alike(everyone: list[Contender], side: str, method: str, first: int) -> None:
    """A draft that is the target is always right: every step but the first and the last emits γ + 1."""
    contender = named(everyone, side, method, "γ 2")
    contender.begin()
    answer = contender.answer(PROMPT, first + 9)
    assert (answer.num_first, answer.num_steps) == (first, 3)
    assert mean_accepted_length([answer]) == 3.0


def test_plain_decoding_takes_a_step_for_each_token(everyone: list[Contender]) -> None:
    for side in ("specplan", "transformers"):
        contender = named(everyone, side, "plain", "")
        contender.begin()
        answer = contender.answer(PROMPT, TOKENS)
        assert (answer.num_first, answer.num_steps) == (1, TOKENS - 1)


def test_texts_end_where_both_sides_are_told_to() -> None:
    folder = checkpoint("llama")
    full = reference_greedy(folder, PROMPT, TOKENS)
    stop = (full[4],)
    end = full.index(stop[0]) + 1
    found = contenders(Trial(Models(str(folder)), len(PROMPT) + TOKENS, (2,), None, stop))
    for contender in found:
        contender.begin()
        assert list(contender.answer(PROMPT, TOKENS).tokens) == full[:end], contender


def draft_plan() -> Plan:
    """The plan of the contender that drafts three tokens with a model."""
    folder = str(checkpoint("llama"))
    return plan_of(Models(folder, folder), "draft_model", len(PROMPT) + TOKENS, gamma=3)


def test_placed_bytes_are_those_of_the_ledger_without_weights(everyone: list[Contender]) -> None:
    items = draft_plan().ledger.owned_items()
    others = sum(i.bytes for i in items if "weight" in i.name or i.name == "kernel_output")
    placed = draft_plan().ledger.owned_bytes - others
    assert named(everyone, "specplan", "draft_model", "γ 3").placed_bytes == placed


def test_traced_peaks_can_be_repeated_and_hold_the_keys_and_values(everyone: list[Contender]) -> None:
    arch = resolve_model(str(checkpoint("llama"))).arch
    per_token = 2 * arch.num_hidden_layers * arch.num_key_value_heads * arch.head_dim * 4
    for contender in everyone:
        size = peak_bytes(contender, PROMPT, TOKENS)
        assert size == peak_bytes(contender, PROMPT, TOKENS)
        assert size > per_token * (len(PROMPT) + TOKENS - 1)
        if contender.side == "specplan":  # the arena is all there is, but for kernels and what a drafter looks up
            assert size - contender.placed_bytes < 4096 + draft_plan().ledger.by_name()["kernel_output"].bytes


def answer_of(num_tokens: int, seconds: float, num_steps: int = 3, token: int = 1) -> Answer:
    return Answer((token,) * num_tokens, seconds, seconds / 2, 1, num_steps)


def test_speeds_of_several_answers() -> None:
    answers = [answer_of(10, 2.0), answer_of(30, 2.0, num_steps=7)]
    assert tokens_per_s(answers) == 10.0
    assert decode_tokens_per_s(answers) == 19.0
    assert mean_accepted_length(answers) == 3.8
    assert decode_tokens_per_s([answer_of(1, 1.0, num_steps=0)]) is None


def test_quartiles() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 5.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratios_are_those_within_rounds_to_their_fastest() -> None:
    def rounds(side: Any, method: str, seconds: list[float], token: int = 1) -> Rounds:
        return Rounds("code", side, method, "", 100, [[answer_of(12, s, token=token)] for s in seconds])

    lines = lines_of([
        rounds("specplan", "plain", [2.0, 4.0, 2.0]),
        rounds("specplan", "ngram", [1.0, 2.0, 1.0], token=2),
        rounds("transformers", "plain", [4.0, 8.0, 4.0]),
        rounds("transformers", "assisted", [3.0, 6.0, 3.0]),
    ])  # fmt: skip
    by_name = {(line.side, line.method): line for line in lines}
    ngram = by_name["specplan", "ngram"]
    assert ngram.to_their_best == Spread(3.0, 3.0, 3.0)  # assisted, also in the slow round
    assert ngram.to_our_plain == Spread(2.0, 2.0, 2.0)
    assert ngram.same_tokens == (0, 1)
    assert ngram.tokens_per_s == Spread(12.0, 9.0, 12.0)
    assert by_name["transformers", "plain"].same_tokens == (1, 1)
    assert {line.category for line in lines} == {"code"}


def test_all_categories_together_beside_the_best_of_each() -> None:
    def rounds(category: str, side: Any, method: str, seconds: float) -> Rounds:
        return Rounds(category, side, method, category, int(seconds), [[answer_of(10, seconds)]] * 2)

    found = {
        ("specplan", "plain"): (2.0, 4.0),
        ("transformers", "plain"): (1.0, 5.0),
        ("transformers", "x"): (9.0, 3.0),
    }
    measured = [
        rounds(category, *name, seconds[index])
        for index, category in enumerate("ab")
        for name, seconds in found.items()
    ]
    together = [line for line in lines_of(measured) if line.category == "all"]
    assert [line.num_tokens for line in together] == [20, 20, 20]
    assert [line.tokens_per_s.median for line in together] == pytest.approx([20 / 6, 20 / 6, 20 / 12])
    assert together[0].to_their_best.median == pytest.approx(4 / 6)  # plain in a, x in b
    assert (together[0].numbers, together[0].peak_bytes) == ("a, b", 4)


def test_the_fastest_numbers_of_each_method_go_on(everyone: list[Contender]) -> None:
    seconds = {"γ 2": 2.0, "γ 3": 1.0}
    kept = runtime.fastest([(c, [answer_of(5, seconds.get(c.numbers, 1.0))]) for c in everyone])
    assert len(kept) == 11
    assert "γ 2" not in {contender.numbers for contender in kept}


def test_questions_by_category(tmp_path: Path) -> None:
    tokenizer = Tokenizer(resolve_model(str(llama_folder(tmp_path / "model", TEMPLATE))))
    file = tmp_path / "prompts.jsonl"
    lines: list[dict[str, Any]] = [
        {"category": "x", "turns": ["a b c", "d"]},
        {"category": "x", "prompt": "a b c d e f"},
        {"category": "x", "prompt": "a b"},
        {"category": "x", "prompt": "c"},
        {"prompt": "d"},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    found = questions(file, tokenizer, 2, 4)
    assert [(q.category, len(q.tokens)) for q in found] == [("x", 3), ("x", 2), ("prompts", 1)]
    assert {q.category for q in questions(None, tokenizer, 1, 9999)} == {category for category, _ in BUILT_IN}
    with pytest.raises(InputError, match="none of these categories"):
        questions(file, tokenizer, 2, 4, only=("y",))


def run_main(monkeypatch: pytest.MonkeyPatch, module: Any, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *map(str, arguments)])
    module.main()


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("worded"), TEMPLATE)


def test_bench_runtime_prints_a_table_and_draws(
    worded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", worded, "--tokens", 6, "--gammas", "2,3", "--repeats", 2, "--categories", "story,edit")
    run_main(monkeypatch, runtime, *common, "--plot", tmp_path / "speeds.svg")
    out = capsys.readouterr().out
    assert out.count("| story ") == out.count("| all ") == 5
    assert "transformers " in out
    assert "<svg" in (tmp_path / "speeds.svg").read_text()
    run_main(monkeypatch, runtime, *common, "--format", "json")
    data = json.loads(capsys.readouterr().out)
    assert data["conditions"]["num_prompts"] == 2
    assert all(line["same_tokens"][0] == line["same_tokens"][1] for line in data["lines"])


def test_bench_batches_prints_what_the_planner_says(
    worded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", worded, "--tokens", 6, "--adaptive-tokens", 8, "--repeats", 1, "--requests", 3)
    run_main(monkeypatch, batches, *common, "--batches", "1,2", "--format", "json")
    data = json.loads(capsys.readouterr().out)
    assert [line["batch_size"] for line in data["batches"]] == [1, 2]
    assert data["batches"][0]["plain_said"]["source"] == "modelled"
    assert [line["speculation"].split()[0].strip(",") for line in data["adaptive"]] == ["early_exit", "ngram"]
    run_main(monkeypatch, batches, *common, "--only", "adaptive")
    assert "planned unadapted" in capsys.readouterr().out
    run_main(monkeypatch, batches, *common, "--batches", "2", "--only", "batches")
    assert "batch 2 to batch 2: plain 1.00x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "measured", "right"),
    [(1.2, 1.01, True), (1.2, 0.96, True), (1.2, 0.94, False), (0.9, 1.04, True), (0.9, 1.06, False), (0.9, 0.5, True)],
)
def test_the_planner_is_right_within_five_percent(said: float, measured: float, right: bool) -> None:
    def spread(value: float) -> Spread:
        return Spread(value, value, value)

    plain, drafted = Figure(10.0, "modelled", "x"), Figure(10.0 * said, "modelled", "x")
    line = BatchLine(1, "ngram", 1.5, spread(10.0), plain, spread(10.0 * measured), drafted, spread(measured))
    assert line.pays == (said > 1)
    assert line.right == right


def test_full_trees() -> None:
    tree = full_tree([1, 2, 3])
    assert tree.nodes == ((0,), (1,), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert (tree.depth, tree.topk) == (2, 3)
