"""``Subject``: one deployment with what rules ask about it, found on first use."""

from __future__ import annotations

import dataclasses
from functools import cached_property, lru_cache
from typing import Any

from specplan.deployments.deployment import CannotTell, Deployment
from specplan.deployments.serving import Given, Serving
from specplan.deployments.source import Location
from specplan.device import DeviceSpec
from specplan.engine_memory.budget import EngineBudget
from specplan.errors import SpecplanError
from specplan.plan import ModelInput


class Subject:
    """A deployment to check.

    Args:
        deployment: as read.
        gpu: ``--gpu``, which goes before what the file names.
    """

    def __init__(self, deployment: Deployment, gpu: str | None = None) -> None:
        self.deployment, self.gpu = deployment, gpu

    @cached_property
    def serving(self) -> Serving:
        """What the engine is asked to serve.

        Raises:
            CannotTell: a value that depends on a variable, or is none.
        """
        from specplan.deployments.engines.serving_of import serving_of

        return serving_of(self.deployment)

    @cached_property
    def target(self) -> ModelInput:
        """The verified model.

        Raises:
            CannotTell: nobody says which, or it is not known here.
        """
        model = self.serving.model
        if model is None:
            raise CannotTell("the model is not named: add it to the command", self.deployment.location)
        return _model(model)

    @cached_property
    def draft(self) -> ModelInput | None:
        """The draft model; None where there is none of its own.

        Raises:
            CannotTell: it is not known here.
        """
        serving = self.serving
        if serving.method is None or serving.method.value != "draft_model":
            return None
        if serving.draft is None:
            raise CannotTell("the draft model is not named: name it", serving.method.location)
        return _model(serving.draft)

    @cached_property
    def device(self) -> DeviceSpec:
        """The device.

        Raises:
            CannotTell: neither the file nor ``--gpu`` names it.
        """
        named = self.serving.gpu
        name = self.gpu or (named.value if named is not None else None)
        where = self.deployment.location if named is None or self.gpu else named.location
        if name is None:
            raise CannotTell("the GPU is not named: give --gpu, or a node selector that names it", where)
        return _device(name, where)

    @cached_property
    def budget(self) -> EngineBudget:
        """Memory on one device, with the drafter as it is.

        Raises:
            CannotTell: the model, the draft or the device is not known, or something that sizes memory.
        """
        return self.budget_with()

    def budget_with(self, **changes: Any) -> EngineBudget:
        """The same with other settings.

        Args:
            changes: fields of ``Serving``.
        """
        from specplan.engine_memory.of_engine import engine_budget  # late: not every rule needs it

        serving = dataclasses.replace(self.serving, **changes)
        draft = self.draft if serving.speculates else None  # what is not asked for need not be known
        return engine_budget(serving, self.target, draft, self.device, self.deployment.offline)

    def location_of(self, *values: Given[object] | None) -> Location:
        """Where the first value that somebody wrote stands; the deployment otherwise."""
        for value in values:
            if value is not None and not value.is_default:
                return value.location
        return self.deployment.location


def _model(name: Given[str]) -> ModelInput:
    found = _resolved(name.value)
    if isinstance(found, str) and name.value.endswith(".gguf"):
        from specplan.models.gguf_file_names import gguf_by_name  # late: most models are not GGUF

        found = gguf_by_name(name.value) or found
    if isinstance(found, str):
        raise CannotTell(f"the model {name.value} is not known here: {found}", name.location)
    return found


@lru_cache(maxsize=512)
def _resolved(name: str) -> ModelInput | str:
    from specplan.models.resolve import resolve_model

    try:
        return resolve_model(name)
    except SpecplanError as error:
        return str(error)


def _device(name: str, where: Location) -> DeviceSpec:
    found = _resolved_device(name)
    if isinstance(found, str):
        raise CannotTell(f"the GPU {name} is not known: {found}", where)
    return found


@lru_cache(maxsize=64)
def _resolved_device(name: str) -> DeviceSpec | str:
    from specplan.devices.resolve import resolve_device

    try:
        return resolve_device(name)
    except SpecplanError as error:
        return str(error)
