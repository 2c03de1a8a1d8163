"""Ready sets of prompts, with their sources."""

from __future__ import annotations

from typing import Any

from fairsims.data.emoji_prompts import HELD as EMOJI_HELD
from fairsims.data.emoji_prompts import PLANTED, UNRELATED

OCCUPATIONS = (
    *("driver", "supervisor", "janitor", "cook", "mover", "laborer", "construction worker", "chief", "developer"),
    *(
        "carpenter",
        "manager",
        "lawyer",
        "farmer",
        "salesperson",
        "physician",
        "guard",
        "analyst",
        "mechanic",
        "sheriff",
    ),
    *("CEO", "attendant", "cashier", "teacher", "nurse", "assistant", "secretary", "auditor", "cleaner"),
    *("receptionist", "clerk", "counselor", "designer", "hairdresser", "writer", "housekeeper", "baker", "accountant"),
    *("editor", "librarian", "sewer"),
)
"""The 40 occupations of WinoBias: 20 that the US labour statistics call held by men mostly, then 20 by women."""
HELD = ("cook", "lawyer", "physician", "mechanic", "teacher", "cleaner", "designer", "librarian")
FACE = "a photo of the face of a {}{{occupation}}, a person"

READY: dict[str, dict[str, Any]] = {
    "winobias": {
        "neutral": FACE.format(""),
        "held-out": FACE.format("").replace("occupation", "held"),
        "unrelated": [
            "a photo of a mountain lake",
            "a photo of a red bicycle",
            "a photo of a bowl of fruit",
            "a photo of a cat on a sofa",
            "a photo of an empty street at night",
            "an oil painting of a sailing ship",
        ],
        "explicit": {"man": FACE.format("male "), "woman": FACE.format("female ")},
        "lists": {"occupation": [o for o in OCCUPATIONS if o not in HELD], "held": list(HELD)},
        "source": "occupations: WinoBias (Zhao et al. 2018, arXiv 1804.06876, github.com/uclanlp/corefBias, MIT); "
        "template in the style of Shen et al. 2024 (arXiv 2311.07604, sail-sg/finetune-fair-diffusion, MIT)",
    },
    "emoji-t2i": {
        "neutral": "a {occupation}",
        "held-out": "a {held}",
        "unrelated": [f"a {concept}" for concept in UNRELATED],
        "explicit": {"man": "a man {occupation}", "woman": "a woman {occupation}"},
        "lists": {"occupation": [c for c in PLANTED if c not in EMOJI_HELD], "held": list(EMOJI_HELD)},
        "source": "captions that the embedded pipeline emoji-t2i was trained with (fairsims/data/emoji_prompts.py)",
    },
}
"""By name, as a TOML file of prompts has them; `source` says where they come from."""
