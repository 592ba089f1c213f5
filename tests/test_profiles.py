"""The bundled profiles: complete, sourced, and found under the names that people type."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator

import pytest

from specplan.device import DeviceSpec
from specplan.devices.bundled import device_profile
from specplan.devices.resolve import resolve_device
from specplan.dtypes import FLOAT_BYTES
from specplan.errors import InputError, UnsupportedError
from specplan.models.config import read_config
from specplan.profiles import (
    Kind,
    find_profile,
    normalize,
    profile_names,
    profiles_folder,
    read_profile,
    suggestions,
    unknown_profile,
)
from specplan.provenance import SOURCES, Figure

DEVICES = profile_names("devices")
MODELS = profile_names("models")
KINDS: tuple[Kind, ...] = ("devices", "models")

WANTED_DEVICES = [
    "titan-rtx",
    "rtx-2080-ti",
    "rtx-3060",
    "rtx-3090",
    "rtx-4060",
    "rtx-4090",
    "rtx-5090",
    "t4",
    "l4",
    "l40s",
    "a10g",
    "a100-40gb",
    "a100-80gb",
    "h100-80gb",
    "h200",
    "b200",
    "mi250",
    "mi300x",
    "jetson-orin-nano-8gb",
    "jetson-agx-orin-64gb",
    "apple-m2-16gb",
    "cpu-generic",
]


def figures(device: DeviceSpec) -> Iterator[Figure]:
    yield device.memory_bytes
    yield device.memory_bandwidth_bytes_per_s
    yield device.link_bandwidth_bytes_per_s
    yield device.kernel_launch_s
    yield device.context_bytes
    yield from device.flop_per_s.values()


@pytest.mark.parametrize("name", WANTED_DEVICES)
def test_the_devices_that_were_asked_for_are_there(name: str) -> None:
    assert name in DEVICES
    assert resolve_device(name).name == name


@pytest.mark.parametrize("name", DEVICES)
def test_device_profiles_decode(name: str) -> None:
    device = device_profile(name)
    assert device.name == name
    assert device.title
    assert read_profile("devices", name)["schema_version"] == 1
    assert (device.compute_capability is not None) == (device.kind in ("cuda", "rocm"))


@pytest.mark.parametrize("name", DEVICES)
def test_every_figure_has_a_source(name: str) -> None:
    for figure in figures(device_profile(name)):
        assert figure.source in SOURCES
        assert len(figure.reference.strip()) > 10
        assert math.isfinite(figure.value)
        assert figure.value >= 0


@pytest.mark.parametrize("name", DEVICES)
def test_figures_are_plausible(name: str) -> None:
    device = device_profile(name)
    assert 4 << 30 <= device.memory_bytes.value <= 512 << 30
    assert float(device.memory_bytes.value).is_integer()
    assert float(device.context_bytes.value).is_integer()
    assert device.context_bytes.value < device.memory_bytes.value / 4
    assert 1e10 <= device.memory_bandwidth_bytes_per_s.value <= 1e13
    assert 1e9 <= device.link_bandwidth_bytes_per_s.value <= 1e12
    assert 0 < device.kernel_launch_s.value < 1e-3
    assert set(device.flop_per_s) <= {*FLOAT_BYTES, "int8", "float8"}
    assert all(1e10 <= figure.value <= 1e16 for figure in device.flop_per_s.values())
    assert device.matmul_rate("float32").value > 0


def test_memory_follows_the_names() -> None:
    for name in DEVICES:
        size = name.rsplit("-", 1)[-1]
        if size.endswith("gb"):
            device = device_profile(name)
            least = 0.6 if device.unified_memory else 0.9  # a host keeps part of a memory that it shares
            assert least * int(size[:-2]) <= device.memory_bytes.value / (1 << 30) <= int(size[:-2])


@pytest.mark.parametrize("name", MODELS)
def test_model_profiles_decode(name: str) -> None:
    profile = read_profile("models", name)
    assert profile["name"] == name
    assert read_config(profile["config"], name).vocab_size > 0
    for field in ("hub_id", "license", "reference", "title"):
        assert profile[field].strip()


@pytest.mark.parametrize("kind", KINDS)
def test_profiles_are_canonical_json(kind: Kind) -> None:
    for name in profile_names(kind):
        text = (profiles_folder() / kind / f"{name}.json").read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("kind", KINDS)
def test_no_spelling_names_two_profiles(kind: Kind) -> None:
    owners = defaultdict(set)
    for name in profile_names(kind):
        for spelling in (name, *read_profile(kind, name)["aliases"]):
            owners[normalize(spelling)].add(name)
    assert {spelling: names for spelling, names in owners.items() if len(names) > 1} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_every_spelling_finds_its_profile(kind: Kind) -> None:
    for name in profile_names(kind):
        for spelling in (name, *read_profile(kind, name)["aliases"]):
            for typed in (spelling, spelling.upper(), f" {spelling} ", spelling.replace("-", "_")):
                assert find_profile(kind, typed) == name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("RTX 4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("H100", "h100-80gb"),
        ("h100", "h100-80gb"),
        ("A100 80GB", "a100-80gb"),
        ("TITAN RTX", "titan-rtx"),
        ("RTX 2080 Ti", "rtx-2080-ti"),
        ("MI300X", "mi300x"),
        ("L4", "l4"),
    ],
)
def test_devices_by_what_people_type(typed: str, name: str) -> None:
    assert resolve_device(typed).name == name


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10G", "a10g"),
        ("Tesla T4", "t4"),
        ("NVIDIA TITAN RTX", "titan-rtx"),
        ("NVIDIA GeForce RTX 2080 Ti", "rtx-2080-ti"),
        ("NVIDIA GeForce RTX 3060", "rtx-3060"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("NVIDIA GeForce RTX 4060", "rtx-4060"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
    ],
)
def test_devices_by_what_nvidia_smi_reports(reported: str, name: str) -> None:
    assert find_profile("devices", reported) == name


@pytest.mark.parametrize(
    "other",
    [
        "RTX 2080",
        "NVIDIA GeForce RTX 2080",
        "NVIDIA L40",
        "L40",
        "NVIDIA A10",
        "NVIDIA GeForce RTX 3060 Ti",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4060 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA T400",
        "RTX 4",
        "A100",
        "Orin",
        "NVIDIA",
        "m",
    ],
)
def test_another_device_is_not_mistaken_for_a_bundled_one(other: str) -> None:
    """A shorter name is not always the same card: an RTX 2080 has 8 GiB, an RTX 2080 Ti 11."""
    assert find_profile("devices", other) is None


@pytest.mark.parametrize(
    "other", ["qwen2.5-3", "llama-3.1-7", "qwen", "llama", "l", "meta-llama/", "Qwen/Qwen2.5-1.5B-Instruct-GGUF"]
)
def test_another_model_is_not_mistaken_for_a_bundled_one(other: str) -> None:
    assert find_profile("models", other) is None


@pytest.mark.parametrize(
    ("typo", "name"),
    [
        ("rtx-4091", "rtx-4090"),
        ("rtx 3096", "rtx-3090"),
        ("h-10O", "h100-80gb"),
        ("A100", "a100-80gb"),
        ("A100", "a100-40gb"),
        ("mi300z", "mi300x"),
        ("jetson orin nona", "jetson-orin-nano-8gb"),
    ],
)
def test_a_near_miss_gets_a_suggestion(typo: str, name: str) -> None:
    assert name in suggestions("devices", typo)
    with pytest.raises(InputError, match=f"did you mean .*{name}"):
        resolve_device(typo)


def test_nonsense_gets_the_whole_list() -> None:
    assert suggestions("devices", "qqqqqqqq") == []
    message = unknown_profile("devices", "qqqqqqqq")
    assert all(name in message for name in DEVICES)


@pytest.mark.parametrize("typed", ["", " ", "-", "_ -", "\x00", "../rtx-4090", "rtx-4090.json", "x" * 10_000])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_names_find_nothing(kind: Kind, typed: str) -> None:
    assert find_profile(kind, typed) is None
    assert unknown_profile(kind, typed)


def test_a_missing_rate_falls_back_or_is_refused() -> None:
    titan = device_profile("titan-rtx")
    assert "bfloat16" not in titan.flop_per_s
    assert titan.matmul_rate("bfloat16") == titan.flop_per_s["float32"]
    bare = DeviceSpec(**{field: getattr(titan, field) for field in DeviceSpec.__slots__} | {"flop_per_s": {}})
    with pytest.raises(UnsupportedError, match="titan-rtx"):
        bare.matmul_rate("float16")
