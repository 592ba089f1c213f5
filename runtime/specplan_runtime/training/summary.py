"""What trained heads reach, for people and as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from specplan.acceptance_profiles import ALL
from specplan.planner.topology import best_tree
from specplan.speculation import Tree
from specplan.speed.acceptance import Acceptance
from specplan.speed.acceptance_counts import mean_accepted_length
from specplan.speed.head_counts import HeadTrace, accuracies, chain_tree, head_steps
from specplan_runtime.calibration.answers import TOPK
from specplan_runtime.training.options import Kind
from specplan_runtime.training.train import Trained

#: Nodes of the trees that are compared with chains.
_SIZES = (3, 4, 8, 16, 32, 64)


def replayed_length(traces: Sequence[HeadTrace], tree: Tree) -> float:
    """τ of a tree, replayed step by step.

    Raises:
        ValueError: answers too short for a single step.
    """
    return mean_accepted_length([step for trace in traces for step in head_steps(trace, tree)])


def to_data(trained: Trained) -> dict[str, Any]:
    """Plain values."""
    held_out, profile = trained.held_out, trained.profile
    found = accuracies(held_out, TOPK)
    acceptance = Acceptance.from_profile(profile)
    depth = len(profile.category(ALL).rank_rates)
    ranks = np.array(profile.category(ALL).rank_rates)
    chains = [{"num_speculative_tokens": n, "mean_accepted_length": replayed_length(held_out, chain_tree(n))}
              for n in range(1, len(found) + 1)]  # fmt: skip
    trees = []
    for size in _SIZES:
        tree = best_tree(ranks, size, depth)
        if tree.num_draft_nodes == size:
            trees.append({
                "num_draft_nodes": size,
                "depth": tree.depth,
                "mean_accepted_length": replayed_length(held_out, tree),
                "by_product_of_rates": float(acceptance.tree_accepted_lengths(tree)[-1]),
            })  # fmt: skip
    return {
        "folder": str(trained.folder),
        "num_tokens": trained.num_tokens,
        "held_out_answers": len(held_out),
        "held_out_tokens": sum(trace.num_tokens for trace in held_out),
        "accuracies": [list(each) for each in found],
        "chains": chains,
        "trees": trees,
    }


def to_text(trained: Trained) -> str:
    """Two tables."""
    data = to_data(trained)
    tops = (1, 2, 3, 5, TOPK)
    heads = [
        [_name(trained.kind, index), *(f"{100 * each[top - 1]:.1f} %" for top in tops)]
        for index, each in enumerate(data["accuracies"])
    ]
    shapes = [[f"chain, γ {each['num_speculative_tokens']}", f"{each['mean_accepted_length']:.3f}"]
              for each in data["chains"]]  # fmt: skip
    shapes += [[f"best tree, {each['num_draft_nodes']} nodes, depth {each['depth']}",
                f"{each['mean_accepted_length']:.3f}"] for each in data["trees"]]  # fmt: skip
    held_out = f"{data['held_out_tokens']} tokens of {data['held_out_answers']} answers that were held out"
    accuracy = tabulate(heads, ["token among the best", *map(str, tops)], "simple", colalign=_align(len(tops)))
    lengths = tabulate(shapes, ["drafted", "mean accepted length"], "simple", colalign=_align(1), disable_numparse=True)
    return f"Measured on {held_out}, of {data['num_tokens']} tokens of text\n\n{accuracy}\n\n{lengths}\n"


def _name(kind: Kind, index: int) -> str:
    """What is right or not: a head, or a step of one that goes on from its own states."""
    return f"head {index}, {index + 2} tokens on" if kind == "medusa" else f"step {index + 1}, earlier ones right"


def _align(columns: int) -> list[str]:
    return ["left", *["right"] * columns]
