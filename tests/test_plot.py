"""``analyze --plot``: a picture of the frontier, written whole or not at all."""

from __future__ import annotations

import builtins
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from specplan.errors import InputError
from specplan.output.plot import frontier_picture, plot_format
from specplan.plan import Infeasible, Plan
from specplan.planner.analyze import analyze
from specplan.planner.ask import ask
from specplan.units import format_bytes, format_rate
from tests.test_cli import ended, refused

ARGUMENTS = ("analyze", "--model", "llama-68m", "--gpu", "t4", "--context", "256")


def answer(**options: Any) -> Plan | Infeasible:
    fields: dict[str, Any] = {"model": "llama-68m", "gpu": "t4", "context": 256}
    return analyze(ask(**fields | options))


def texts(picture: bytes) -> list[str]:
    """Every text of an SVG."""
    return [node.text or "" for node in ElementTree.fromstring(picture).iter() if node.tag.endswith("}text")]


@pytest.mark.parametrize(("image_format", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG\r\n\x1a\n")])
def test_the_same_plan_gives_the_same_bytes(image_format: str, start: bytes) -> None:
    result = answer()
    picture = frontier_picture(result, image_format)
    assert picture.startswith(start)
    assert picture == frontier_picture(answer(), image_format)


@pytest.mark.parametrize("budget", [None, 1 << 28, 2 << 30])
def test_it_says_what_the_answer_says(budget: int | None) -> None:
    result = answer(budget=budget)
    shown = texts(frontier_picture(result, "svg"))
    assert f"llama-68m on {result.inputs.device.title}" in shown
    marks = result.marks
    assert marks.speculates is not None
    for name, mark in (
        ("decodes", marks.decodes),
        ("speculation pays", marks.speculates),
        ("keeps 96 %", marks.keeps),
        ("fastest", marks.fastest),
    ):
        assert f"{name}: {format_bytes(mark.bytes)}, {format_rate(mark.throughput, 'tokens/s')}" in shown
    memory = format_bytes(int(result.inputs.device.memory_bytes.value))
    assert any(text.startswith(f"memory of the device: {memory}") for text in shown)
    assert any(text.startswith("budget: ") for text in shown) == (budget is not None)


def test_below_a_gibibyte_the_axis_is_in_mebibytes_as_the_marks_are() -> None:
    shown = texts(frontier_picture(answer(model="smollm2-135m"), "svg"))
    assert "bytes on the device, MiB" in shown
    assert "MiB" in next(text for text in shown if text.startswith("decodes: "))


def test_several_devices_are_named() -> None:
    shown = texts(frontier_picture(answer(model="smollm2-135m", num_gpus=2), "svg"))
    assert "smollm2-135m on NVIDIA T4, 2 stages of 15 layers" in shown
    assert "bytes on the device that binds, MiB" in shown


def test_speculation_that_never_pays_has_no_mark() -> None:
    result = answer(alpha=0.0)
    assert result.marks.speculates is None
    assert not any("pays" in text for text in texts(frontier_picture(result, "svg")))


def test_a_frontier_of_one_point_is_drawn() -> None:
    result = answer(drafter="none", context=1)
    assert len(result.frontier) == 1
    assert frontier_picture(result, "png")


@pytest.mark.parametrize("name", ["plan.pdf", "plan", "plan.svg.gz", "svg", ".svg"])
def test_other_formats_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"--plot .*\.svg or \.png"):
        plot_format(Path(name))


def test_the_suffix_may_be_in_capitals() -> None:
    assert plot_format(Path("plan.SVG")) == "svg"


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.svg"
    path.write_text("old")
    result = ended(monkeypatch, capsys, *ARGUMENTS, "--plot", str(path))
    assert result.returncode == 0
    assert result.stderr == f"picture written to {path}\n"
    assert path.read_bytes() == frontier_picture(answer(), "svg")
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary is left


def test_what_does_not_fit_is_drawn_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.png"
    result = ended(monkeypatch, capsys, *ARGUMENTS, "--budget", "100MiB", "--plot", str(path))
    assert result.returncode == 1
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_bad_name_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.pdf"
    refused(ended(monkeypatch, capsys, *ARGUMENTS, "--plot", str(path)), "--plot", ".svg")
    assert not path.exists()


def test_without_matplotlib_one_line_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    path = tmp_path / "plan.svg"
    refused(ended(monkeypatch, capsys, *ARGUMENTS, "--plot", str(path)), "--plot", "matplotlib", "specplan[plot]")
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o500)
    refused(ended(monkeypatch, capsys, *ARGUMENTS, "--plot", str(tmp_path / "plan.svg")), "plan.svg")
    tmp_path.chmod(0o700)


def test_a_folder_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(ended(monkeypatch, capsys, *ARGUMENTS, "--plot", "/nowhere/at/all/plan.svg"), "/nowhere/at/all/plan.svg")


def test_a_write_that_fails_keeps_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.svg"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    refused(ended(monkeypatch, capsys, *ARGUMENTS, "--plot", str(path)), "No space left")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
