"""What a drafter adds to the target: its weights and the architecture whose keys and values it caches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from specplan.arch import ModelArch
from specplan.deployments.deployment import CannotTell
from specplan.deployments.serving import Serving
from specplan.device import DeviceSpec
from specplan.engine_memory.stages import Stage, layers_on_device, offloaded, whole
from specplan.engine_memory.weights import compute_dtype, weight_bytes
from specplan.heads import Eagle3Head, MtpLayer, head_layer, published_heads
from specplan.plan import ModelInput
from specplan.provenance import Figure
from specplan.speculation import Chain, Drafter

#: What specplan plans and times a method as.
DRAFTERS: dict[str, Drafter] = {
    "draft_model": "draft_model", "ngram": "ngram", "suffix": "ngram", "eagle3": "eagle3", "mtp": "mtp",
    "medusa": "medusa",
}  # fmt: skip
#: Methods that propose without weights of their own.
WEIGHTLESS = ("none", "ngram", "suffix")
#: Methods that no engine has any more: SP203 says so, and the target is checked by itself.
REMOVED = ("medusa", "mlp_speculator")


@dataclass(frozen=True, slots=True)
class DrafterMemory:
    """What a drafter keeps on one device.

    Attributes:
        arch: whose keys and values are cached; None without a cache.
        weights: bytes.
        stage: the layers that are there.
    """

    arch: ModelArch | None
    weights: Figure
    stage: Stage


NO_DRAFTER = DrafterMemory(None, Figure(0, "exact", "no weights"), whole(0))


def drafter_memory(
    serving: Serving, target: ModelInput, draft: ModelInput | None, device: DeviceSpec, devices: int
) -> DrafterMemory:
    """The drafter of a deployment.

    Raises:
        CannotTell: heads whose size specplan does not know, or a number of layers that is none.
    """
    method = serving.method.value if serving.method is not None else "none"
    if method in WEIGHTLESS or method in REMOVED:
        return NO_DRAFTER
    if draft is not None:
        dtype = compute_dtype(draft, serving.dtype.value if serving.dtype else "auto", device)
        stage = whole(draft.arch.num_hidden_layers)
        if serving.engine == "llama.cpp":
            stage = offloaded(draft.arch.num_hidden_layers, layers_on_device(serving.partial_draft_offload))
        return DrafterMemory(draft.arch, weight_bytes(draft, dtype, None, devices, stage), stage)
    if method in ("eagle3", "mtp"):
        bytes_, arch = _head(target, method)
        weights = Figure(-(-bytes_ // devices), "assumed", f"the size of published {method} heads")
        return DrafterMemory(arch, weights, whole(arch.num_hidden_layers))
    assert serving.method is not None
    raise CannotTell(
        f"the size of a {method} drafter is not known to specplan: compare with --spec-method draft_model, eagle3, "
        "mtp or ngram",
        serving.method.location,
    )


@lru_cache(maxsize=64)
def _head(target: ModelInput, method: str) -> tuple[int, ModelArch]:
    from specplan.devices.bundled import device_profile
    from specplan.formulas.memory import MemoryModel  # late: sympy
    from specplan.planner.weights import target_weights
    from specplan.scenario import Scenario
    from specplan.speculation import Speculation
    from specplan.workload import Workload

    heads = published_heads(method, target.arch, Chain(1), shares_head=False)
    assert isinstance(heads, Eagle3Head | MtpLayer)
    device = device_profile("cpu-generic")
    model, name = target_weights(target, "auto" if target.arch.stored is not None else "float16", device)
    workload = Workload(1, 1, name, "float16", name, "float16")
    drafter: tuple[str, ...] = (method,)
    speculation = Speculation(drafter[0], Chain(1), 0, 1, 2)  # type: ignore[arg-type]
    ledger = MemoryModel(Scenario(model.arch, None, device, workload, speculation, heads)).ledger()
    return ledger.by_name()["drafter.weights"].bytes, head_layer(heads, target.arch)
