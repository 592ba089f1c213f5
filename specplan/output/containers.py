"""Exports as compose files and Kubernetes manifests: GPUs of one host, models that are local mounted where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from specplan.errors import UnsupportedError
from specplan.export.command import CONTAINER_FOLDER, python_script
from specplan.export.exported import Exported
from specplan.models.hub import is_hub_id

_NAME = "llm"
#: Where files stand that conversions made: beside the compose file, and on a node.
_MODELS = "/models"
#: Where hubs' clients keep what they fetched.
_CACHE = "/root/.cache/huggingface"
_DRIVERS = {"cuda": ("nvidia", "nvidia.com/gpu"), "rocm": ("amd", "amd.com/gpu")}


def compose_file(exported: Exported) -> str:
    """A compose file with one service.

    Raises:
        UnsupportedError: no image is known, or a device that containers do not get.
    """
    image, (driver, _) = _image(exported), _gpu(exported)
    lines = ["services:", f"  {_NAME}:", f"    image: {_quoted(image)}"]
    lines += ["    entrypoint:", *_listed(_program(exported), 6), "    command:", *_listed(_arguments(exported), 6)]
    port = exported.command.port
    lines += ["    ports:", f'      - "{port}:{port}"', "    ipc: host"]
    lines += ["    environment:", "      - HF_TOKEN"] if _needs_hub(exported) else []
    lines += ["    volumes:", *_listed(_volumes(exported), 6)]
    if exported.command.files:
        lines += ["    configs:"]
        for index, name in enumerate(exported.command.files):
            lines += [f"      - source: file{index}", f"        target: {_quoted(f'{CONTAINER_FOLDER}/{name}')}"]
    lines += ["    deploy:", "      resources:", "        reservations:", "          devices:"]
    lines += [f"            - driver: {driver}", f"              count: {exported.request.num_devices}"]
    lines += ["              capabilities: [gpu]"]
    if _needs_hub(exported):
        lines += ["volumes:", "  hub: {}"]
    if exported.command.files:
        lines += ["configs:"]
        for index, text in enumerate(exported.command.files.values()):
            lines += [f"  file{index}:", "    content: |", *_indented(_literal(text), 6)]
    return "\n".join([*_header(exported), *lines]) + "\n"


def kubernetes_manifests(exported: Exported) -> str:
    """A Deployment and its Service, and a ConfigMap where the engine reads a file.

    Raises:
        UnsupportedError: no image is known, or a device that containers do not get.
    """
    image, (_, resource) = _image(exported), _gpu(exported)
    port, mounts = exported.command.port, list(_mounts(exported))
    lines = ["apiVersion: apps/v1", "kind: Deployment", *_metadata(0), "spec:", "  replicas: 1"]
    lines += ["  selector:", f"    matchLabels: {{app: {_NAME}}}", "  template:", "    metadata:"]
    lines += [f"      labels: {{app: {_NAME}}}", "    spec:", "      containers:", f"        - name: {_NAME}"]
    lines += [f"          image: {_quoted(image)}", "          command:", *_listed(_program(exported), 12)]
    lines += ["          args:", *_listed(_arguments(exported), 12)]
    lines += ["          ports:", f"            - containerPort: {port}"]
    if _needs_hub(exported):
        lines += ["          env:", "            - name: HF_TOKEN", "              valueFrom:"]
        lines += ["                secretKeyRef: {name: hub, key: token, optional: true}"]
    lines += ["          resources:", "            limits:"]
    lines += [f"              {resource}: {exported.request.num_devices}", "          volumeMounts:"]
    for name, path, _ in mounts:
        lines += [f"            - name: {name}", f"              mountPath: {_quoted(path)}"]
    lines += ["      volumes:"]
    for name, _, volume in mounts:
        lines += [f"        - name: {name}", f"          {volume}"]
    lines += ["---", "apiVersion: v1", "kind: Service", *_metadata(0), "spec:", f"  selector: {{app: {_NAME}}}"]
    lines += ["  ports:", f"    - port: {port}"]
    if exported.command.files:
        lines += ["---", "apiVersion: v1", "kind: ConfigMap", *_metadata(0), "data:"]
        for name, text in exported.command.files.items():
            lines += [f"  {name}: |", *_indented(text, 4)]
    return "\n".join([*_header(exported), *lines]) + "\n"


def _header(exported: Exported) -> list[str]:
    count, title = exported.request.num_devices, exported.request.device.title
    where = f"one {title}" if count == 1 else f"{count} x {title}"
    lines = [f"# specplan export: {exported.limits.title} ({exported.version}) on {where}"]
    lines += [f"# {line}" for line in exported.notes]
    folder = _MODELS.lstrip("/")
    made = (line.replace("--outfile ", f"--outfile {folder}/") for line in exported.command.preparation)
    return [*lines, *(f"# once: {line}" for line in made)]


def _image(exported: Exported) -> str:
    if python_script(exported.command) is not None:
        raise UnsupportedError(f"{exported.limits.title} has no server to put in a container: export a command")
    if exported.image is None:
        raise UnsupportedError(
            f"no image of {exported.limits.title} is known to be its {exported.version} for "
            f"{exported.request.device.kind} devices: name one with --image"
        )
    return exported.image


def _gpu(exported: Exported) -> tuple[str, str]:
    kind = exported.request.device.kind
    if kind not in _DRIVERS:
        raise UnsupportedError(f"containers get no {kind} device: export a command")
    return _DRIVERS[kind]


def _program(exported: Exported) -> list[str]:
    """The words in front of the first argument."""
    words = exported.command.argv
    count = 3 if words[0] == "python" else 2 if words[0] == "vllm" else 1
    return ["python3" if word == "python" else _in_image(word) for word in words[:count]]


def _in_image(program: str) -> str:
    return f"/app/{program}" if program == "llama-server" else program


def _arguments(exported: Exported) -> list[str]:
    command = exported.command
    words = command.argv[len(_program(exported)) :]
    places = dict.fromkeys(command.files, CONTAINER_FOLDER) | dict.fromkeys(command.made, _MODELS)
    return [*(f"{places[word]}/{word}" if word in places else word for word in words), *command.listen]


def _local(exported: Exported) -> list[str]:
    """Absolute folders and files that the engine reads."""
    paths = [word for word in exported.command.models if not is_hub_id(word) or Path(word).exists()]
    return list(dict.fromkeys(str(Path(path).expanduser().absolute()) for path in paths))


def _needs_hub(exported: Exported) -> bool:
    return any(is_hub_id(name) and not Path(name).exists() for name in exported.command.models)


def _volumes(exported: Exported) -> list[str]:
    volumes = [f"{path}:{path}:ro" for path in _local(exported)]
    volumes += [f"./models:{_MODELS}:ro"] if exported.command.made else []
    return [*volumes, *([f"hub:{_CACHE}"] if _needs_hub(exported) else [])]


def _mounts(exported: Exported) -> Iterator[tuple[str, str, str]]:
    """Name, path in the container, and kind of every volume."""
    yield "shm", "/dev/shm", "emptyDir: {medium: Memory}"  # noqa: S108
    for index, path in enumerate(_local(exported)):
        yield f"model{index}", path, f"hostPath: {{path: {_quoted(path)}}}"
    if _needs_hub(exported):
        yield "hub", _CACHE, "emptyDir: {}"
    if exported.command.made:
        yield "models", _MODELS, f"hostPath: {{path: {_MODELS}}}"
    if exported.command.files:
        yield "files", CONTAINER_FOLDER, f"configMap: {{name: {_NAME}}}"


def _metadata(indent: int) -> list[str]:
    return [f"{' ' * indent}metadata: {{name: {_NAME}}}"]


def _listed(words: list[str], indent: int) -> list[str]:
    return [f"{' ' * indent}- {_quoted(_literal(word))}" for word in words]


def _indented(text: str, indent: int) -> list[str]:
    return [f"{' ' * indent}{line}" for line in text.rstrip("\n").split("\n")]


def _quoted(text: str) -> str:
    """A string of YAML, quoted whatever is in it."""
    return json.dumps(text, ensure_ascii=False)


def _literal(text: str) -> str:
    """Text in which compose and Kubernetes fill nothing in: they take ``$$`` for ``$``."""
    return text.replace("$", "$$")
