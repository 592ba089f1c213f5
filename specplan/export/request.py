"""``Request``: what a plan asks of an engine, in no engine's words."""

from __future__ import annotations

from dataclasses import dataclass

from specplan.device import DeviceSpec
from specplan.errors import InputError
from specplan.models.replace import differing_fields
from specplan.models.resolve import resolve_model
from specplan.parallelism import Parallelism
from specplan.plan import ModelInput, Plan
from specplan.profiles import read_profile
from specplan.speculation import Chain, DraftDevice, Drafter, Tree
from specplan.workload import Workload


@dataclass(frozen=True, slots=True)
class Request:
    """A plan without its ledger: engines have ledgers of their own.

    Attributes:
        target: the verified model.
        target_name: what the engine is told to load: a hub id, or a path as the user gave it.
        draft: the draft model, None for other drafters.
        draft_name: what the engine loads for it: a draft model, or the checkpoint of a head; None without one.
        drafter: who proposes.
        shape: how proposals are arranged.
        draft_context: the last tokens that a draft model sees, 0 for all of them.
        draft_device: where a draft model lives.
        workload: context, batch and precision.
        prefill_chunk: prompt tokens per pass.
        device: where it runs.
        budget_bytes: that the process may use there.
        revision: commit of the target on its hub, None where nobody named one.
        draft_revision: the same for the draft.
        parallelism: how the plan spreads models over several devices; None for one.
        device_names: profiles of the devices, each once.
    """

    target: ModelInput
    target_name: str
    draft: ModelInput | None
    draft_name: str | None
    drafter: Drafter
    shape: Chain | Tree
    draft_context: int
    draft_device: DraftDevice
    workload: Workload
    prefill_chunk: int
    device: DeviceSpec
    budget_bytes: int
    revision: str | None = None
    draft_revision: str | None = None
    parallelism: Parallelism | None = None
    device_names: tuple[str, ...] = ()

    @property
    def tensor_parallel(self) -> int:
        """Devices that share every layer."""
        return 1 if self.parallelism is None else self.parallelism.tensor_parallel

    @property
    def num_stages(self) -> int:
        """Stages that layers are spread over."""
        return 1 if self.parallelism is None else self.parallelism.num_stages

    @property
    def num_devices(self) -> int:
        """All of them."""
        return self.tensor_parallel * self.num_stages

    @property
    def num_verify_tokens(self) -> int:
        """Rows per sequence of the target's verify pass, root included."""
        return self.shape.num_verify_tokens

    @property
    def names(self) -> tuple[str, ...]:
        """What the engine loads."""
        return tuple(name for name in (self.target_name, self.draft_name) if name is not None)

    @property
    def pass_rows(self) -> int:
        """Rows of the largest pass: a chunk of a prompt beside the verify rows of all sequences."""
        return self.prefill_chunk + self.workload.batch_size * self.num_verify_tokens


@dataclass(frozen=True, slots=True)
class Weights:
    """Where engines load the models of a plan from, where the plan does not say it.

    Attributes:
        model: another name or place of the target.
        draft: the same for the draft model; for a head, the place of its checkpoint.
        revision: commit of the target on its hub.
        draft_revision: the same for the draft.
    """

    model: str | None = None
    draft: str | None = None
    revision: str | None = None
    draft_revision: str | None = None


AS_PLANNED = Weights()


def request_of(plan: Plan, weights: Weights) -> Request:
    """What a plan asks for.

    Args:
        plan: as read.
        weights: where its models are.

    Raises:
        InputError: a model that is not the plan's, or a draft for a plan without one.
    """
    inputs, speculation, spread = plan.inputs, plan.speculation, plan.spread
    kinds = spread.kinds if spread is not None else ()
    target, target_name = _named(inputs.target, weights.model, "--model")
    draft_input, draft_name = inputs.draft, weights.draft
    if inputs.draft is not None:
        draft_input, draft_name = _named(inputs.draft, weights.draft, "--draft")
    elif draft_name is not None and speculation.drafter not in ("eagle3", "medusa"):
        raise InputError(f"--draft {draft_name}: the plan's drafter is {speculation.drafter}, which loads nothing")
    elif draft_name is None and inputs.head_files is not None:
        draft_name = inputs.head_files.reference
    return Request(
        target,
        target_name,
        draft_input,
        draft_name,
        speculation.drafter,
        speculation.shape,
        speculation.draft_context,
        speculation.draft_device,
        plan.workload,
        speculation.prefill_chunk,
        inputs.device,
        min([inputs.budget_bytes, *(kind.budget_bytes for kind in kinds)]),
        weights.revision,
        weights.draft_revision,
        None if spread is None else spread.parallelism,
        tuple(dict.fromkeys(kind.device.name for kind in kinds)),
    )


def _named(planned: ModelInput, given: str | None, option: str) -> tuple[ModelInput, str]:
    """A model and what engines call it: bundled profiles have the id of their hub."""
    if given is not None:
        found = resolve_model(given)
        changed = differing_fields(planned.arch, found.arch)
        if changed:
            raise InputError(f"{option} {given}: is not the plan's model: {', '.join(changed)} differ")
        return found, given
    if planned.kind == "profile":
        return planned, str(read_profile("models", planned.reference)["hub_id"])
    return planned, planned.reference
