"""Plain and Medusa decoding of Llama-2-70B over eight MI250: the paper's even stages, then any split, all modelled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from tabulate import tabulate

from specplan.acceptance_profiles import bundled_acceptance
from specplan.devices.bundled import device_profile
from specplan.formulas.memory import MemoryModel
from specplan.heads import MedusaHeads
from specplan.models.resolve import resolve_model
from specplan.parallel.ranks import even_layers, rank_scenarios
from specplan.parallelism import Parallelism
from specplan.plan import ModelInput, Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.scenario import Scenario
from specplan.speculation import Chain, Speculation, Tree
from specplan.speed.acceptance import Acceptance
from specplan.speed.parallel import SpreadTimer
from specplan.trees import find_tree
from specplan.workload import Workload

NUM_DEVICES, CONTEXT, BATCHES = 8, 2048, (1, 2, 4, 8, 10)
SEARCHED_BATCHES = (1, 2, 4, 8, 10, 16, 32, 64)
#: Tokens/s in all of the paper: SpecMemo, and plain decoding.
PAPER = {1: (5.7, None), 2: (14.5, None), 4: (28.8, 14.2), 8: (41.6, None), 10: (46.0, 29.8)}
#: No accuracies of heads for Llama-2-70B are published: those of the largest Vicuna stand in, so they are assumed.
ACCEPTANCE = "vicuna-33b-v1.3-medusa"


@dataclass(frozen=True, slots=True)
class Point:
    """One way of decoding at one batch size.

    Attributes:
        step_s: of a step: stages, transfers, heads.
        tokens_per_s: in all.
        last_device_bytes: of the device with the output head and the drafter's heads.
        middle_device_bytes: of a device with layers only.
    """

    step_s: float
    tokens_per_s: float
    last_device_bytes: int
    middle_device_bytes: int


@cache
def target() -> ModelInput:
    """Llama-2-70B."""
    return resolve_model("llama-2-70b-chat")


def parallelism() -> Parallelism:
    """The paper's: layers split evenly, one stage after the other, the heads in the last one."""
    layers = even_layers(target().arch.num_hidden_layers, NUM_DEVICES)
    return Parallelism(1, layers, draft_rank=NUM_DEVICES - 1)


def scenario(batch_size: int, tree: Tree | None) -> Scenario:
    """The whole model with as many heads as a tree is deep; plain decoding without a tree."""
    half = "float16"
    workload = Workload(CONTEXT, batch_size, half, half, half, half, CONTEXT // 2)
    rows = batch_size * (tree.num_verify_tokens if tree else 1)
    shape = tree or Chain(0)
    speculation = Speculation("medusa" if tree else "none", shape, 0, 256, max(2, rows))
    heads = MedusaHeads(tree.depth, 1, shares_head=False, topk=tree.topk) if tree else None
    return Scenario(target().arch, None, device_profile("mi250"), workload, speculation, heads)


def ranks(whole: Scenario) -> tuple[Scenario, ...]:
    """Every device's share."""
    return rank_scenarios(whole, parallelism(), [whole.device] * NUM_DEVICES)


def step_seconds(whole: Scenario) -> float:
    """All stages, the transfers between them, the output head, and the drafter's heads on the last device."""
    speculation = whole.speculation
    timer = SpreadTimer(whole, parallelism(), ranks(whole))
    knobs = np.array([speculation.num_draft_nodes]), np.array([speculation.logits_rows])
    return float(timer.step_seconds(*knobs)[0])


def speed(batch_size: int, tree: Tree | None, acceptance: Acceptance) -> tuple[float, float]:
    """Seconds of a step, and tokens/s of all sequences."""
    seconds = step_seconds(scenario(batch_size, tree))
    accepted = float(acceptance.tree_accepted_lengths(tree)[-1]) if tree else 1.0
    return seconds, batch_size * accepted / seconds


def point(batch_size: int, tree: Tree | None, acceptance: Acceptance) -> Point:
    """Modelled speed and memory."""
    peaks = [MemoryModel(rank).ledger().peak_bytes for rank in ranks(scenario(batch_size, tree))]
    return Point(*speed(batch_size, tree, acceptance), peaks[-1], peaks[1])


def best_tree(batch_size: int, tree: Tree, acceptance: Acceptance) -> Tree:
    """The first nodes of a tree that are fastest at one batch size, with as many heads as they need."""
    pruned = (tree.pruned(nodes) for nodes in range(1, tree.num_draft_nodes + 1))
    return max(pruned, key=lambda each: speed(batch_size, each, acceptance)[1])


def weight_stream_seconds() -> float:
    """A pass that does nothing but move the weights at the peak bandwidth: no implementation can be faster."""
    whole = scenario(1, None)
    embedding = whole.target.num_head_elements * 2  # of which a pass reads a few rows
    weights = MemoryModel(whole).ledger().by_name()["target.weights"].bytes - embedding
    return weights / whole.device.memory_bandwidth_bytes_per_s.value


@cache
def searched(batch_size: int, drafter: str, tensor_parallel: int | None = None) -> Plan:
    """The planner's answer for one batch size over every split, or over those of one tensor-parallel size."""
    question = ask(
        model=target(), gpu="mi250", num_gpus=NUM_DEVICES, drafter=drafter, batch_size=batch_size, context=CONTEXT,
        prompt_tokens=CONTEXT // 2, new_tokens=CONTEXT // 2, tensor_parallel=tensor_parallel,
        acceptance=ACCEPTANCE if drafter == "medusa" else None,
    )  # fmt: skip
    plan = analyze(question)
    assert isinstance(plan, Plan)
    return plan


def print_70b() -> None:
    """Both ways of decoding at the paper's batch sizes, beside its figures; then what the planner would do."""
    tree, acceptance = find_tree("specmemo-44"), Acceptance.from_profile(bundled_acceptance(ACCEPTANCE))
    accepted = float(acceptance.tree_accepted_lengths(tree)[-1])
    table = []
    for batch_size, (paper_spec, paper_plain) in PAPER.items():
        plain, spec = point(batch_size, None, acceptance), point(batch_size, tree, acceptance)
        best = best_tree(batch_size, tree, acceptance)
        fastest = point(batch_size, best, acceptance)
        table.append([
            batch_size, f"{plain.step_s * 1e3:.0f}", f"{spec.step_s * 1e3:.0f}",
            f"{plain.tokens_per_s:.1f}", f"{spec.tokens_per_s:.1f}", f"{spec.tokens_per_s / plain.tokens_per_s:.2f}",
            f"{best.num_draft_nodes} / {best.depth}", f"{fastest.tokens_per_s:.1f}",
            f"{fastest.tokens_per_s / plain.tokens_per_s:.2f}",
            paper_plain or "–", paper_spec, f"{paper_spec / paper_plain:.2f}" if paper_plain else "–",
            f"{plain.last_device_bytes / 1e9:.2f}", f"{spec.last_device_bytes / 1e9:.2f}",
            f"{spec.middle_device_bytes / 1e9:.2f}",
        ])  # fmt: skip
    headers = [
        "batch", "plain step ms", "spec. step ms", "plain tokens/s", "spec. tokens/s", "ratio",
        "best nodes / depth", "tokens/s", "ratio", "paper plain", "paper spec.", "paper ratio",
        "plain, last device GB", "spec., last device GB", "middle device GB",
    ]  # fmt: skip
    print(f"\nτ {accepted:.2f} (accuracies of {ACCEPTANCE}, assumed for this target), context {CONTEXT}\n")
    print(tabulate(table, headers, "github", disable_numparse=True))
    print(f"\nMoving all weights once at the peak bandwidth takes {weight_stream_seconds() * 1e3:.0f} ms.")
    print("\n### The same devices, spread as the planner would, while decoding\n")
    print(tabulate(_searched_rows(), _SEARCHED_HEADERS, "github", disable_numparse=True))


_SEARCHED_HEADERS = (
    "batch", "stages, plain tokens/s", "stages, Medusa", "ratio", "its nodes", "any split, plain", "its split",
    "any split, Medusa", "its split", "its nodes", "ratio", "binding device GB",
)  # fmt: skip


def _searched_rows() -> list[list[str]]:
    rows = []
    for batch_size in SEARCHED_BATCHES:
        stages, spread = ([searched(batch_size, name, parts) for name in ("none", "medusa")] for parts in (1, None))
        rows.append([
            str(batch_size), *_speeds(*stages), str(stages[1].speculation.num_draft_nodes),
            *_splits(*spread), str(spread[1].speculation.num_draft_nodes), _speeds(*spread)[2],
            f"{spread[1].peak_bytes / 1e9:.2f}",
        ])  # fmt: skip
    return rows


def _speeds(plain: Plan, medusa: Plan) -> tuple[str, str, str]:
    slow, fast = plain.estimate.tokens_per_s.value, medusa.estimate.tokens_per_s.value
    return f"{slow:.1f}", f"{fast:.1f}", f"{fast / slow:.2f}"


def _splits(plain: Plan, medusa: Plan) -> tuple[str, str, str, str]:
    cells = []
    for plan in (plain, medusa):
        assert plan.spread is not None
        spread = plan.spread.parallelism
        parts = f", {spread.num_micro_batches} parts" if spread.num_micro_batches > 1 else ""
        cells += [f"{plan.estimate.tokens_per_s.value:.1f}", f"{spread.tensor_parallel} × {spread.num_stages}{parts}"]
    return cells[0], cells[1], cells[2], cells[3]
