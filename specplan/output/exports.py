"""Exports as text: scripts, compose files, Kubernetes manifests, JSON."""

from __future__ import annotations

import json

from specplan.export.command import python_script, script
from specplan.export.exported import Exported, TooLarge
from specplan.output.containers import compose_file, kubernetes_manifests
from specplan.units import format_bytes, format_exact_bytes


def rendered(exported: Exported, output_format: str) -> str:
    """The export in a format, ending in a newline.

    Raises:
        UnsupportedError: a container without an image that is known.
    """
    formats = {"compose": compose_file, "k8s": kubernetes_manifests, "json": _json}
    return formats[output_format](exported) if output_format in formats else _script(exported)


def _script(exported: Exported) -> str:
    text = python_script(exported.command)
    if text is not None:
        return "".join(f"# {comment}\n" for comment in (_title(exported), *exported.notes)) + text
    return script(exported.command, (_title(exported), *exported.notes))


def _title(exported: Exported) -> str:
    request = exported.request
    where = f"{request.num_devices} x {request.device.title}" if request.num_devices > 1 else request.device.title
    return (
        f"specplan export: {exported.limits.title} ({exported.version}), {where}, "
        f"{request.workload.batch_size} x {request.workload.context} tokens"
    )


def _json(exported: Exported) -> str:
    command = exported.command
    data = {
        "engine": exported.limits.engine,
        "version": exported.version,
        "argv": command.argv,
        "env": {},
        "files": dict(command.files),
        "notes": [*exported.notes, *(f"once: {line}" for line in command.preparation), memory_text(exported)],
    }
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def memory_text(result: Exported | TooLarge) -> str:
    """One line: what the engine needs on each device, and of what."""
    parts = ", ".join(f"{part.name} {format_bytes(part.bytes)} ({part.figure.source})" for part in result.memory)
    needs = f"{result.limits.title} needs {format_bytes(result.needed_bytes)}"
    if isinstance(result, TooLarge):
        missing = format_exact_bytes(result.needed_bytes - result.budget_bytes)
        return f"does not fit: {needs}, {missing} bytes more than {format_bytes(result.budget_bytes)}: {parts}"
    count = result.request.num_devices
    return f"{needs} on each of {count} devices: {parts}" if count > 1 else f"{needs}: {parts}"
