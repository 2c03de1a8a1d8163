"""What a notebook needs, by name: loaded when used, and every example in a docstring runs."""

from __future__ import annotations

import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fairsims
from fairsims.cli import main
from fairsims.files import read_json

HEAVY = ("torch", "pandas", "numpy", "sklearn", "pyarrow")


def test_importing_loads_nothing_heavy() -> None:
    code = f"import fairsims, sys; print([m for m in {HEAVY!r} if m in sys.modules], len(dir(fairsims)) > 12)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[] True\n"


def test_every_name_is_there_and_no_other() -> None:
    assert set(fairsims.__all__) <= set(dir(fairsims))
    assert sorted(fairsims.__all__) == sorted(name for names in fairsims._ROOMS.values() for name in names)
    for name in fairsims.__all__:
        assert getattr(fairsims, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'open_datasets'"):
        fairsims.open_datasets  # noqa: B018


@pytest.mark.parametrize("name", ["", *fairsims.__all__])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = getattr(fairsims, name) if name else fairsims
    module = sys.modules[shown.__module__] if name else fairsims
    text = inspect.getdoc(shown) or ""
    example = doctest.DocTestParser().get_doctest(text, dict(vars(module)), name or "fairsims", module.__file__, 0)
    assert example.examples, f"{name} shows no example"
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed == 0, "".join(said)


def test_a_retargeting_in_one_call_is_that_of_the_command(tmp_path: Path) -> None:
    """The same images, weights, settings and numbers; only the recorded command and times differ."""
    tiny = {"pool": 200, "audit": 50, "steps": 4, "solver": "dpmpp2m", "rounds": 1, "budget": 0.048, "batch_size": 24}
    chosen = {"model": "digits-8", "attr": "parity", "target": "0.5", **tiny}
    fairsims.retarget_model(tmp_path / "called", **chosen, calibration=100)
    options = [text for k, v in chosen.items() for text in (f"--{k.replace('_', '-')}", str(v))]
    command = ["retarget", *options, "--calibration", "100", "--out", str(tmp_path / "typed"), "--json"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.stderr or result.exception
    called, typed = (tmp_path / name for name in ("called", "typed"))
    assert {p.name for p in called.iterdir()} == {p.name for p in typed.iterdir()}
    for name in ("pool/shard-00000.parquet", "after/shard-00000.parquet", "config.json"):
        assert (called / name).read_bytes() == (typed / name).read_bytes()
    one, other = (read_json(run / "audit" / "audit.json") for run in (called, typed))
    for key in ("attributes", "method", "calibration"):
        assert json.dumps(one[key]) == json.dumps(other[key])
