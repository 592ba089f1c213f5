"""SP401: a stale plan."""

from __future__ import annotations

from collections.abc import Iterator

from specplan.rules.finding import Finding
from specplan.rules.plans import plan_findings
from specplan.rules.rule import Example, Rule
from specplan.rules.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """The models of a plan against what they are now."""
    if subject.deployment.get("plan") is not None:
        yield from plan_findings(subject, "SP401")


RULE = Rule(
    "SP401",
    "Stale plan",
    "error",
    "A plan holds for the models that it was made from, told by the hash of their configs. When one of them "
    "changed, its bytes and its speed are those of another model. So it is with a plan that other code of specplan "
    "made, whose formulas gave an item other bytes.",
    Example("run.sh", "specplan run plan.json  # made before models/target/config.json was changed\n", None),
    Example("run.sh", "specplan run plan.json  # made from models/target as it is\n", None),
    "Analyze again.",
    check,
)
