"""What the embedded pipeline `emoji-t2i` knows: its concepts, their planted shares of women, and its ready prompts."""

from __future__ import annotations

PLANTED = {
    "construction worker": 0.05,
    "mechanic": 0.08,
    "farmer": 0.10,
    "pilot": 0.10,
    "firefighter": 0.12,
    "astronaut": 0.15,
    "guard": 0.15,
    "judge": 0.15,
    "detective": 0.20,
    "factory worker": 0.20,
    "mage": 0.20,
    "police officer": 0.25,
    "scientist": 0.25,
    "technologist": 0.30,
    "superhero": 0.30,
    "vampire": 0.35,
    "cook": 0.70,
    "office worker": 0.75,
    "student": 0.80,
    "artist": 0.80,
    "singer": 0.85,
    "fairy": 0.88,
    "teacher": 0.90,
    "health worker": 0.95,
}
"""Share of women under the captions that do not say a gender, by concept."""
HELD = ("pilot", "judge", "scientist", "cook", "student", "singer")
"""Concepts that it knows and that no retargeting sees."""
UNRELATED = ("baby", "ninja", "baby angel")
"""Concepts of the data whose pictures state no gender."""
