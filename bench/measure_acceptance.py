"""Acceptance profiles of real pairs, and of Medusa's published head accuracies: writes profiles/acceptance/*.json.

    python -m bench.measure_acceptance pair --target FILE --drafter ngram --questions FILE --outputs FILE
    python -m bench.measure_acceptance pair --target FILE --drafter early_exit --questions FILE --outputs FILE
    python -m bench.measure_acceptance pair --target FILE --draft FILE --drafter draft_model --questions FILE ...
    python -m bench.measure_acceptance medusa --accuracies FILE

``pair`` decodes the first questions of each category greedily (kept in --outputs, for the next drafter), lets the
drafter rank the tokens of these outputs, and replays steps. It prints what the profile's rates predict beside replays:
the positions of one chain for others, and ranks for trees. ``medusa`` reads cumulative top-k accuracies by head.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from bench import acceptance_traces as traces
from specplan.acceptance_profiles import (
    ALL,
    SCHEMA_VERSION,
    AcceptanceProfile,
    CategoryAcceptance,
    Conditions,
    decode_acceptance,
)
from specplan.atomic import write_atomically
from specplan.models.known import bundled_name
from specplan.models.resolve import resolve_model
from specplan.plan import ModelInput
from specplan.planner.topology import best_tree
from specplan.provenance import Figure
from specplan.speculation import Drafter
from specplan.speed.acceptance import Acceptance
from specplan.speed.acceptance_counts import (
    Step,
    Trace,
    count_chains,
    count_steps,
    mean_accepted_length,
    replay,
    tree_steps,
)
from specplan.strict import encode
from specplan_runtime.drafters.ngram import NgramDrafter
from specplan_runtime.sampling import SamplingParams
from specplan_runtime.sequence import Sequence as TokenSequence
from specplan_runtime.text import Tokenizer

PROFILES = Path(__file__).parent.parent / "profiles" / "acceptance"
#: The chain whose positions a profile tells, and the longest that is replayed.
GAMMA, MAX_GAMMA = 8, 16
#: Ranks that a profile keeps.
TOPK = 10
_DECIMALS = 6


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=PROFILES)
    commands = parser.add_subparsers(dest="command", required=True)
    pair = commands.add_parser("pair")
    pair.add_argument("--target", required=True)
    pair.add_argument("--draft")
    pair.add_argument("--drafter", required=True, choices=("ngram", "early_exit", "draft_model"))
    pair.add_argument("--questions", type=Path, required=True, help="Spec-Bench's question.jsonl")
    pair.add_argument("--outputs", type=Path, required=True, help="where the target's outputs are kept")
    pair.add_argument("--per-category", type=int, default=4)
    pair.add_argument("--max-new-tokens", type=int, default=128)
    pair.add_argument("--max-prompt-tokens", type=int, default=1000)
    pair.add_argument("--batch-size", type=int, default=13)
    pair.add_argument("--dtype", default="float32")
    medusa = commands.add_parser("medusa")
    medusa.add_argument("--accuracies", type=Path, required=True)
    return parser.parse_args()


def outputs_of(options: argparse.Namespace, target: ModelInput) -> list[traces.Output]:
    """The target's greedy outputs: those that were kept, or new ones, which are kept then."""
    if options.outputs.exists():
        return traces.load(options.outputs)
    asked = traces.questions(options.questions, Tokenizer(target), options.per_category, options.max_prompt_tokens)
    found = traces.greedy_outputs(options.target, asked, options.max_new_tokens, options.batch_size, options.dtype)
    traces.save(options.outputs, found)
    return found


def ngram_steps(outputs: list[traces.Output], gamma: int) -> list[Step]:
    """Replay the runtime's own prompt lookup over known outputs."""
    steps: list[Step] = []
    for output in outputs:
        drafter, tokens = NgramDrafter(1), output.tokens

        def accept(start: int, drafter: NgramDrafter = drafter, output: traces.Output = output) -> tuple[bool, int]:
            sequence = TokenSequence(0, output.prompt + output.tokens[:start], len(output.prompt), len(output.tokens))
            (proposal,) = drafter.propose([sequence], [gamma], SamplingParams())
            right = list(map(int.__eq__, proposal, output.tokens[start:]))
            return bool(proposal), right.index(False) if False in right else len(right)

        steps += replay(len(tokens), output.finished, gamma, accept)
    return steps


def by_category(outputs: list[traces.Output], values: Sequence[Any]) -> dict[str, list[Any]]:
    """What belongs to the outputs of each category, and to all of them."""
    names = dict.fromkeys(output.category for output in outputs)
    groups: dict[str, list[Any]] = {ALL: list(values)}
    for name in names:
        groups[name] = [value for output, value in zip(outputs, values, strict=True) if output.category == name]
    return groups


def measure(options: argparse.Namespace) -> tuple[AcceptanceProfile, list[list[Any]]]:
    """A profile, and what it predicts beside replays."""
    target, drafter = resolve_model(options.target), options.drafter
    draft = resolve_model(options.draft) if drafter == "draft_model" else None
    layers = target.arch.num_hidden_layers // 2 if drafter == "early_exit" else None
    outputs = outputs_of(options, target)
    rows: list[list[Any]] = []
    categories: dict[str, CategoryAcceptance] = {}
    if drafter == "ngram":
        for name, group in by_category(outputs, outputs).items():
            steps = {gamma: ngram_steps(group, gamma) for gamma in range(1, MAX_GAMMA + 1)}
            categories[name] = count_steps(steps, GAMMA)
            rows.append(_row(name, categories[name]))
    else:
        seen = traces.draft_traces(options.draft if draft else options.target, outputs, options.dtype, layers)
        for name, group in by_category(outputs, seen).items():
            categories[name] = count_chains(group, GAMMA, MAX_GAMMA, TOPK)
            rows.append(_row(name, categories[name]))
        rows += _tree_rows(categories[ALL], seen)
    return _profile(target, draft, layers, outputs, options, categories), rows


def _row(name: str, category: CategoryAcceptance) -> list[Any]:
    by_position = 1 + sum(category.accepted_per_step[:4])
    return [f"{name}, chain of 4", category.num_steps, by_position, category.accepted_lengths[3]]


def _tree_rows(category: CategoryAcceptance, seen: list[Trace]) -> list[list[Any]]:
    found: list[list[Any]] = []
    alpha = Figure(0.0, "measured", "not told")
    rates = Acceptance(alpha, category.accepted_per_step, rank_rates=category.rank_rates)
    for num_nodes in (8, 16, 32, 64):
        tree = best_tree(rates.ranks(GAMMA, TOPK), num_nodes)
        steps = [step for trace in seen for step in tree_steps(trace, tree)]
        title, predicted = f"all, tree of {num_nodes}, depth {tree.depth}", rates.tree_accepted_lengths(tree)[-1]
        found.append([title, len(steps), float(predicted), mean_accepted_length(steps)])
    return found


def _profile(
    target: ModelInput, draft: ModelInput | None, layers: int | None, outputs: list[traces.Output],
    options: argparse.Namespace, categories: dict[str, CategoryAcceptance],
) -> AcceptanceProfile:  # fmt: skip
    drafter: Drafter = options.drafter
    target_name, draft_name = _name(target), None if draft is None else _name(draft)
    models = [target] if draft is None else [target, draft]
    per_category = max(sum(o.category == name for o in outputs) for name in categories)
    longest = max(len(output.tokens) for output in outputs)
    return AcceptanceProfile(
        SCHEMA_VERSION,
        f"{target_name}-{draft_name or drafter.replace('_', '-')}",
        (),
        target_name,
        None,
        drafter,
        draft_name,
        None,
        layers,
        "measured",
        f"bench.measure_acceptance: steps replayed over the target's greedy output; positions and ranks at γ {GAMMA}",
        Conditions(
            f"Spec-Bench, first turns: the first {per_category} questions of each category with at most "
            f"{options.max_prompt_tokens} tokens, chat template, at most {longest} new tokens",
            len(outputs),
            sum(len(output.tokens) for output in outputs),
            "; ".join(f"{_name(model)}: {_formats(model)}" for model in models),
            options.dtype,
            "greedy",
        ),
        categories,
    )


def _name(model: ModelInput) -> str:
    return bundled_name(model) or Path(model.reference).name


def _formats(model: ModelInput) -> str:
    stored = model.arch.stored
    return str(model.arch.dtype) if stored is None else ", ".join(held.format.name for held in stored.formats)


def medusa_profiles(accuracies: Any) -> list[AcceptanceProfile]:
    """Cumulative top-k accuracies of heads as rates by rank; a chain takes the best token of each head.

    Head 0 predicts the token after next: the next one comes from the target itself, so head i proposes depth i + 1.
    """
    found = []
    for model, entry in accuracies["models"].items():
        heads = np.array(entry["cumulative_topk_accuracy_per_head"])
        ranks = np.round(np.diff(heads, prepend=0.0), _DECIMALS)
        chain = np.round(np.cumprod(heads[:, 0]), _DECIMALS)
        category = CategoryAcceptance((), tuple(chain.tolist()), 1.0, tuple(map(tuple, ranks.tolist())), None)
        conditions = Conditions(
            "Medusa's training data at the end of training", None, None, None, None, "teacher-forced"
        )
        found.append(
            AcceptanceProfile(
                SCHEMA_VERSION, f"{model}-medusa", (), model, None, "medusa", None, None, None, "published",
                f"{accuracies['source']}; heads taken as independent", conditions, {ALL: category},
            )
        )  # fmt: skip
    return found


def write(profile: AcceptanceProfile, folder: Path) -> None:
    """Write a profile that its reader accepts; lists of numbers stay on one line."""
    data = encode(profile)
    path = folder / f"{profile.name}.json"
    decode_acceptance(data, str(path))
    folder.mkdir(exist_ok=True)
    categories = data.pop("categories")
    head = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)[:-2]
    lines = [f"    {json.dumps(name)}: {json.dumps(rates, sort_keys=True)}" for name, rates in categories.items()]
    write_atomically(path, f'{head},\n  "categories": {{\n' + ",\n".join(lines) + "\n  }\n}\n")
    print(f"wrote {path}")


def main() -> None:
    """Write the profiles, and print for a pair what they predict beside replays."""
    options = arguments()
    if options.command == "medusa":
        for profile in medusa_profiles(json.loads(options.accuracies.read_text())):
            write(profile, options.to)
        return
    profile, rows = measure(options)
    write(profile, options.to)
    print(tabulate(rows, ["", "steps", "τ from positions or ranks", "τ replayed"], floatfmt=".3f"))


if __name__ == "__main__":
    main()
