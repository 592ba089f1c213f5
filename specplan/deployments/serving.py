"""``Serving``: a deployment in one vocabulary, whatever its engine; every value knows who said it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from specplan.deployments.deployment import CannotTell, Deployment, Engine, Setting
from specplan.deployments.source import Location

T = TypeVar("T")
Value = TypeVar("Value", covariant=True)
Method = Literal[
    "none", "draft_model", "ngram", "suffix", "eagle", "eagle3", "mtp", "medusa", "mlp_speculator", "dflash", "dspark",
    "other",
]  # fmt: skip


@dataclass(frozen=True)
class Given(Generic[Value]):
    """A value.

    Attributes:
        value: of the setting.
        location: where it was said; that of the deployment for a default.
        origin: the option as it was written, or ``default of …``.
    """

    value: Value
    location: Location
    origin: str

    @property
    def is_default(self) -> bool:
        """Nobody wrote it."""
        return self.origin.startswith("default")


@dataclass(frozen=True, slots=True)
class Serving:
    """What an engine is asked to serve.

    Attributes:
        engine, title, version: who serves; the version as the file says, None where it does not.
        location: of the deployment.
        model: the target.
        draft: the draft model or head, None without one.
        method: how tokens are proposed.
        num_speculative_tokens: drafted per step on a chain, bonus token excluded; 0 without speculation.
        topk: branches of a tree, 1 for chains.
        num_verify_tokens: rows per sequence of the verify pass, root included.
        context: tokens per sequence; None for what the model was trained for.
        max_sequences: decoded at once; None where it depends on the device.
        batch_tokens: rows of the largest pass; None where it depends on the device.
        dtype: of weights and activations.
        quantization: asked for by name, None where the checkpoint decides.
        kv_dtype, values_dtype, draft_kv_dtype: as the engine calls them, ``auto``; of values where they have their own.
        page_size: tokens per block.
        tensor_parallel, pipeline_parallel: devices that share the model.
        fraction: of memory for weights and KV (vLLM, SGLang) or for KV (TensorRT-LLM).
        kv_bytes, kv_tokens: an exact size of the KV pool.
        windows: TensorRT-LLM: windows that it was asked to keep pools for.
        captures_graphs: CUDA graphs are captured.
        unified_kv: llama.cpp: one cache for all sequences.
        window_ratio: SGLang: size of the pool of windowed layers, where they have one, as a share of the others' pool.
        partial_offload, partial_draft_offload: llama.cpp: layers of target and draft on the device; None for all.
        fits_itself: llama.cpp: what is not said is chosen while loading, so that it fits.
        overlap: TensorRT-LLM: the scheduler is a step ahead.
        lossy: settings that change the target's distribution, as written.
        revision: of the model on its hub.
        gpu: the device, None where nothing names it.
        num_gpus: devices that the container has.
        budget: bytes that may be used; specplan.toml only.
        alpha: acceptance rate; specplan.toml only.
    """

    engine: Engine
    title: str
    version: str | None
    location: Location
    model: Given[str] | None = None
    draft: Given[str] | None = None
    method: Given[Method] | None = None
    num_speculative_tokens: Given[int] | None = None
    topk: int = 1
    num_verify_tokens: int = 1
    context: Given[int] | None = None
    max_sequences: Given[int] | None = None
    batch_tokens: Given[int] | None = None
    dtype: Given[str] | None = None
    quantization: Given[str] | None = None
    kv_dtype: Given[str] | None = None
    values_dtype: Given[str] | None = None
    draft_kv_dtype: Given[str] | None = None
    page_size: Given[int] | None = None
    tensor_parallel: Given[int] | None = None
    pipeline_parallel: Given[int] | None = None
    fraction: Given[float] | None = None
    kv_bytes: Given[int] | None = None
    kv_tokens: Given[int] | None = None
    windows: Given[str] | None = None
    captures_graphs: bool = True
    unified_kv: bool = False
    window_ratio: Given[float] | None = None
    partial_offload: Given[str] | None = None
    partial_draft_offload: Given[str] | None = None
    fits_itself: bool = False
    overlap: bool = True
    lossy: tuple[Given[str], ...] = ()
    revision: Given[str] | None = None
    gpu: Given[str] | None = None
    num_gpus: Given[int] | None = None
    budget: Given[int] | None = None
    alpha: Given[float] | None = None

    @property
    def speculates(self) -> bool:
        """Anything is drafted."""
        return self.method is not None and self.method.value != "none"


class Unsaid(Given[Any]):
    """A value that the file leaves open: whoever asks for it is told what is missing.

    Args:
        error: what is missing and where.
        origin: the option as it was written.
        deployment: where the deployment stands.
    """

    def __init__(self, error: CannotTell, origin: str, deployment: Location) -> None:
        object.__setattr__(self, "location", error.location or deployment)
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "_error", error)

    @property
    def value(self) -> Any:
        """Never one.

        Raises:
            CannotTell: always.
        """
        error: CannotTell = object.__getattribute__(self, "_error")
        raise error

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class SettingReader:
    """Settings of a deployment as typed values.

    Args:
        deployment: to read.
        default_origin: what defaults are called, for example ``default of vLLM 0.33.0``.
    """

    def __init__(self, deployment: Deployment, default_origin: str) -> None:
        self.deployment, self._origin = deployment, default_origin

    def text(self, *names: str) -> Given[str] | None:
        """A setting as it is written."""
        return self._read(str, names)

    def integer(self, *names: str) -> Given[int] | None:
        """A setting as a number; ``32k`` and ``32K`` as vLLM reads them."""
        return self._read(_integer, names)

    def number(self, *names: str) -> Given[float] | None:
        """A setting as a decimal number."""
        return self._read(float, names)

    def _read(self, convert: Callable[[str], T], names: tuple[str, ...]) -> Given[T] | None:
        setting = self.deployment.get(*names)
        if setting is None:
            return None
        try:
            return given(setting, convert)
        except CannotTell as error:
            return Unsaid(error, setting.written or setting.name, self.deployment.location)

    def switch(self, *names: str) -> bool:
        """Whether a switch is on; off when it is not there."""
        setting = self.deployment.get(*names)
        return setting is not None and setting.value.lower() in ("true", "1", "on", "yes", "")

    def default(self, value: T) -> Given[T]:
        """What the engine takes where nothing is said."""
        return Given(value, self.deployment.location, self._origin)


def given(setting: Setting, convert: Callable[[str], T]) -> Given[T]:
    """A setting's value.

    Raises:
        CannotTell: it depends on a variable, or is not of that kind.
    """
    name = setting.written or setting.name
    if setting.unresolved:
        variables = ", ".join(dict.fromkeys(setting.unresolved))
        raise CannotTell(f"{name} depends on {variables}: give it a literal value in this file", setting.location)
    try:
        value = convert(setting.value)
        if isinstance(value, float) and not abs(value) < 1e18:
            raise ValueError
        if isinstance(value, int) and abs(value) >= 1 << 62:
            raise ValueError
    except (ValueError, OverflowError):
        raise CannotTell(f"{name} {setting.value[:40]!r} is not a number: write one", setting.location) from None
    return Given(value, setting.location, name)


_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _integer(text: str) -> int:
    text = text.strip().replace("_", "")
    if text[-1:] in _FACTORS:
        return int(float(text[:-1]) * _FACTORS[text[-1]])
    return int(text)
