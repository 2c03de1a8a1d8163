"""`fairsims retarget --prompts` and `compare --prompts`: a text-to-image pipeline over prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairsims.cli.common import Bars, command_line, say
from fairsims.cli.options import RETARGET, given_once, refuse_idle, settings, was_given
from fairsims.errors import InputError
from fairsims.options import settings_of

if TYPE_CHECKING:
    from fairsims.retarget.prompt_run import PromptRetargeting

PROMPTS = "fairsims.retarget.prompt_config:PromptConfig"
OWN = (
    *("positive", "agreement", "layers", "timesteps", "min_snr", "checkpointing", "micro_batch", "empty_share"),
    *("guidance_scale", "size", "offload", "slicing"),
)
"""Settings that only text-to-image pipelines have."""
own_options = settings(PROMPTS, *OWN)


def _prepared(prompts: str, options: dict[str, Any], *, why: str) -> PromptRetargeting:
    """What the options ask for, opened. Raises InputError where one of them says nothing, `why` says with what."""
    from fairsims.retarget.prompt_config import PromptConfig
    from fairsims.retarget.prompt_retarget import prepare_prompts

    known = settings_of(PROMPTS)
    refuse_idle(why, *(name for name in settings_of(RETARGET) if name not in known), "dry_run")
    if not was_given("model"):
        raise InputError("--prompts is given without --model; give the folder of a text-to-image pipeline")
    asked = {name: value for name, value in options.items() if name in known and was_given(name)}
    for name in ("attr", "target"):
        if isinstance(options[name], tuple):
            option = next(p for p in click.get_current_context().command.params if p.name == name)
            asked[name] = given_once(click.get_current_context(), option, options[name])
    # auto is what the hardware has, and stands in no file.
    return prepare_prompts(PromptConfig(prompts=prompts, **asked | {"precision": options["precision"]}))


def over_prompts(prompts: str, out: Path | None, runs: Path, options: dict[str, Any], as_json: bool) -> None:
    """Carry out a retargeting over the prompts of a file and print what it found."""
    from fairsims.report.prompt_parts import feasibility_table
    from fairsims.report.prompts import prompt_text, write_prompt_report
    from fairsims.report.terminal import as_text
    from fairsims.retarget.opening import find_run
    from fairsims.retarget.prompt_retarget import retarget_prompts

    work = _prepared(prompts, options, why="with --prompts")
    run = out or find_run(work.config.label, work.settings, runs)
    with Bars() as bars:
        result = retarget_prompts(
            work,
            run,
            progress=bars.report,
            publish=write_prompt_report,
            feasible=lambda classes, rows: click.echo(as_text([feasibility_table(classes, rows)]), err=True),
            command=command_line(),
        )
    text = f"{prompt_text(result)}\n\nreport  {run / 'report.html'}"
    if work.config.mode == "merged":
        text += f"\nLoRA    {run / 'lora'}"
    say(json.dumps({"run": str(run), **result}) if as_json else text)


def arms_over_prompts(
    prompts: str, out: Path, arms: tuple[str, ...] | None, options: dict[str, Any], as_json: bool
) -> None:
    """Compare ways to the targets of a file's prompts and print where they end up."""
    from fairsims.report.prompt_comparison import prompt_comparison_text, write_prompt_comparison
    from fairsims.retarget.prompt_compare import compare_prompts

    work = _prepared(prompts, options, why="with --prompts")
    with Bars() as bars:
        result = compare_prompts(
            work, out, arms, progress=bars.report, publish=write_prompt_comparison, command=command_line()
        )
    text = f"{prompt_comparison_text(result)}\n\nreport  {out / 'report.html'}"
    text += f"\ntable   {out / 'prompt-compare.parquet'}"
    say(json.dumps({"comparison": str(out), **result}) if as_json else text)
