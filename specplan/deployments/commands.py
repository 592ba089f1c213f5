"""Which engine a command starts, and its arguments as a ``Deployment``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from specplan.deployments.arguments import parse_arguments
from specplan.deployments.deployment import Deployment, Engine, Setting
from specplan.deployments.source import Source, Word
from specplan.deployments.tables import option_table

#: Programs by name, and the subcommand that serves where there is one.
_PROGRAMS: dict[str, tuple[Engine, tuple[str, ...]]] = {
    "vllm": ("vllm", ("serve",)),
    "sglang": ("sglang", ("serve",)),
    "llama-server": ("llama.cpp", ()),
    "llama-cli": ("llama.cpp", ()),
    "trtllm-serve": ("tensorrt-llm", ()),
}
_MODULES: dict[str, Engine] = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "sglang.launch_server": "sglang",
}
#: Images whose entrypoint is the server itself: what follows are its arguments.
_ENTRYPOINTS: tuple[tuple[str, Engine], ...] = (
    ("vllm/vllm-openai", "vllm"),
    ("ggml-org/llama.cpp:server", "llama.cpp"),
)
_IMAGES: tuple[tuple[str, Engine], ...] = (
    ("vllm/vllm", "vllm"),
    ("lmsysorg/sglang", "sglang"),
    ("sglang/sglang", "sglang"),
    ("llama.cpp", "llama.cpp"),
    ("tensorrt-llm", "tensorrt-llm"),
)
_VERSION = re.compile(r":v?(\d+\.\d+(?:\.\d+)?)(?![\w.])")
_PINNED = re.compile(r"(?<![\w-])(vllm|sglang|tensorrt[-_]llm|transformers)(?:\[[^\]]*\])?==(\d+\.\d+(?:\.\d+)?)")
_GPUS = ("--gpus",)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stands around a command and says something about it.

    Attributes:
        image: of the container.
        gpu: what names the GPU.
        num_gpus: how many GPUs the container gets.
    """

    image: str | None = None
    gpu: Setting | None = None
    num_gpus: Setting | None = None


def engine_of_image(image: str) -> tuple[Engine, str | None] | None:
    """The engine inside an image by the image's name, and its version where the tag says it."""
    for part, engine in _IMAGES:
        if part in image:
            match = _VERSION.search(image)
            return engine, match.group(1) if match else None
    return None


def pinned_version(text: str, engine: Engine) -> str | None:
    """The version that a file installs with pip; None without one, or with several."""
    found = {version for name, version in _PINNED.findall(text) if name.replace("_", "-") == engine}
    return found.pop() if len(found) == 1 else None


def starts_server(image: str) -> Engine | None:
    """The engine whose server is the image's entrypoint."""
    for part, engine in _ENTRYPOINTS:
        if part in image:
            return engine
    return None


def command_deployment(words: Sequence[Word], source: Source, around: Surroundings) -> Deployment | None:
    """The deployment that a command starts; None for other commands."""
    found = _invocation(words)
    if found is None:
        return None
    engine, arguments, at, around = (*found[:3], _around(words, found[2], around))
    return arguments_deployment(
        engine, words[arguments:], source, source.location(words[at].start).line, around, at=words[at]
    )


def arguments_deployment(
    engine: Engine, words: Sequence[Word], source: Source, line: int, around: Surroundings, at: Word | None = None
) -> Deployment:
    """The deployment of an engine's server with these arguments."""
    parsed = parse_arguments(option_table(engine), words, source)
    settings = list(parsed.settings)
    positional = _model(engine, parsed.positionals)
    if positional is not None:
        settings.append(Setting("model", positional.text, source.location(positional.start), "", positional.unresolved))
    image = engine_of_image(around.image or "")
    version = image[1] if image is not None and image[0] == engine else None
    location = source.location(at.start if at is not None else source.line_start(line))
    return Deployment(
        engine,
        version or pinned_version(source.text, engine),
        tuple(settings),
        location,
        tuple(parsed.problems),
        around.gpu,
        around.num_gpus,
    )


def _model(engine: Engine, positionals: Sequence[Word]) -> Word | None:
    """The model where it is no option: behind ``vllm serve`` and ``trtllm-serve``."""
    words = [word for word in positionals if word.text or word.unresolved]
    return words[0] if words and engine in ("vllm", "tensorrt-llm") else None


def _invocation(words: Sequence[Word]) -> tuple[Engine, int, int] | None:
    """The engine, the index of its first argument, and that of the word that names it."""
    for index, word in enumerate(words):
        name = word.text.rpartition("/")[2]
        following = words[index + 1].text if index + 1 < len(words) else ""
        if (name in _PROGRAMS and index == 0) or (name in _PROGRAMS and _may_follow(words[index - 1].text)):
            engine, subcommands = _PROGRAMS[name]
            if not subcommands:
                return engine, index + 1 + (engine == "tensorrt-llm" and following == "serve"), index
            if following in subcommands:
                return engine, index + 2, index
        if word.text == "-m" and following in _MODULES:
            return _MODULES[following], index + 2, index + 1
        image = starts_server(word.text) if index and words[0].text.rpartition("/")[2] in ("docker", "podman") else None
        if image is not None and not _names_program(words[index + 1 :]):
            return image, index + 1, index
    return None


def _names_program(words: Sequence[Word]) -> bool:
    return any(word.text.rpartition("/")[2] in _PROGRAMS or word.text in _MODULES for word in words)


def _may_follow(before: str) -> bool:
    """Whether a program may start behind a word: not where the word is an option that takes it as its value."""
    return not before.startswith("-") or before in ("--", "-c", "-lc", "-u", "-it", "--rm", "-i", "-t")


def _around(words: Sequence[Word], at: int, around: Surroundings) -> Surroundings:
    """What ``docker run`` says in front of the engine."""
    for word in words[: at + 1]:
        if engine_of_image(word.text) is not None and ":" in word.text:
            around = replace(around, image=word.text)
    return around
