"""LoRA files that any program loads at strength 1.0: diffusers' names, kohya's for Stable Diffusion, and a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import atomic, sha256_file, write_text
from fairsims.models.adapters import LoRA, layers_of
from fairsims.models.architectures import Architecture
from fairsims.models.folders import tensor_bytes
from fairsims.models.pipelines import library
from fairsims.run import refuse_foreign

KEY = "fairsims"
"""Where a file says what it is, among the metadata of its header: no program that loads it minds a key of our own."""


def write_files(folder: Path, name: str, lora: LoRA, facts: Mapping[str, Any], row: Architecture) -> list[Path]:
    """Write an adapter for strength 1.0 as LoRA files into `folder`, with a card; the files of weights.

    `NAME.safetensors` has diffusers' names and, where A1111 has its own, `NAME-webui.safetensors` kohya's; no file has
    `lora_adapter_metadata`, which would fix other ranks and alphas. `facts` are what the files say of themselves.
    Raises InputError when `folder` holds other things.
    """
    refuse_foreign(folder, (f"{name}.safetensors", f"{name}-webui.safetensors", "README.md"))
    named = {f"{row.network}.{key}": tensor for key, tensor in lora.items()}
    written = [_write(folder / f"{name}.safetensors", named, facts)]
    if row.webui:
        # alpha = rank, so that nothing scales what is baked in.
        written.append(_write(folder / f"{name}-webui.safetensors", kohya(named), facts))
    write_text(folder / "README.md", card(name, written, facts, row, lora))
    return written


def kohya(named: LoRA) -> dict[str, Tensor]:
    """The tensors `unet.LAYER.lora_A.weight` ... by the names of kohya's scripts, with alpha = rank for each layer."""
    found: dict[str, Tensor] = library("diffusers").utils.convert_state_dict_to_kohya(dict(named))
    return found


def _write(path: Path, tensors: LoRA, facts: Mapping[str, Any]) -> Path:
    data = tensor_bytes(tensors, {"format": "pt", KEY: json.dumps(facts, sort_keys=True)})
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return path


def read_facts(path: str | Path) -> dict[str, Any]:
    """What a LoRA file of ours says of itself. Raises InputError for a file that is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get(KEY)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{path} is no safetensors file ({e}); give a LoRA file that fairsims wrote") from None
    if found is None:
        raise InputError(f"{path} does not say that fairsims wrote it; give a LoRA file that it did")
    facts: dict[str, Any] = json.loads(found)
    return facts


def card(name: str, files: Sequence[Path], facts: Mapping[str, Any], row: Architecture, lora: LoRA) -> str:
    """How to use the files, and what they are, as Markdown."""
    made, sampler = facts["made_by"], facts["sampler"]
    rank = lora[f"{layers_of(lora)[0]}.lora_A.weight"].shape[0]
    lines = [
        f"# {name}",
        "",
        "A LoRA for strength **1.0**: sign and strength are in its weights. Another strength was not audited.",
        "",
        "diffusers:",
        "",
        "```python",
        "import diffusers",
        "",
        f'pipe = diffusers.{row.pipeline}.from_pretrained("PIPELINE")',
        f'pipe.load_lora_weights("FOLDER", weight_name="{name}.safetensors")',
        f"pipe(PROMPT, num_inference_steps={sampler['steps']}, guidance_scale={sampler['guidance']:g})",
        "```",
        "",
        "With offloading, load the LoRA first and switch offloading on afterwards.",
        "",
    ]
    if row.webui:
        lines += [
            f"ComfyUI: put `{name}-webui.safetensors` into `models/loras`, add a node *Load LoRA*, strength_model 1.0.",
            "",
            f"A1111 and Forge: put `{name}-webui.safetensors` into `models/Lora`, write `<lora:{name}-webui:1>` in the "
            "prompt.",
        ]
    else:
        lines += [
            f"ComfyUI: put `{name}.safetensors` into `models/loras`, add a node *Load LoRA*, strength_model 1.0.",
        ]
    lines += [
        "",
        "| | |",
        "|---|---|",
        f"| base, SHA-256 over its files | {made.get('base')} |",
        f"| strength baked in | {made.get('strength'):g} |",
        f"| rank, layers | {rank}, {len(layers_of(lora))} |",
        f"| sampler | {sampler['scheduler']}, {sampler['steps']} steps, guidance scale {sampler['guidance']:g} |",
        f"| unconditional branch | {sampler['unconditional']} |",
        f"| type of the numbers | {facts['precision']} |",
        *(f"| {key.replace('_', ' ')} | {_text(value)} |" for key, value in facts.items() if key not in TOLD),
        *(f"| SHA-256 of {path.name} | {sha256_file(path)} |" for path in files),
        "",
        "It was calibrated on this base at these settings. Quantised or distilled copies of the base answer otherwise.",
        "",
    ]
    return "\n".join(lines)


TOLD = ("made_by", "sampler", "precision", "shape", "conditions")
"""What the card says in its own words, or leaves to the file."""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
