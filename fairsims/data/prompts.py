"""Prompt files: what a text-to-image model is to be retargeted on, held out, explicit about, and to leave alone."""

from __future__ import annotations

import csv
import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fairsims.data.occupations import READY
from fairsims.errors import InputError, closest
from fairsims.files import sha256_json

KINDS = ("neutral", "held-out", "explicit", "unrelated")
"""neutral: retargeted. held-out: neutral, only audited. explicit: they name the class. unrelated: they stay."""
MOST = 2000
"""Prompts of a file at most: each needs images of its own."""
FIELD = re.compile(r"\{([a-z0-9_-]+)\}")
COLUMNS = ("prompt", "kind", "target", "class", "of")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a file."""

    text: str
    kind: str = "neutral"
    target: str | None = None
    """Of its own, as `--target` is written; None: that of the command."""
    says: str | None = None
    """explicit: the class that it names."""
    of: str | None = None
    """explicit: the neutral prompt that it is a variant of."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a file in their order.

    Raises InputError for none, too many, the same one twice, and kinds or links that do not fit.

    >>> prompts = read_prompts("winobias")
    >>> len(prompts.of("neutral")), len(prompts.of("held-out")), prompts.of("neutral")[0]
    (32, 8, 'a photo of the face of a driver, a person')
    >>> prompts.explicit(prompts.of("neutral")[0])["woman"]
    'a photo of the face of a female driver, a person'
    """

    items: tuple[Prompt, ...]
    name: str = "the prompts"
    """What they were read from."""
    source: str = ""
    """Where a ready set comes from."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.items) <= MOST:
            raise InputError(f"{self.name} has {len(self.items)} prompts; expected 1 to {MOST:,}")
        seen: set[str] = set()
        for p in self.items:
            if p.kind not in KINDS:
                raise InputError(f"{self.name}: {p.text!r} is of kind {p.kind!r}; expected one of {', '.join(KINDS)}")
            if not p.text.strip():
                raise InputError(f"{self.name} has an empty prompt; leave it out, it is added where it is needed")
            if p.text in seen:
                raise InputError(f"{self.name} has the prompt {p.text!r} twice; leave one out")
            seen.add(p.text)
            if p.target is not None and p.kind not in ("neutral", "held-out"):
                raise InputError(f"{self.name}: {p.text!r} has a target and is {p.kind}; only neutral ones have one")
            if (p.of is None) != (p.says is None) or (p.says is not None and p.kind != "explicit"):
                raise InputError(f"{self.name}: {p.text!r} says {p.says} of {p.of!r}; expected both or neither")
        neutral = {p.text for p in self.items if p.kind in ("neutral", "held-out")}
        for p in self.items:
            if p.of is not None and p.of not in neutral:
                raise InputError(f"{self.name}: {p.text!r} is of {p.of!r}, which is no neutral prompt of the file")
        if not self.of("neutral"):
            raise InputError(f"{self.name} has no neutral prompt; there is nothing to retarget")

    @property
    def digest(self) -> str:
        """SHA-256 over the prompts in their order."""
        return sha256_json([vars(p) for p in self.items])

    def of(self, *kinds: str) -> tuple[str, ...]:
        """The texts of these kinds, in their order."""
        return tuple(p.text for p in self.items if p.kind in kinds)

    @cached_property
    def by_text(self) -> dict[str, Prompt]:
        """Each prompt by its text."""
        return {p.text: p for p in self.items}

    def explicit(self, text: str) -> dict[str, str]:
        """The explicit variants of a neutral prompt by the class that they name."""
        return {p.says: p.text for p in self.items if p.of == text and p.says is not None}

    def worded(self, text: str) -> dict[str, str]:
        """A neutral prompt with the words of each class in it: its explicit variants, by class.

        A prompt that has none gets the words that make them of the first neutral prompt that begins alike.

        >>> read_prompts("winobias").worded("a photo of the face of a lawyer, a person")["woman"]
        'a photo of the face of a female lawyer, a person'
        """
        found = self.explicit(text)
        words = text.split()
        for p in self.items:
            if p.of is None or p.says is None or p.says in found:
                continue
            neutral, says = p.of.split(), p.text.split()
            start = next((k for k, pair in enumerate(zip(neutral, says, strict=False)) if pair[0] != pair[1]), 0)
            added = says[start : start + len(says) - len(neutral)]
            if start and words[:start] == neutral[:start] and neutral == says[:start] + says[start + len(added) :]:
                found[p.says] = " ".join([*words[:start], *added, *words[start:]])
        return found


def read_prompts(given: str | Path) -> Prompts:
    """The prompts of a TOML, CSV or text file, or the ready set of that name.

    TOML has lists or single texts under `neutral`, `held-out` and `unrelated`, one for each class under `explicit`,
    words for the `{fields}` of these under `lists` (a list, or the name of a ready one), and under `targets` those of
    single prompts. CSV has columns `prompt` and, where needed, `kind`, `target`, `class`, `of`. A text file has one
    neutral prompt a line; `#` begins a comment.
    Raises InputError, naming the file, for what is missing, cannot be read, or is no set of prompts.
    """
    if str(given) in READY and not Path(given).exists():
        ready = READY[str(given)]
        return _from_toml(str(given), {k: v for k, v in ready.items() if k != "source"}, source=str(ready["source"]))
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"no prompt file {str(path)!r} and no ready set of that name{closest(str(given), READY)}"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; expected a TOML, CSV or text file of prompts") from None
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is not text in UTF-8 ({e.reason}); save it as UTF-8") from None
    if path.suffix == ".toml":
        try:
            return _from_toml(str(path), tomllib.loads(text))
        except tomllib.TOMLDecodeError as e:
            raise InputError(f"{path} is not valid TOML ({e}); mend it") from None
    if path.suffix == ".csv":
        return Prompts(tuple(_from_csv(str(path), text.splitlines())), name=str(path))
    lines = (line.strip() for line in text.splitlines())
    return Prompts(tuple(Prompt(text=line) for line in lines if line and line[0] != "#"), name=str(path))


def _from_toml(name: str, given: Mapping[str, Any], source: str = "") -> Prompts:
    known = (*KINDS, "lists", "targets")
    for key in given:
        if key not in known:
            raise InputError(f"{name}: there is no setting {key!r}{closest(key, known)}")
    lists = {key: _words(name, key, value) for key, value in given.get("lists", {}).items()}
    targets = {str(k): str(v) for k, v in given.get("targets", {}).items()}
    found: list[Prompt] = []
    filled: dict[tuple[tuple[str, str], ...], str] = {}
    for kind in ("neutral", "held-out", "unrelated"):
        for template in _texts(name, kind, given.get(kind, [])):
            for text, words in _filled(name, template, lists):
                found.append(Prompt(text=text, kind=kind, target=targets.pop(text, None)))
                if words and kind != "unrelated":
                    filled.setdefault(words, text)
    explicit = given.get("explicit", {})
    if not isinstance(explicit, Mapping):
        raise InputError(f"{name}: explicit is {explicit!r}; expected a text or list for each class, as a table")
    for says, templates in explicit.items():
        for template in _texts(name, f"explicit.{says}", templates):
            for text, words in _filled(name, template, lists):
                of = filled.get(words)
                if of is None:
                    raise InputError(f"{name}: {text!r} has the words of no neutral prompt; use the same lists")
                found.append(Prompt(text=text, kind="explicit", says=str(says), of=of))
    if targets:
        missing = next(iter(targets))
        raise InputError(f"{name} has a target for {missing!r}, which is no neutral prompt of it")
    return Prompts(tuple(found), name=name, source=source)


def _words(name: str, key: str, value: Any) -> list[str]:
    if isinstance(value, str):
        lists = {k: v["lists"]["occupation"] for k, v in READY.items()}
        if value not in lists:
            raise InputError(f"{name}: the list {key} is {value!r}, which is no ready one{closest(value, lists)}")
        return list(lists[value])
    return _texts(name, f"lists.{key}", value)


def _texts(name: str, key: str, value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise InputError(f"{name}: {key} is {value!r}; expected a text or a list of texts")
    return found


def _filled(
    name: str, template: str, lists: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """A template with every choice of words, and the words."""
    fields = list(dict.fromkeys(FIELD.findall(template)))
    for field in fields:
        if field not in lists:
            raise InputError(f"{name}: {template!r} asks for a list {field!r}{closest(field, lists)}")
    if fields and (number := math.prod(len(lists[f]) for f in fields)) > MOST:
        raise InputError(f"{name}: {template!r} makes {number:,} prompts; expected at most {MOST:,}")
    for words in itertools.product(*(lists[f] for f in fields)):
        chosen = dict(zip(fields, words, strict=True))
        text = template
        for field, word in chosen.items():
            text = text.replace(f"{{{field}}}", word)
        yield text, tuple(sorted(chosen.items()))


def _from_csv(name: str, lines: Iterable[str]) -> Iterator[Prompt]:
    rows = csv.DictReader(lines)
    columns = rows.fieldnames or []
    if "prompt" not in columns or (unknown := [c for c in columns if c not in COLUMNS]):
        found = ", ".join(unknown) if "prompt" in columns else f"{', '.join(columns)} without prompt"
        raise InputError(f"{name} has columns {found}; expected {', '.join(COLUMNS)}")
    for row in rows:
        yield Prompt(
            text=(row["prompt"] or "").strip(),
            kind=(row.get("kind") or "neutral").strip(),
            target=(row.get("target") or "").strip() or None,
            says=(row.get("class") or "").strip() or None,
            of=(row.get("of") or "").strip() or None,
        )
