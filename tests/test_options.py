"""Settings said once: what is read from the source is what the class has, and options, TOML and JSON come from it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import click
import pytest
from support import run

from fairsims.cli import main, options
from fairsims.cli.audits import AUDIT
from fairsims.cli.classifying import HELD_OUT, PROBE, RECIPE
from fairsims.cli.collapsing import COLLAPSE
from fairsims.cli.retargeting import SWEEP
from fairsims.cli.training import ATTENTION, TRAIN
from fairsims.errors import InputError
from fairsims.models.families import ARCHITECTURES
from fairsims.models.solvers import SOLVERS
from fairsims.options import check_choices, choice, from_mapping, keys_of, settings_of, to_json
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.grid import SweepConfig

PLACES = (options.RETARGET, options.SAMPLER, SWEEP, TRAIN, AUDIT, COLLAPSE, HELD_OUT, RECIPE, PROBE)


@pytest.mark.parametrize("place", PLACES)
def test_what_the_source_says_is_what_the_class_has(place: str) -> None:
    module, _, name = place.partition(":")
    found = settings_of(place)
    for field in fields(getattr(importlib.import_module(module), name)):
        setting = found[field.name]
        if field.default is not MISSING or field.default_factory is MISSING:
            assert setting.default == field.default, field.name
        assert field.metadata.get("choices", setting.choices) == setting.choices


def test_a_default_of_another_class_brings_choices_and_help() -> None:
    solver, own = settings_of(options.RETARGET)["solver"], settings_of(options.SAMPLER)["solver"]
    assert (solver.default, solver.choices, solver.help) == (own.default, own.choices, own.help)
    assert own.choices == tuple(SOLVERS)
    assert own.help == "Solver of the sampling ODE.", "further paragraphs are for readers of the code"


def test_keys_of_a_dict_are_read_from_the_source() -> None:
    assert keys_of("fairsims.models.families:ARCHITECTURES") == tuple(ARCHITECTURES)


@pytest.mark.parametrize(
    "command", [c for group in (main, *main.commands.values()) for c in getattr(group, "commands", {}).values()]
)
def test_every_option_says_what_it_is(command: click.Command) -> None:
    assert [p.opts for p in command.params if isinstance(p, click.Option) and not p.help] == []


@dataclass(frozen=True, kw_only=True)
class Inner:
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    kind: str = choice("near", "far")
    size: int
    rate: float = 0.5
    sizes: tuple[int | None, ...] = ()
    ends: tuple[float, float] | None = None
    where: Path | None = None
    others: Mapping[str, float] | None = None
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        check_choices(self)


def test_json_and_back() -> None:
    value = {
        "kind": "far",
        "size": 3,
        "rate": 1,
        "sizes": [1, None],
        "ends": [0, math.e],
        "where": "a/b",
        "others": {"x": 1.5},
        "inner": {"wide": True},
    }
    outer = from_mapping(Outer, value)
    assert (outer.sizes, outer.ends, outer.where, outer.inner) == (
        (1, None),
        (0, math.e),
        Path("a/b"),
        Inner(wide=True),
    )
    assert to_json(outer) == value
    run = RetargetConfig(
        attr="parity", target="0.5", model="digits-8", finetune={"augment": 0.1, "xflip": True}, calibration=130
    )
    sweep = SweepConfig(run=run, sizes=(None, 9), intervals=(None, (0.3, 5.0)), modes=("guided",))
    assert from_mapping(SweepConfig, to_json(sweep)) == sweep


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": 1, "rates": 2}, "there is no setting 'rates'; did you mean 'rate'"),
        ({"rate": 2.0}, "the setting 'size' is missing"),
        ({"size": 1.5}, "size is 1.5; expected a whole number"),
        ({"size": True}, "size is True; expected a whole number"),
        ({"size": 1, "rate": "x"}, "rate is 'x'; expected a number"),
        ({"size": 1, "ends": [1, 2, 3]}, "ends is .*; expected a list of 2"),
        ({"size": 1, "sizes": ["all"]}, r"sizes\[0\] is 'all'; expected a whole number"),
        ({"size": 1, "inner": {"wider": 1}}, "no setting 'wider'; did you mean 'wide'"),
        ({"size": 1, "kind": "fer"}, "kind is 'fer'; expected one of near, far"),
    ],
)
def test_what_no_settings_can_be_made_of_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, ValueError), match=message):
        from_mapping(Outer, value)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("512,1024", options.WHOLE, (512, 1024)),
        ("0.5, 1", options.NUMBERS, (0.5, 1.0)),
        ("0.2,5", options.PAIR, (0.2, 5.0)),
        ("all,64", options.SIZES, (None, 64)),
        ("none,0.3:5", options.INTERVALS, (None, (0.3, 5.0))),
        ("xflip=true", options.CHANGE, ("xflip", True)),
        ("augment=0.1", options.CHANGE, ("augment", 0.1)),
        ("0-1023", options.SEEDS, range(1024)),
        ("7", options.SEEDS, range(7, 8)),
        ("none", ATTENTION, ()),
        ("16,8", ATTENTION, (16, 8)),
    ],
)
def test_texts(text: str, kind: options.Text, value: object) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", options.WHOLE),
        ("1,,2", options.WHOLE),
        ("1.5", options.WHOLE),
        ("1,2,3", options.PAIR),
        ("1", options.PAIR),
        ("none", options.SIZES),
        ("5:0.3", options.INTERVALS),
        ("0.3:inf", options.INTERVALS),
        ("nan:1", options.INTERVALS),
        ("augment", options.CHANGE),
        ("9-3", options.SEEDS),
        ("-5", options.SEEDS),
    ],
)
def test_texts_that_cannot_be_read(text: str, kind: options.Text) -> None:
    with pytest.raises(InputError, match=r"is '.*'; expected "):
        kind.convert(text, None, None)


def test_help_fits_a_terminal() -> None:
    for command in [[], *([name] for name in main.commands)]:
        lines = run(*command, "--help").stdout.splitlines()
        assert max(map(len, lines)) <= 80, command
