"""``Stage``: the layers of a model that one device holds, where layers are spread over devices or left on the host."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.deployments.deployment import CannotTell
from specplan.deployments.serving import Given


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive layers, and what stands before the first and behind the last one.

    Attributes:
        start, end: layers, ``end`` excluded; equal for none.
        embedding: the input embedding is here.
        head: the output head is here; a copy of the embedding where both are one and stand apart.
    """

    start: int
    end: int
    embedding: bool
    head: bool

    @property
    def num_layers(self) -> int:
        """How many."""
        return self.end - self.start

    def weight_bytes(self, total: int, embedding: int, head: int, num_hidden_layers: int) -> int:
        """Bytes of the stage, its layers taken to be of equal size.

        Args:
            total: bytes of the whole model.
            embedding: of the input embedding.
            head: of the output head, 0 where the embedding is the head.
            num_hidden_layers: of the whole model.
        """
        layers = -(-(total - embedding - head) * self.num_layers // num_hidden_layers)
        first = embedding if self.embedding else 0
        last = head if head or self.embedding else embedding
        return layers + first + (last if self.head else 0)


def whole(layers: int) -> Stage:
    """A device that holds everything."""
    return Stage(0, layers, True, True)


def pipeline_stages(engine: str, layers: int, size: int) -> tuple[Stage, ...]:
    """How an engine spreads layers over ``size`` devices in a row, where no environment variable says otherwise.

    Layers that are left over go to the last but one device and those before it in vLLM (``get_pp_indices`` of
    vllm/distributed/utils.py), to the last ones in SGLang 0.5.23 (srt/distributed/utils.py), to the first ones in
    TensorRT-LLM (``Mapping.pp_layers``).
    """
    counts, left = [layers // size] * size, layers % size
    for extra in range(left):
        counts[{"vllm": -2 - extra, "sglang": -1 - extra}.get(engine, extra)] += 1
    stages, start = [], 0
    for rank, count in enumerate(counts):
        stages.append(Stage(start, start + count, rank == 0, rank == size - 1))
        start += count
    return tuple(stages)


def offloaded(layers: int, on_device: int | None) -> Stage:
    """What llama.cpp puts on the device (``load_tensors`` of llama-model.cpp): the input embedding never.

    Args:
        layers: of the model.
        on_device: ``-ngl``, counted from the output layer, which is one of them; None for all.
    """
    count = layers + 1 if on_device is None else max(0, min(on_device, layers + 1))
    return Stage(min(layers, layers + 1 - count), layers, False, count > 0)


def layers_on_device(asked: Given[str] | None) -> int | None:
    """The number behind ``-ngl`` or ``-ngld``; None for all layers.

    Raises:
        CannotTell: not a number.
    """
    if asked is None:
        return None
    if not asked.value.isdecimal():
        raise CannotTell(f"{asked.origin} {asked.value!r} is not a number of layers: give one, or all", asked.location)
    return int(asked.value[:9])
