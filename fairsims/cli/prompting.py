"""`fairsims retarget --prompts`: a text-to-image pipeline over prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import Bars, command_line, say
from fairsims.cli.options import RETARGET, given_once, refuse_idle, settings, was_given
from fairsims.errors import InputError
from fairsims.options import settings_of

PROMPTS = "fairsims.retarget.prompt_config:PromptConfig"
OWN = (
    *("positive", "agreement", "layers", "timesteps", "min_snr", "checkpointing", "micro_batch", "empty_share"),
    *("guidance_scale", "size", "offload", "slicing"),
)
"""Settings that only text-to-image pipelines have."""
own_options = settings(PROMPTS, *OWN)


def over_prompts(prompts: str, out: Path | None, runs: Path, options: dict[str, Any], as_json: bool) -> None:
    """Carry out a retargeting over the prompts of a file and print what it found."""
    from fairsims.report.prompts import feasibility_table, prompt_text, write_prompt_report
    from fairsims.report.terminal import as_text
    from fairsims.retarget.opening import find_run
    from fairsims.retarget.prompt_config import PromptConfig
    from fairsims.retarget.prompt_retarget import prepare_prompts, retarget_prompts

    known = settings_of(PROMPTS)
    refuse_idle("with --prompts", *(name for name in settings_of(RETARGET) if name not in known), "dry_run")
    if not was_given("model"):
        raise InputError("--prompts is given without --model; give the folder of a text-to-image pipeline")
    asked = {name: value for name, value in options.items() if name in known and was_given(name)}
    for name in ("attr", "target"):
        option = next(p for p in click.get_current_context().command.params if p.name == name)
        asked[name] = given_once(click.get_current_context(), option, options[name])
    # auto is what the hardware has, and stands in no file.
    config = PromptConfig(prompts=prompts, **asked | {"precision": options["precision"]})
    work = prepare_prompts(config)
    run = out or find_run(config.label, work.settings, runs)
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
    if config.mode == "merged":
        text += f"\nLoRA    {run / 'lora'}"
    say(json.dumps({"run": str(run), **result}) if as_json else text)
