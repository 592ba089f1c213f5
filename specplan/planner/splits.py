"""Devices and the ways to spread a model over them: from options, and for the search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from specplan.arch import ModelArch
from specplan.device import DeviceSpec
from specplan.errors import InputError, UnsupportedError
from specplan.parallel.checks import spread_problems
from specplan.parallel.ranks import even_layers
from specplan.parallelism import DraftPlacement, Parallelism
from specplan.planner.question import PUBLISHED_HEADS, Split
from specplan.planner.ranks import Card
from specplan.provenance import Figure
from specplan.speculation import Drafter
from specplan.speed.work import layer_work

_MOST_DEVICES = 64


def devices_of(
    named: Sequence[DeviceSpec], num_gpus: int | None, tensor_parallel: int | None, pipeline_parallel: int | None
) -> tuple[DeviceSpec, ...]:
    """The devices by rank; one of them where nothing asks for several.

    Raises:
        InputError: numbers that contradict each other, or out of range.
        UnsupportedError: devices that are not linked to each other.
    """
    options = {
        "--num-gpus": num_gpus, "--tensor-parallel": tensor_parallel, "--pipeline-parallel": pipeline_parallel,
    }  # fmt: skip
    for option, value in options.items():
        if value is not None and not 1 <= value <= _MOST_DEVICES:
            raise InputError(f"{option} {value}: expected 1 to {_MOST_DEVICES}")
    count = num_gpus or max(len(named), (tensor_parallel or 1) * (pipeline_parallel or 1))
    if len(named) > 1 and count != len(named):
        raise InputError(f"--gpu names {len(named)} devices, the other options ask for {count}")
    if count > _MOST_DEVICES:
        raise InputError(f"{count} devices: expected at most {_MOST_DEVICES}")
    _check_product(count, tensor_parallel, pipeline_parallel)
    if count == 1:
        return tuple(named)
    devices = tuple(named) if len(named) > 1 else tuple(named) * count
    for device in devices:
        if device.unified_memory and device.kind != "cpu":
            raise UnsupportedError(f"--num-gpus {count}: {device.name} has no link to others like it in its profile")
    if len({device.kind for device in devices}) > 1:
        raise UnsupportedError("--gpu: devices of several makers do not share a communication library")
    return tuple(_part_of_host(device, count) if device.kind == "cpu" else device for device in devices)


def cards_of(devices: Sequence[DeviceSpec], budget: int | None) -> tuple[Card, ...]:
    """Devices with their budgets: the given one on each, or all its memory."""
    return tuple(Card(device, budget or int(device.memory_bytes.value)) for device in devices)


def splits(
    arch: ModelArch,
    dtype: str,
    cards: Sequence[Card],
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    has_heads: bool = False,
) -> tuple[Split, ...]:
    """Ways to spread a model over all cards; those that were asked for, or all that divide.

    Args:
        arch: the model.
        dtype: its weight format.
        cards: devices by rank; fewer than two spread nothing.
        tensor_parallel: that was asked for.
        pipeline_parallel: stages that were asked for.
        has_heads: Medusa heads may be in the last stage.

    Raises:
        InputError: none does; says why the asked one, or the first, does not.
    """
    if len(cards) < 2:
        return ()
    found: dict[Split, None] = {}
    problems: list[InputError] = []
    for parts in range(1, len(cards) + 1):
        if len(cards) % parts or parts != (tensor_parallel or parts):
            continue
        if len(cards) // parts != (pipeline_parallel or len(cards) // parts):
            continue
        for stage_layers in _stage_layers(arch, cards, parts, has_heads):
            wrong = list(spread_problems(arch, dtype, Parallelism(parts, stage_layers)))
            problems += wrong
            if not wrong:
                found[parts, stage_layers] = None
    if not found:
        raise type(problems[0])(f"{len(cards)} devices: {problems[0]}")
    return tuple(found)


def spread_drafters(
    drafters: tuple[Drafter, ...], ways: Sequence[Split], forward: str, draft_device: str
) -> tuple[Drafter, ...]:
    """The drafters that can be spread in one of these ways; all of them on one device.

    Raises:
        UnsupportedError: the only drafter that was asked for is none of them, or a forward that is not spread.
    """
    if not ways:
        return drafters
    if forward != "specplan":
        raise UnsupportedError(f"--forward {forward} is planned on one device")
    if draft_device != "device":
        raise UnsupportedError(f"--draft-device {draft_device} is planned beside one device")
    refused: list[Drafter] = [drafter for drafter in drafters if drafter == "mtp"]
    one_stage = any(len(stage_layers) == 1 for _, stage_layers in ways)
    if "early_exit" in drafters and not one_stage:
        if len(drafters) == 2:  # beside plain decoding the only one
            refused.append("early_exit")
        drafters = tuple(drafter for drafter in drafters if drafter != "early_exit")
    if refused:
        raise UnsupportedError(f"--drafter {refused[0]} reads hidden states of other stages: planned on one device")
    return drafters


def micro_batches(batch_size: int, num_stages: int) -> tuple[int, ...]:
    """Numbers of micro-batches to try: powers of two, up to as many as there are stages."""
    return tuple(1 << power for power in range(16) if 1 << power <= min(batch_size, num_stages))


def placements(
    drafter: str, shares_head: bool, parallelism: Parallelism, cards: Sequence[Card]
) -> Iterator[tuple[DraftPlacement, int]]:
    """Where a drafter may live: beside the logits, beside the embedding, on the largest card, or split.

    Whole on every rank it would be as fast as beside the logits, and take more.
    """
    decides = parallelism.deciding_rank
    if drafter == "medusa":
        if parallelism.tensor_parallel == 1 or not shares_head:
            yield "rank", decides
        if parallelism.tensor_parallel > 1:
            yield "split", decides
        return
    yield "rank", decides
    if drafter != "draft_model":
        return
    largest = max(range(len(cards)), key=lambda rank: cards[rank].budget_bytes)
    for rank in sorted({0, largest} - {decides}):
        yield "rank", rank
    yield "split", decides


def _check_product(count: int, tensor_parallel: int | None, pipeline_parallel: int | None) -> None:
    parts, stages = tensor_parallel or 1, pipeline_parallel or 1
    both = tensor_parallel is not None and pipeline_parallel is not None
    if count % (parts * stages) or (both and parts * stages != count):
        raise InputError(
            f"--tensor-parallel {parts} and --pipeline-parallel {stages}: {count} devices are not that many"
        )


def _stage_layers(arch: ModelArch, cards: Sequence[Card], parts: int, has_heads: bool) -> Iterator[tuple[int, ...]]:
    """Layers of each stage: evenly; filling memory evenly, tables and heads counted; and in proportion to bandwidth."""
    num_layers, num_stages = arch.num_hidden_layers, len(cards) // parts
    if num_layers < num_stages:
        yield (num_layers,) * num_stages  # refused by its sum
        return
    yield even_layers(num_layers, num_stages)
    if num_stages == 1:
        return
    groups = [cards[stage * parts : (stage + 1) * parts] for stage in range(num_stages)]
    memory = [float(min(card.budget_bytes for card in group)) for group in groups]
    speed = [min(card.device.memory_bandwidth_bytes_per_s.value for card in group) for group in groups]
    work = layer_work(arch, num_layers, 1)
    layer = (work.matrix_elements + work.num_experts * work.expert_elements) / num_layers
    table = arch.num_head_elements / layer
    for heads in (0, PUBLISHED_HEADS) if has_heads else (0,):
        last = table + heads * (table + arch.hidden_size**2 / layer)
        yield filled_layers(num_layers, memory, [table, *(0.0 for _ in range(num_stages - 2)), last])
    if len(set(speed)) > 1:
        yield filled_layers(num_layers, speed, [0.0] * num_stages)


def filled_layers(num_layers: int, room: Sequence[float], taken: Sequence[float]) -> tuple[int, ...]:
    """Layers of each stage, at least one, so that stages are filled in proportion to their room.

    Args:
        num_layers: to share out, one at a time to the stage that is then least full.
        room: of each stage.
        taken: of each stage by other things, in layers.
    """
    layers = [1] * len(room)
    for _ in range(num_layers - len(room)):
        full = [(count + 1 + other) / space for count, other, space in zip(layers, taken, room, strict=True)]
        layers[full.index(min(full))] += 1
    return tuple(layers)


def _part_of_host(device: DeviceSpec, count: int) -> DeviceSpec:
    """One of several processes of a host, which share its memory, its bandwidth and its cores."""

    def part(figure: Figure) -> Figure:
        return Figure(figure.value / count, figure.source, f"{figure.reference}; shared by {count} processes")

    memory = device.memory_bytes
    return dataclasses.replace(
        device,
        memory_bytes=Figure(int(memory.value) // count, memory.source, part(memory).reference),
        memory_bandwidth_bytes_per_s=part(device.memory_bandwidth_bytes_per_s),
        flop_per_s={dtype: part(rate) for dtype, rate in device.flop_per_s.items()},
    )
