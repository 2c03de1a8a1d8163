"""The job over prompts: pool, feasibility, complement prompt by prompt, adapters, calibration, audit, LoRA file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fairsims import engine
from fairsims.audit.features import CLIP
from fairsims.audit.joint import Cells
from fairsims.audit.prompt_agreement import TextAgreement
from fairsims.audit.prompts import named_class
from fairsims.audit.targets import parse_target
from fairsims.classifiers import AttributeClassifier, load_classifier
from fairsims.data.prompts import Prompts, read_prompts
from fairsims.errors import InputError
from fairsims.files import read_json, sha256_json, write_json
from fairsims.models import ModelSpec, PipelineModel
from fairsims.retarget.opening import open_classifier
from fairsims.retarget.prompt_audit import audit_prompts, registered
from fairsims.retarget.prompt_config import PromptConfig
from fairsims.retarget.prompt_rounds import best_round, calibrated_rounds
from fairsims.retarget.prompt_run import PromptRetargeting
from fairsims.run import Progress, Run, silent, write_plan

FORMAT = "fairsims-prompts/1"
"""Of `prompts.json`."""
Publish = Callable[[Path, Mapping[str, Any]], object]
"""(run, result)"""
Feasible = Callable[[Sequence[str], Sequence[Mapping[str, Any]]], object]
"""(classes, rows of `feasibility.json`)"""


def prepare_prompts(config: PromptConfig) -> PromptRetargeting:
    """Open what the configuration names. Raises InputError for what cannot work, before any file is written."""
    prompts = read_prompts(config.prompts)
    neutral = prompts.of("neutral")
    spec = ModelSpec(
        base=config.model,
        precision=config.precision,
        batch_size=config.sample_batch,
        prompting=config.prompting((*neutral, "")),
    )
    model = PipelineModel(spec)
    if model.pipeline.unconditional == "none":
        model = model.asking(prompts=neutral)
    given = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    named: dict[str, str] = {}
    for text in given:
        attribute_name, _, place = text.partition("=")
        named |= {attribute_name: place} if place else {config.attr: text}
    shape = model.image_shape
    classifiers = tuple(open_classifier(a, named.get(a), shape) for a in (config.attr, *config.hold))
    watched = tuple(open_classifier(a, s, shape) for a, s in named.items() if a not in (config.attr, *config.hold))
    attribute = classifiers[0].attribute
    for other in (*classifiers[1:], *watched):
        # Refuses what has too many joint cells to be audited.
        Cells(attributes=(attribute, other.attribute))
    agreement = _agreement(config, prompts, model)
    targets = {}
    for text in (*prompts.of("neutral", "held-out"), ""):
        asked = (prompts.by_text[text].target if text else None) or config.target
        targets[text] = parse_target(asked, attribute)
        if targets[text].number not in (None, 0.5):
            raise InputError(
                f"--target {asked} is one number; prompts differ in the class they have too little of, so only 0.5 can "
                f"be meant: give {','.join(f'{c}=...' for c in attribute.determined)}"
            )
    for says in {p.says for p in prompts.items if p.says is not None} - set(attribute.classes):
        raise InputError(f"{prompts.name} has explicit prompts of {says!r}; {attribute.name} has {attribute.classes}")
    digests = {"base_digest": model.digest, "prompts_digest": prompts.digest}
    digests |= {f"{c.attribute.name}_classifier_digest": c.digest for c in (*classifiers, *watched)}
    digests |= {} if agreement is None else {"agreement_digest": agreement.digest}
    return PromptRetargeting(
        config=config,
        prompts=prompts,
        model=model,
        classifiers=classifiers,
        watched=watched,
        agreement=agreement,
        targets=targets,
        settings=json.loads(json.dumps(config.as_dict() | digests)),
    )


def _agreement(
    config: PromptConfig, prompts: Prompts, model: PipelineModel
) -> AttributeClassifier | TextAgreement | None:
    """The classifier of what prompts name, or CLIP. Raises InputError where it fits neither prompts nor images."""
    if config.agreement is None:
        return None
    if config.agreement.startswith(CLIP):
        return TextAgreement.open(config.agreement, [p.text for p in prompts.items], model.image_shape)
    found = load_classifier(config.agreement)
    classes = found.attribute.classes
    if all(named_class(p.text, classes) is None for p in prompts.items):
        raise InputError(
            f"no prompt of {prompts.name} names a class of {found.name} ({', '.join(classes[:5])}, ...); give "
            "--agreement a classifier of what the prompts name"
        )
    found.probabilities(torch.zeros((1, *model.image_shape), dtype=torch.uint8))
    return found


def retarget_prompts(
    work: PromptRetargeting,
    folder: Path,
    *,
    progress: Progress = silent,
    publish: Publish = lambda *_: None,
    feasible: Feasible = lambda *_: None,
    command: str = "",
) -> dict[str, Any]:
    """Carry out a retargeting over prompts in `folder`; returns its result, which `prompts.json` has.

    A finished run is read, not repeated; one that was killed goes on. `feasible` is told what each prompt has and needs
    before anything is trained. `publish` makes pages of the result before the
    run counts as finished. Raises as `Run`, InputError and Diverged.
    """
    if Run.is_finished(folder, work.settings):
        return read_json(folder / "prompts.json")
    with engine.main_first():
        work.run = Run(folder, work.settings, progress=progress, main=engine.is_main())
        plan = write_plan(folder, registered(work))
    with work.run:
        rows = work.feasibility()
        if work.run.main:
            write_json(folder / "feasibility.json", {"classes": list(work.classes), "prompts": rows})
            feasible(work.classes, rows)
        work.check_variants()
        rounds = calibrated_rounds(work)
        best = best_round(rounds)
        model, pilots = best.model(work), best.calibrated.rows
        with work.run.stage("audit"):
            result = audit_prompts(work, model, rounds=len(rounds))
        result = {"format": FORMAT, "command": command, "plan": plan} | result
        result |= {"feasibility": rows, "calibration": pilots, "rounds": [r.for_json() for r in rounds]}
        result |= best.for_json()
        if work.run.main:
            write_json(folder / "prompts.json", result)
            if work.config.mode == "merged":
                recipe = {
                    "attribute": work.config.attr,
                    "target": work.config.target,
                    "prompts": work.settings["prompts_digest"],
                    "audit_sha256": sha256_json(result),
                }
                with work.run.stage("export"):
                    model.export(folder / "lora", recipe=recipe, name=f"{work.config.attr}-retargeted")
            publish(folder, result)
            work.run.finish()
    engine.barrier()
    return result
