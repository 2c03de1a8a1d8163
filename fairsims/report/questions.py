"""What a report has to say and no tool can know: `questions.toml`, and the answers in a run's `report.toml`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fairsims.errors import InputError, closest
from fairsims.files import write_text

FILE = "report.toml"
MOST_CHARACTERS = 20_000


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question to whoever answers for the system."""

    id: str
    """`section.name`; in the file `name` under `[section]`."""
    under: str
    """Heading that it stands under."""
    question: str
    why: str
    """Who asks, and what for."""


QUESTIONS = tuple(
    Question(**q)
    for q in tomllib.loads((files(__package__) / "questions.toml").read_text(encoding="utf-8"))["question"]
)
_IDS = {q.id: q for q in QUESTIONS}


def read_answers(run: Path) -> dict[str, str]:
    """Answers by id, "" for what is open. Raises InputError for a broken file and for an unknown key."""
    path, found = run / FILE, dict.fromkeys(_IDS, "")
    if not path.exists():
        return found
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"{path} is no TOML ({e}); mend it, or delete it and answer again") from None
    for section, answers in value.items():
        if not isinstance(answers, dict):
            raise InputError(
                f"{path} has {section!r} outside of a section; expected answers under [report], [data], ..."
            )
        for name, answer in answers.items():
            if not isinstance(answer, str):
                raise InputError(f"{path} has {section}.{name} = {answer!r}; expected text in quotes")
            found[_known(f"{section}.{name}", path)] = answer
    return found


def write_answers(run: Path, values: Mapping[str, str]) -> Path:
    """Write all answers, empty ones included, so that the file shows what is asked; returns its path.

    An id that `values` lacks is left open. Raises InputError for an unknown id and for text that TOML cannot hold.
    """
    path = run / FILE
    answers = {_known(i, path): v.replace("\r\n", "\n").replace("\r", "\n").strip() for i, v in values.items()}
    lines = ["# Answers to what the tool cannot know. An empty answer is listed as open in the report."]
    section = ""
    for q in QUESTIONS:
        place, name = q.id.split(".")
        if place != section:
            lines.append(f"\n[{place}]")
            section = place
        lines += [f"# {q.question}", f"{name} = {_quoted(answers.get(q.id, ''), q.id)}"]
    write_text(path, "\n".join(lines) + "\n")
    return path


def open_ids(values: Mapping[str, str]) -> list[str]:
    """Ids without an answer, in the order of the questions."""
    return [q.id for q in QUESTIONS if not values.get(q.id, "").strip()]


def _known(id: str, path: Path) -> str:
    if id not in _IDS:
        raise InputError(f"{path} has {id!r}, which no report asks for{closest(id, _IDS)}; remove it")
    return id


def _quoted(text: str, id: str) -> str:
    """A TOML basic string: JSON's, whose escapes are a part of TOML's."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"the answer to {id} has {len(text):,} characters; expected {MOST_CHARACTERS:,} at most")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"the answer to {id} holds half a character; type it again") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
