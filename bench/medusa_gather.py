"""Generation memory of our tree decoding against Medusa's, traced on the same target, heads, tree and prompt.

    pip install --no-deps medusa-llm==0.1
    python -m bench.medusa_gather --model FILE --heads DIR [--choices 1,7,6]

Medusa's own prefill, tree decoding and greedy acceptance run around transformers' forward of the target. Release 0.1
drafts full trees: so many choices at every depth, the root's one first. Generation memory is everything beyond the
target's weights and the keys and values of the finished text: heads, further KV slots, constants, logits, workspace.
Theirs is as small as its code can be: a cache for this text only, heads that share the target's output head where ours
do, and no more heads than the tree is deep. Exits with 1 unless both outputs are that of plain decoding and ours takes
at least 65 % less than theirs in its later steps, where no logits of the prompt are alive.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from bench.answers import Answer, mean_accepted_length
from bench.medusa_code import CacheConfig, medusa_model, res_block
from bench.ours import Seat, Setting, every_operator, placed_bytes
from bench.questions import EDIT
from bench.reference import generate, load_reference
from specplan.models.resolve import resolve_model
from specplan.plan import Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.speculation import Tree
from specplan_runtime.text import Tokenizer
from specplan_runtime.tracing.tracker import StorageTracker

_BAR = 0.65


@dataclass(frozen=True, slots=True)
class Traced:
    """What one implementation did.

    Attributes:
        tokens: generated.
        accepted_length: τ.
        first_bytes: generation memory at the peak of prompt and first step.
        later_bytes: at that of the steps after it.
    """

    tokens: tuple[int, ...]
    accepted_length: float
    first_bytes: int
    later_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Of both."""
        return max(self.first_bytes, self.later_bytes)


def full_tree(choices: Sequence[int]) -> Tree:
    """Every combination of the best tokens at each depth, the root's own choice left out."""
    depths = [itertools.product(*(range(number) for number in choices[1:end])) for end in range(2, len(choices) + 1)]
    return Tree(tuple(path for paths in depths for path in paths))


def plan_of_tree(model: str, heads: str, tree: Tree, context: int) -> Plan:
    """Our plan for it."""
    question = ask(model=model, heads=heads, gpu="local", drafter="medusa", dtype="float32", context=context)
    plan = analyze(dataclasses.replace(question, tree=tree, num_draft_nodes=tree.num_draft_nodes))
    assert isinstance(plan, Plan), "the plan does not fit this machine"
    return plan


def trace_ours(plan: Plan, prompt: list[int], tokens: int) -> tuple[Traced, Seat]:
    """Our arena without the target's weights and the text's keys and values, and what operators create beside it."""
    seat = Seat(plan, ())
    seat.choose(Setting("medusa", plan.speculation.shape))
    with every_operator(), StorageTracker() as tracker:
        answer = seat.answer(prompt, tokens)
    beyond = placed_bytes(plan, ("target",)) - _text_bytes(plan, len(prompt) + tokens)
    size = beyond + int(tracker.peak_bytes)
    return Traced(answer.tokens, mean_accepted_length([answer]) or 1.0, size, size), seat


def _text_bytes(plan: Plan, num_tokens: int) -> int:
    """Keys and values of so many tokens in float32."""
    arch = plan.inputs.target.arch
    return num_tokens * 2 * arch.num_hidden_layers * arch.num_key_value_heads * arch.head_dim * 4


class _Cache:
    """Medusa's cache with the methods that transformers' layers call."""

    def __init__(self, pairs: list[Any]) -> None:
        self._pairs = pairs

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Append to the keys and values of a layer; returns all of them."""
        own_keys, own_values = self._pairs[layer]
        return own_keys.cat(keys, dim=2), own_values.cat(values, dim=2)

    def get_seq_length(self, *_: Any) -> int:
        """Tokens that are cached."""
        return int(self._pairs[0][0].current_length)


class _Body:
    """Transformers' layers in the place of Medusa's copy of them."""

    def __init__(self, layers: Any) -> None:
        self._layers = layers
        self.medusa_mask: torch.Tensor | None = None
        self.medusa_mode = None

    def __call__(
        self, input_ids: torch.Tensor, past_key_values: list[Any], position_ids: torch.Tensor | None, **_: Any
    ) -> tuple[torch.Tensor]:
        cache, rows = _Cache(past_key_values), input_ids.shape[1]
        known = cache.get_seq_length()
        mask = torch.ones(rows, known + rows, dtype=torch.bool)
        if self.medusa_mask is None:
            mask.tril_(known)
        else:
            mask[:, known:] = self.medusa_mask[0, 0] > 0
        positions = torch.arange(known, known + rows) if position_ids is None else position_ids
        states = self._layers(
            input_ids=input_ids, position_ids=positions[None], attention_mask=mask[None, None], past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        return (states.last_hidden_state,)


def trace_theirs(target: Any, seat: Seat, plan: Plan, choices: list[int], prompt: list[int], tokens: int) -> Traced:
    """Medusa's code on the numbers of our heads."""
    arch, context = plan.inputs.target.arch, len(prompt) + tokens
    rows = plan.speculation.shape.num_verify_tokens
    kv_heads = arch.num_key_value_heads
    config = CacheConfig(arch.num_hidden_layers, kv_heads, context + rows, kv_heads * arch.head_dim)
    model = medusa_model(_Body(target.model), target.lm_head, _heads_of(seat, target.lm_head), config)
    steps = model.medusa_generate(torch.tensor([prompt]), temperature=0.0, medusa_choices=choices)
    found: list[list[int]] = []
    with torch.no_grad(), StorageTracker() as tracker:
        with tracker.phase("first") as first:
            found.append(next(steps)["text"])
        with tracker.phase("later") as later:
            while len(found[-1]) < tokens:
                found.append(next(steps)["text"])
    answer = Answer(tuple(found[-1]), 0.0, 0.0, len(found[0]), len(found) - 1)
    beyond = _head_bytes(seat) - _text_bytes(plan, context)
    length = mean_accepted_length([answer]) or 1.0
    return Traced(answer.tokens[:tokens], length, first.peak_bytes + beyond, later.peak_bytes + beyond)


def _head_bytes(seat: Seat) -> int:
    """The heads' own weights."""
    return sum(tensor.nbytes for tensor in seat.medusa.weight_tensors())


def _heads_of(seat: Seat, shared: nn.Linear) -> nn.ModuleList:
    """Our heads as modules of theirs over the same memory."""
    medusa = seat.medusa
    heads = nn.ModuleList()
    for head in medusa.heads:
        blocks = [res_block(shared.in_features) for _ in head.blocks]
        for theirs, ours in zip(blocks, head.blocks, strict=True):
            theirs.load_state_dict({"linear.weight": ours.weight, "linear.bias": ours.bias}, assign=True)
        out = shared
        if not medusa.shares_head:
            out = nn.Linear(shared.in_features, shared.out_features, bias=False, device="meta")
            out.load_state_dict({"weight": head.head.weight}, assign=True)
        heads.append(nn.Sequential(*blocks, out))
    return heads


def main() -> int:
    """Print both, and hold them against the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--heads", required=True)
    parser.add_argument("--choices", default="1,7,6")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    choices = [int(part) for part in options.choices.split(",")]
    target = resolve_model(options.model)
    prompt = Tokenizer(target).encode_prompt(EDIT, raw=False)
    tree = full_tree(choices)
    plan = plan_of_tree(options.model, options.heads, tree, len(prompt) + options.tokens)
    ours, seat = trace_ours(plan, prompt, options.tokens)
    reference = load_reference(target, torch.float32)
    plain = generate(reference, prompt, options.tokens).tokens
    theirs = trace_theirs(reference, seat, plan, choices, prompt, options.tokens)
    found, weights = {"Medusa's code": theirs, "specplan": ours}, _head_bytes(seat)
    rows = [
        [
            name, f"{weights / 1e6:.2f}", f"{t.first_bytes / 1e6:.2f}", f"{t.later_bytes / 1e6:.2f}",
            f"{1 - t.peak_bytes / theirs.peak_bytes:.1%}", f"{1 - t.later_bytes / theirs.later_bytes:.1%}",
            f"{t.accepted_length:.2f}", "yes" if t.tokens == plain else "NO",
        ]
        for name, t in found.items()
    ]  # fmt: skip
    headers = [
        "",
        "heads, MB",
        "prompt and first step, MB",
        "later steps, MB",
        "less",
        "less in later steps",
        "τ",
        "plain output",
    ]
    print(f"{Path(options.model).name}, float32, {tree.num_draft_nodes} nodes, depth {tree.depth}, prompt of "
          f"{len(prompt)} tokens, {options.tokens} generated\n")  # fmt: skip
    print(tabulate(rows, headers, "github", disable_numparse=True))
    saved = 1 - ours.later_bytes / theirs.later_bytes
    return 0 if saved >= _BAR and all(t.tokens == plain for t in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
