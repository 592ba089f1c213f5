"""``analyze --fleet``: the queue against textbooks and a simulation, the sizing against enumeration."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import statistics
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.fleet_simulation import Machine, Speeds, simulate
from specplan.errors import InputError
from specplan.fleet.demand import Demand, RequestClass
from specplan.fleet.queueing import Queue, Service
from specplan.fleet.read import fleet_of
from specplan.fleet.replica import best_replica
from specplan.fleet.sizing import Sizing, fleet_from, size
from specplan.output import fleet as output
from tests.test_cli import ended

FLEET: dict[str, Any] = {
    "deployment": {"model": "smollm2-135m", "drafter": "ngram"},
    "demand": {
        "rate_per_s": 20.0,
        "requests": [
            {"share": 0.75, "prompt_tokens": 200, "new_tokens": 100},
            {"share": 0.25, "prompt_tokens": 1000, "new_tokens": 400},
        ],
    },
    "cards": [{"gpu": "rtx-3060", "count": 5}, {"gpu": "jetson-orin-nano-8gb", "count": 20}],
    "max_batch": 4,
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The fleet with one entry replaced, or removed where the value is None."""
    data: Any = copy.deepcopy(FLEET)
    *outer, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node = data
    for part in outer:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    result: dict[str, Any] = data
    return result


def exponential(mean_s: float) -> Service:
    return Service(mean_s, 1.0)


def test_one_exponential_server_is_the_textbooks_queue() -> None:
    queue = Queue(0.8, 1, exponential(1.0))
    assert queue.wait_probability == pytest.approx(0.8)
    assert queue.mean_wait_s == pytest.approx(0.8 / 0.2)
    assert queue.wait_quantile_s(0.95) == pytest.approx(math.log(0.8 / 0.05) / 0.2)


def test_a_fixed_service_time_halves_the_wait() -> None:
    """Pollaczek and Khinchine, for one server."""
    assert Queue(0.5, 1, Service(1.0, 0.0)).mean_wait_s == pytest.approx(0.5)


@given(offered=st.floats(0.1, 11.9), servers=st.integers(1, 12))
def test_the_recursion_is_erlangs_sum(offered: float, servers: int) -> None:
    queue = Queue(offered, servers, exponential(1.0))
    if offered >= servers:
        assert queue.wait_probability == 1
        assert queue.mean_wait_s == math.inf
        return
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    whole = sum(offered**k / math.factorial(k) for k in range(servers)) + last
    assert queue.wait_probability == pytest.approx(last / whole)


def test_the_formula_is_near_a_simulation() -> None:
    """Steps of one length, no prefill: the queue that the formula is about."""
    classes = (RequestClass(0.5, 1, 100), RequestClass(0.5, 1, 300))
    demand = Demand(3.2, classes)
    machines = [Machine(4, Speeds([0.01] * 5, [0.0, 0.0], 2.0)) for _ in range(1)]
    waits = simulate(demand, machines, 20_000)
    mean = 0.5 * 0.5 + 0.5 * 1.5
    service = Service(mean, (0.5 * 0.25 + 0.5 * 2.25) / mean**2 - 1)
    queue = Queue(demand.rate_per_s, 4, service)
    assert queue.utilization == pytest.approx(0.8)
    assert statistics.mean(waits) == pytest.approx(queue.mean_wait_s, rel=0.15)
    assert sum(wait > 0.05 for wait in waits) / len(waits) == pytest.approx(queue.wait_probability, abs=0.08)


@pytest.fixture(scope="module")
def sizing() -> Sizing:
    return size(fleet_of(FLEET, "fleet.toml"))


def test_no_smaller_fleet_serves(sizing: Sizing) -> None:
    """Against every mixture of fewer cards."""
    demand, fleet = sizing.question.demand, sizing.fleet
    assert fleet is not None
    assert fleet.queue.utilization < 1
    assert fleet.wait_s <= demand.wait_s
    replicas = [option.replica for option in sizing.options if option.replica is not None]
    assert len(replicas) == 2
    for first in range(fleet.num_cards):
        for second in range(fleet.num_cards - first):
            counts = [(r, n) for r, n in zip(replicas, (first, second), strict=True) if 0 < n <= r.cards.count]
            if counts and sum(n for _, n in counts) == first + second:
                smaller = fleet_from(demand, counts)
                assert smaller.queue.utilization >= 1 or smaller.wait_s > demand.wait_s


def test_rows_share_a_card_by_its_plan(sizing: Sizing) -> None:
    for option in sizing.options:
        replica = option.replica
        assert replica is not None
        assert replica.plan.workload.context == 1400
        assert replica.num_rows == replica.plan.workload.batch_size <= 4
        assert replica.plan.peak_bytes <= replica.plan.inputs.budget_bytes
        shares = [each.share for each in sizing.question.demand.requests]
        totals = [time.total_s for time in replica.times]
        mean = sum(share * total for share, total in zip(shares, totals, strict=True))
        assert replica.service.mean_s == pytest.approx(mean)


def test_with_all_rows_busy_prefill_and_decoding_fill_the_time() -> None:
    """Per request served, a replica spends one prefill, and the steps of its answer shared by the rows."""
    question = fleet_of(FLEET, "fleet.toml")
    replica = best_replica(question, question.cards[0])
    assert replica is not None
    rows, classes = replica.num_rows, question.demand.requests
    assert rows > 1
    prefill = sum(c.share * time.prefill_s for c, time in zip(classes, replica.times, strict=True))
    decode = sum(c.share * time.decode_s for c, time in zip(classes, replica.times, strict=True))
    # of `decode` seconds, (rows - 1) prefills are others'; the rest are steps in which all rows gain
    steps = decode - (rows - 1) * prefill
    assert 1 / replica.capacity_per_s == pytest.approx(prefill + steps / rows)


def test_speed_for_each_request_limits_the_batch() -> None:
    question = fleet_of(FLEET, "fleet.toml")
    widest = best_replica(question, question.cards[1])
    assert widest is not None
    demand = dataclasses.replace(question.demand, least_tokens_per_s=widest.least_tokens_per_s * 1.01)
    narrower = best_replica(dataclasses.replace(question, demand=demand), question.cards[1])
    assert narrower is not None
    assert narrower.num_rows < widest.num_rows
    impossible = dataclasses.replace(question.demand, least_tokens_per_s=1e8)
    assert best_replica(dataclasses.replace(question, demand=impossible), question.cards[1]) is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("deployment.model", None, "missing key deployment.model"),
        ("deployment.gpu", "t4", "unknown key deployment.gpu"),
        ("deployment.alpha", "high", "deployment.alpha must be a number, found 'high'"),
        ("demand.rate_per_s", 0, "demand.rate_per_s must be from 1e-09 to 1000000000, found 0"),
        ("demand.rate_per_s", float("nan"), "demand.rate_per_s must be a finite number, found nan"),
        ("demand.requests", [], "demand.requests must be a list of 1 to 1000 entries, found []"),
        ("demand.requests.0.share", 0.5, "demand: the shares of requests add up to 0.75, expected 1"),
        ("demand.requests.1.new_tokens", True, "demand.requests[1].new_tokens must be an integer, found True"),
        ("cards.0.count", 0, "cards[0].count must be from 1 to 10000, found 0"),
        ("cards.1.gpu", "rtx-3060", "cards names rtx-3060 twice"),
        ("cards.1.gpu", "rtx-3060,t4", "cards[1]: gpu 'rtx-3060,t4' names several kinds of cards"),
        ("cards.0.per_replica", [1, 6], "cards[0]: per_replica 6 is more than the 5 cards of count"),
        ("cards.0.per_replica", [1, 0], "cards[0].per_replica[1] must be from 1 to 64, found 0"),
        ("cards.0.per_replica", [2, 2], "cards[0]: per_replica names a number twice"),
        ("max_batch", 1 << 20, "max_batch must be from 1 to 1024, found 1048576"),
        ("max_bach", 4, "unknown key max_bach: did you mean max_batch?"),
        ("fleet", {}, "unknown key fleet"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_path(path: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        fleet_of(changed(path, value), "fleet.toml")
    assert message in str(caught.value)
    assert "fleet.toml" in str(caught.value)


def text_of(fleet: dict[str, Any]) -> str:
    """JSON objects as TOML."""
    lines = [f"max_batch = {fleet['max_batch']}"]
    for name in ("deployment", "demand"):
        lines.append(f"[{name}]")
        for key, value in fleet[name].items():
            if key == "requests":
                tables = ["{" + ", ".join(f"{k} = {v}" for k, v in entry.items()) + "}" for entry in value]
                lines.append(f"requests = [{', '.join(tables)}]")
            else:
                lines.append(f"{key} = {json.dumps(value)}")
    for entry in fleet["cards"]:
        lines += ["[[cards]]", *(f"{key} = {json.dumps(value)}" for key, value in entry.items())]
    return "\n".join(lines)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sizing: Sizing
) -> None:
    path = tmp_path / "fleet.toml"

    def asked(fleet: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
        path.write_text(text_of(fleet))
        return ended(monkeypatch, capsys, "analyze", "--fleet", str(path), *arguments)

    table = asked(FLEET)
    assert (table.returncode, table.stdout) == (0, output.to_table(sizing))
    data = json.loads(asked(FLEET, "--format", "json").stdout)
    assert sizing.fleet is not None
    assert data["fleet"]["num_cards"] == sizing.fleet.num_cards == sum(option["used"] for option in data["options"])
    crowd = asked(changed("demand.rate_per_s", 1e6))
    assert crowd.returncode == 1
    assert "requests pile up" in crowd.stdout
    other = asked(FLEET, "--alpha", "0.5")
    assert other.returncode == 2
    assert "--alpha is of no use with --fleet" in other.stderr
    alone = ended(monkeypatch, capsys, "analyze")
    assert alone.returncode == 2
    assert "Missing option '--model'" in alone.stderr


def test_cards_that_cannot_hold_it_and_models_that_nobody_knows() -> None:
    big = fleet_of(changed("deployment.model", "llama-3.1-405b"), "fleet.toml")
    found = size(big)
    assert found.fleet is None
    assert found.whole is None
    assert "does not fit" in output.to_table(found)
    assert json.loads(output.to_json(found))["fleet"] is None
    with pytest.raises(InputError, match="nobody"):
        size(fleet_of(changed("deployment.model", "nobody"), "fleet.toml"))


def test_a_model_that_no_card_holds_is_spread() -> None:
    data = changed("deployment.model", "llama-2-70b-chat")
    data["demand"]["rate_per_s"] = 0.5
    data["cards"] = [{"gpu": "a100-80gb", "count": 7, "per_replica": [1, 4, 2]}]
    found = size(fleet_of(data, "fleet.toml"))
    assert found.fleet is not None
    ((replica, count),) = found.fleet.counts
    assert replica.num_cards in (2, 4)
    assert replica.plan.spread is not None
    assert replica.plan.spread.parallelism.num_ranks == replica.num_cards
    assert found.fleet.num_cards == count * replica.num_cards
    assert json.loads(output.to_json(found))["options"][0]["used"] == found.fleet.num_cards
    alone = size(fleet_of(data | {"cards": [{"gpu": "a100-80gb", "count": 7}]}, "fleet.toml"))
    assert alone.whole is None


def test_the_documented_fleet_gives_the_documented_answer() -> None:
    text = (Path(__file__).parent.parent / "docs" / "scale.md").read_text()
    example, rest = text.split("```toml\n")[1].split("```", 1)
    shown = rest.split("$ specplan analyze --fleet fleet.toml\n")[1].split("```")[0]
    assert output.to_table(size(fleet_of(tomllib.loads(example), "fleet.toml"))) == shown
