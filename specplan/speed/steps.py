"""Times of a scenario: a step of drafting and verifying, and the prefill of a sequence's prompts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from specplan.draft_passes import draft_widths
from specplan.dtypes import float_bytes, weight_format
from specplan.heads import MedusaHeads, head_layer
from specplan.scenario import Scenario
from specplan.speculation import Tree
from specplan.speed.roofline import BANDWIDTH_EFFICIENCY, Pass, Times, pass_seconds
from specplan.speed.timer import StepTimer, Timing, modelled

Ints = npt.NDArray[np.int64]
#: One for all configurations, or one for each.
Rate = float | npt.NDArray[np.float64]

_PROBABILITY_BYTES = 4
#: Sequences of which about as many draft in every step.
_MANY = 64
#: Numbers of drafting sequences that are less likely than this are left out.
_LEAST_SHARE = 1e-6


def step_seconds(
    scenario: Scenario, gamma: Ints, logits_rows: Ints, draft_rate: Rate = 1.0, timing: Timing | None = None
) -> Times:
    """One step in the mean: the drafter's passes, the target's verify pass, and what the host does besides.

    Args:
        scenario: its γ and logits rows are not used.
        gamma: tokens drafted per sequence, one entry per configuration.
        logits_rows: rows of logits at one time.
        draft_rate: share of a sequence's steps in which anything is drafted; one, or one for each configuration.
        timing: of its models, modelled when None.
    """
    timing = timing or modelled(scenario)
    batch, host = scenario.workload.batch_size, timing.target.host_seconds(scenario.speculation.drafter)
    drafting = draft_seconds(scenario, timing, gamma, logits_rows) * (1 - (1 - draft_rate) ** batch)
    return verify_seconds(scenario, timing, gamma, logits_rows, draft_rate) + drafting + host


def verify_seconds(scenario: Scenario, timing: Timing, gamma: Ints, logits_rows: Ints, draft_rate: Rate) -> Times:
    """The target's pass in the mean: γ + 1 rows of a sequence that drafts, one or as many of the others."""
    workload, batch = scenario.workload, scenario.workload.batch_size

    def seconds(rows: Ints) -> Times:
        context = workload.mean_context
        each = Pass(rows=rows, batch_size=batch, context=context, head_rows=rows, logits_rows=logits_rows)
        return timing.target.pass_seconds(each)

    return mean_over_rows(verified_rows(scenario, batch, gamma, draft_rate), seconds)


def verified_rows(scenario: Scenario, batch: int, gamma: Ints, draft_rate: Rate) -> list[tuple[Rate, Ints]]:
    """Rows of a verify pass over some sequences, and how likely they are: which sequences draft is independent.

    On a CPU every row costs time, and the runtime's own forward takes one row of a sequence that drafts nothing; its
    attention, whose grid is filled up, is a small part. Elsewhere rows cost little and kernels more: all are filled up
    to γ + 1 as soon as one drafts.
    """
    if np.all(draft_rate == 1):
        return [(1.0, batch * (gamma + 1))]
    if scenario.device.kind != "cpu" or scenario.transformers_version is not None:
        plainly = (1 - draft_rate) ** batch
        return [(plainly, batch + 0 * gamma), (1 - plainly, batch * (gamma + 1))]
    if batch > _MANY:
        return [(1.0, batch + np.rint(batch * draft_rate * gamma).astype(np.int64))]
    shares = [math.comb(batch, k) * draft_rate**k * (1 - draft_rate) ** (batch - k) for k in range(batch + 1)]
    return [(share, batch + k * gamma) for k, share in enumerate(shares) if np.any(share > _LEAST_SHARE)]


def mean_over_rows(likely: list[tuple[Rate, Ints]], seconds: Callable[[Ints], Times]) -> Times:
    """Seconds in the mean over numbers of rows."""
    total = sum(share for share, _ in likely)
    result: Times = np.sum([share / total * seconds(rows) for share, rows in likely], axis=0)
    return result


def draft_seconds(scenario: Scenario, timing: Timing, gamma: Ints, logits_rows: Ints) -> Times:
    """All passes of the drafter in a step."""
    workload, batch = scenario.workload, scenario.workload.batch_size
    speculation = scenario.speculation
    exits_early = speculation.drafter == "early_exit"
    if isinstance(scenario.heads, MedusaHeads):
        return np.where(gamma > 0, _medusa_seconds(scenario, scenario.heads), 0.0)
    if scenario.heads is not None:
        return _head_seconds(scenario, gamma, logits_rows)
    timer = timing.target if exits_early else timing.draft
    if timer is None:
        return np.zeros(len(gamma))
    context = min(workload.mean_context, speculation.draft_context or 1 << 62)
    layers = speculation.num_exit_layers if exits_early else None
    if isinstance(speculation.shape, Tree):
        return _branching_seconds(timer, speculation.shape, batch, context, layers, gamma, logits_rows)
    each = timer.pass_seconds(Pass(
        rows=batch, batch_size=batch, context=context, head_rows=batch, logits_rows=logits_rows, num_layers=layers,
    ))  # fmt: skip
    if speculation.draft_device == "host":
        moved = batch * scenario.target.vocab_size * _PROBABILITY_BYTES
        each = each + moved / scenario.device.link_bandwidth_bytes_per_s.value
    return gamma * each


def _branching_seconds(
    timer: StepTimer, tree: Tree, batch: int, context: int, layers: int | None, gamma: Ints, logits_rows: Ints
) -> Times:
    """All passes of a drafting model over a tree."""

    def each(rows: Ints) -> Times:
        return timer.pass_seconds(Pass(
            rows=rows, batch_size=batch, context=context, head_rows=rows, logits_rows=logits_rows, num_layers=layers,
        ))  # fmt: skip

    return _depths_seconds(tree, batch, gamma, each)


def _depths_seconds(tree: Tree, batch: int, gamma: Ints, each: Callable[[Ints], Times]) -> Times:
    """A pass per depth over the root, then over the nodes of that depth that have children.

    Args:
        tree: whose first γ nodes are drafted.
        batch: sequences.
        gamma: one entry per configuration.
        each: seconds of passes over so many rows, all sequences together.
    """
    seconds: Times = np.zeros(len(gamma))
    for width in draft_widths(tree)[gamma].T:
        seconds = seconds + np.where(width > 0, each(batch * np.maximum(1, width)), 0.0)
    return seconds


def _medusa_seconds(scenario: Scenario, heads: MedusaHeads) -> float:
    """All Medusa heads once: their matrices moved, and their kernels launched."""
    target, workload, device = scenario.target, scenario.workload, scenario.device
    elements = heads.num_heads * (heads.num_layers * target.hidden_size**2 + target.num_head_elements)
    moved = elements * float_bytes(weight_format(workload.dtype, target.stored).compute_dtype)
    launches = heads.num_heads * (4 + 3 * heads.topk) * device.kernel_launch_s.value
    return moved / (device.memory_bandwidth_bytes_per_s.value * BANDWIDTH_EFFICIENCY) + launches


def _head_seconds(scenario: Scenario, gamma: Ints, logits_rows: Ints) -> Times:
    """All passes of a head's layer: one for each depth of proposals."""
    workload, target, heads = scenario.workload, scenario.target, scenario.heads
    batch, shape = workload.batch_size, scenario.speculation.shape
    assert heads is not None
    assert not isinstance(heads, MedusaHeads)
    layer, compute = head_layer(heads, target), weight_format(workload.dtype, target.stored).compute_dtype

    def each(rows: int | Ints) -> Times:
        one = Pass(rows=rows, batch_size=batch, context=workload.mean_context, head_rows=rows, logits_rows=logits_rows)
        return pass_seconds(layer, scenario.device, compute, workload.kv_dtype, one)

    if isinstance(shape, Tree):
        return _depths_seconds(shape, batch, gamma, each)
    return gamma * each(batch)


def prefill_seconds(scenario: Scenario, prefill_chunk: Ints, timing: Timing | None = None) -> Times:
    """Prefill of all prompts of one sequence, turn by turn and chunk by chunk, in the target and a draft model.

    Args:
        scenario: its chunk is not used.
        prefill_chunk: tokens per pass, one entry per configuration.
        timing: of its models, modelled when None.
    """
    timing = timing or modelled(scenario)
    workload = scenario.workload
    prompt = -(-workload.prompt_tokens // workload.num_turns)
    if prompt == 0:
        return np.zeros(len(prefill_chunk))
    rows = np.minimum(prefill_chunk, prompt)
    passes = workload.num_turns * -(-prompt // prefill_chunk)
    models = [timing.target] if timing.draft is None else [timing.target, timing.draft]
    each = Pass(rows=rows, batch_size=1, context=workload.mean_context, head_rows=1, logits_rows=1)
    result: Times = passes * np.sum([model.pass_seconds(each) for model in models], axis=0)
    return result
