"""`fairsims audits`: repeating the audits that fairsims brings along."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairsims.cli.common import Bars, Verbs, command_line
from fairsims.cli.options import PATH, json_option
from fairsims.errors import InputError

if TYPE_CHECKING:
    from fairsims.recipes import Recipe
    from fairsims.recipes.recorded import Change, Found

SHOWN = 3
"""Other numbers of a row that are named; --json has all."""


@click.group(cls=Verbs)
def audits() -> None:
    """Repeat recorded audits and see what differs."""


@audits.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The recipes there are: name, kind, runs, what they are about."""
    from fairsims.recipes import list_recipes

    found = list_recipes()
    if as_json:
        click.echo(json.dumps([_facts(r) for r in found]))
        return
    width = max(len(r.name) for r in found)
    for r in found:
        facts = _facts(r)
        runs = f"{facts['runs']} run{'s' if facts['runs'] > 1 else ''}" if facts["runs"] else "your files"
        recorded = "recorded" if facts["recorded"] else ""
        click.echo(f"{r.name:<{width}}  {r.kind:<14} {runs:<11} {recorded:<9} {r.title}".rstrip())


def _facts(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "kind": recipe.kind,
        "runs": len(recipe.value.get("runs", [])),
        "recorded": recipe.results.exists(),
        "title": recipe.title,
        "folder": str(recipe.folder),
    }


@audits.command("run")
@click.argument("name")
@click.option("--runs", type=PATH, help="Folder of the runs; by default runs/audits, of loops runs/collapse.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Carry out the runs of this seed only; again for more.")
@click.option("--only", default="", help="Carry out the runs whose folder's name starts so.")
@click.option("--record", is_flag=True, help="Keep the results in the recipe's folder, in place of those recorded.")
@json_option
def run(name: str, runs: Path | None, seeds: tuple[int, ...], only: str, record: bool, as_json: bool) -> None:
    """Carry out the recipe NAME, or the one in the folder NAME, and say what differs from what is recorded.

    What is unfinished is resumed, what is finished is read. Exit code 1 when a value lies outside its recorded 95%
    interval; seconds and memory are not compared.
    """
    from fairsims.recipes import RESULTS, find_recipe
    from fairsims.recipes.recorded import OUTSIDE, differences, read_results
    from fairsims.recipes.repeating import runs_of, table_of, write_table

    recipe = find_recipe(name)
    planned = runs_of(recipe, runs)
    chosen = [k for k, r in enumerate(planned) if (not seeds or r.seed in seeds) and r.folder.name.startswith(only)]
    if not chosen:
        named = ", ".join(r.folder.name for r in planned if not seeds or r.seed in seeds)
        known = ", ".join(str(seed) for seed in sorted({r.seed for r in planned}))
        expected = f"--only and the start of one of {named}" if named else f"--seed and one of {known}"
        raise InputError(f"{recipe.name} has no such run; expected {expected}")
    recorded = read_results(recipe.results) if recipe.results.exists() else None
    written = recipe.results if record else planned[0].folder.parent / RESULTS
    for k in chosen:
        click.echo(f"{planned[k].folder}", err=True)
        with Bars() as bars:
            # The nearest first: the run just before has most often the same complement.
            planned[k].carry_out(planned[:k][::-1], progress=bars.report, command=command_line())
        write_table(table_of(planned), written)
    found = [] if recorded is None else differences(recorded, read_results(written), planned[0].keys)
    outside = sum(f.state == OUTSIDE for f in found)
    if as_json:
        facts = {"recipe": recipe.name, "results": str(written), "recorded": recorded is not None, "outside": outside}
        rows = [asdict(f) | {"state": f.state, "changes": [_change(c) for c in f.changes]} for f in found]
        click.echo(json.dumps(facts | {"rows": rows}))
    else:
        click.echo("\n".join(_lines(found, recorded is not None, outside, written)))
    sys.exit(1 if outside else 0)


def _change(change: Change) -> dict[str, Any]:
    return asdict(change) | {"outside": change.outside}


def _lines(found: Sequence[Found], recorded: bool, outside: int, written: Path) -> list[str]:
    if not recorded:
        return [f"nothing was recorded for this recipe before; --record keeps results with it\nresults {written}"]
    lines = []
    for f in found:
        lines.append(f"{f.row}: {f.state}")
        shares = [c for c in f.changes if c.limits is not None]
        others = [c for c in f.changes if c.limits is None]
        for c in shares:
            low, high = c.limits or (0.0, 0.0)
            where = "outside of" if c.outside else "inside"
            lines.append(f"  {c.column} {c.recorded} -> {c.now}, {where} the recorded interval [{low:g}, {high:g}]")
        others.sort(key=lambda c: -abs(c.relative) if c.relative is not None else float("-inf"))
        for c in others[:SHOWN]:
            by = f", {c.relative:+.1%}" if c.relative is not None else ""
            lines.append(f"  {c.column} {c.recorded} -> {c.now}{by}")
        if len(others) > SHOWN:
            lines.append(f"  and {len(others) - SHOWN} more by less")
    states = [f.state for f in found]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    return [*lines, f"rows: {counts}", f"results {written}"]
