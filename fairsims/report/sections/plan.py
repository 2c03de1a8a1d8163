"""What was fixed before the results were known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fairsims.audit.facts import Power
from fairsims.audit.power import power_sentence
from fairsims.audit.records import from_json
from fairsims.errors import InputError
from fairsims.report.document import Block, Code, Column, Facts, Row, Text, row, table
from fairsims.report.numbers import NOTHING, mix, moment, seeds, value_text
from fairsims.report.sections.context import Context
from fairsims.run import PLAN

SAID = {
    "n": "audit images, of each side where before says nothing else",
    "before": "before",
    "alpha": "level of significance",
    "mode": "mode",
    "budget_kimg": "fine-tuning, thousands of images",
    "rounds": "rounds at most",
    "cap": "strength at most",
    "taken_over": "older than this plan, taken over from an earlier run",
}


def plan(context: Context) -> Iterator[Block]:
    """The plan with its digest and time. Raises InputError when it is another than the audit names."""
    if context.plan is None:
        yield Text(
            text="No plan was fixed beforehand that this report could show: the audit has no plan.json. Target and "
            "tolerance above are those of the audit itself."
        )
        return
    written, digest, found = (context.plan.get(k) for k in ("written", "sha256", "plan"))
    recorded = context.result.plan
    if recorded is not None and recorded.sha256 != digest:
        raise InputError(
            f"{context.run / PLAN} is not the plan that the audit was made by (its digest differs); restore it"
        )
    fixed: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    when = fixed.get("when") or "before measuring"
    rows = (
        ("written", f"{moment(written) or NOTHING}, {when}"),
        ("SHA-256 of the plan", str(digest or NOTHING)),
    )
    yield Facts(rows=rows, mono=True)
    if attributes := fixed.get("attributes"):
        columns = ("attribute", Column(title="target", name=True), "tolerance or drift, points")
        yield table(columns, (_attribute(name, value) for name, value in attributes.items()))
    facts = [("metrics", "; ".join(map(str, fixed["metrics"])))] if fixed.get("metrics") else []
    facts += [(label, value_text(fixed[key])) for key, label in SAID.items() if fixed.get(key) is not None]
    if power := fixed.get("power"):
        facts.append(("power", power_sentence(from_json(Power, power, place="power of the plan"))))
    facts += [(f"seeds, {use}", seeds([ends])) for use, ends in (fixed.get("seeds") or {}).items()]
    yield Facts(rows=tuple(facts))
    yield Code(
        text=json.dumps(dict(context.plan), indent=2, ensure_ascii=False),
        summary="The plan as it was written (plan.json)",
    )


def _attribute(name: str, value: Mapping[str, Any]) -> Row:
    target = value.get("target")
    text = mix(target) if target else str(value.get("target_text") or "none: it is to stay as it is")
    limit = value.get("tolerance", value.get("drift"))
    return row(name, text, NOTHING if limit is None else f"±{100 * float(limit):.3g}")
