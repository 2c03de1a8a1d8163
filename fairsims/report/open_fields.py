"""What a report has to say and no tool can know: the questions, and the answers in a run's `report.toml`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairsims.errors import InputError, closest
from fairsims.files import write_text

FILE = "report.toml"
MOST_CHARACTERS = 20_000


@dataclass(frozen=True, kw_only=True)
class OpenField:
    """One question to whoever answers for the system."""

    id: str
    """`section.name`; in the file `name` under `[section]`."""
    section: str
    """Heading that it stands under."""
    question: str
    why: str
    """Who asks, and what for."""


def _field(id: str, section: str, question: str, why: str) -> OpenField:
    return OpenField(id=id, section=section, question=question, why=why)


_COVER, _PURPOSE, _DATA = "Report and sign-off", "System and purpose", "Data"
_ATTRIBUTES, _MEASUREMENT, _RESIDUAL = "Attributes", "Measurement", "Residual gaps"
_LIMITS, _OVERSIGHT, _MARKING = "Limitations and misuse", "Oversight", "Marking"

FIELDS = (
    _field("report.id", _COVER, "Which number or name does this report have in your files?", "To cite it."),
    _field(
        "report.status", _COVER, "Is this a draft or the final report?", "A reader has to know which one they hold."
    ),
    _field(
        "report.prepared_by",
        _COVER,
        "Who prepared this report, and in which role?",
        "AI Act, Annex IV 2(g): test reports are dated and signed by those responsible.",
    ),
    _field(
        "report.reviewed_by",
        _COVER,
        "Who reviewed it, independently of the preparation, and when?",
        "Annex IV 2(g); separate roles keep one person from checking their own work.",
    ),
    _field(
        "report.changes",
        _COVER,
        "What changed since the last report on this system?",
        "Annex IV 6: relevant changes over the lifecycle.",
    ),
    _field(
        "purpose.intended",
        _PURPOSE,
        "What is the system meant to be used for, by whom, on whom?",
        "Annex IV 1(a): without it nobody can tell whether the measured groups are the right ones.",
    ),
    _field(
        "purpose.out_of_scope",
        _PURPOSE,
        "Which uses is it not meant or not tested for?",
        "Annex IV 3: foreseeable misuse and limits.",
    ),
    _field(
        "purpose.affected_groups",
        _PURPOSE,
        "Which groups of people do its outputs show or affect?",
        "AI Act Art. 10(4): the setting in which the system is used.",
    ),
    _field(
        "purpose.target_chosen_by",
        _PURPOSE,
        "Who chose the target shares?",
        "The target is a decision about people; it needs an owner.",
    ),
    _field(
        "purpose.target_why",
        _PURPOSE,
        "Why these shares, and which alternatives were weighed?",
        "Equal shares, shares of a population and shares of a use are different claims.",
    ),
    _field(
        "data.origin",
        _DATA,
        "Where do the training images come from, and what were they collected for?",
        "Art. 10(2)(b): origin and original purpose of the data.",
    ),
    _field(
        "data.licence",
        _DATA,
        "Under which licence or permission are they used?",
        "Annex IV 2(d); model card and Croissant need it.",
    ),
    _field(
        "data.labelling",
        _DATA,
        "Who labelled them, how, and how were labels checked?",
        "Art. 10(2)(c): annotation, labelling, cleaning.",
    ),
    _field("data.gaps", _DATA, "Which gaps or shortcomings of the data are known?", "Art. 10(2)(h)."),
    _field(
        "attributes.definition",
        _ATTRIBUTES,
        "What do the audited classes mean, and what do they not mean?",
        "The classes are perceived; a reader must not take them for identities.",
    ),
    _field(
        "attributes.taxonomy",
        _ATTRIBUTES,
        "Where do the classes come from, and who is left out by them?",
        "Source of the taxonomy and its exclusions.",
    ),
    _field(
        "attributes.legal_basis",
        _ATTRIBUTES,
        "Do the data concern special categories of personal data? On which legal basis are they used?",
        "GDPR Art. 9, AI Act Art. 4a; say 'not applicable' and why if they do not.",
    ),
    _field(
        "measurement.annotators",
        _MEASUREMENT,
        "Who labelled images by hand for this audit, and how were they instructed?",
        "Their agreement means little without it.",
    ),
    _field(
        "measurement.metrics_why",
        _MEASUREMENT,
        "Why are these metrics, tolerance and group sizes right for the use?",
        "Annex IV 4: appropriateness of the performance metrics.",
    ),
    _field(
        "residual.gaps",
        _RESIDUAL,
        "Which gaps remain after the mitigation?",
        "Art. 10(2)(f)-(h): what was found, what was done, what is left.",
    ),
    _field("residual.owner", _RESIDUAL, "Who owns them?", "A gap without an owner stays."),
    _field("residual.due", _RESIDUAL, "By when are they dealt with?", "A gap without a date stays."),
    _field(
        "limits.misuse",
        _LIMITS,
        "Which misuse can be foreseen, and what was done against it?",
        "Annex IV 3 and 5: risks and their management.",
    ),
    _field(
        "limits.known",
        _LIMITS,
        "Which limits do users have to know, beyond those this report measures?",
        "Art. 13(3)(b): information to deployers.",
    ),
    _field(
        "oversight.measures",
        _OVERSIGHT,
        "Who watches the system in use, and how can they stop or correct it?",
        "Art. 14, Annex IV 2(e).",
    ),
    _field(
        "oversight.monitoring",
        _OVERSIGHT,
        "When are shares measured again, and what sets off a new audit?",
        "Annex IV 9: monitoring after placing on the market.",
    ),
    _field(
        "marking.method",
        _MARKING,
        "How are generated images marked as such?",
        "Art. 50(2): outputs marked in a machine-readable way.",
    ),
    _field(
        "marking.content_credentials",
        _MARKING,
        "Do images carry signed metadata (C2PA) or a watermark?",
        "Code of practice on transparency of generated content.",
    ),
)
_IDS = {f.id: f for f in FIELDS}


def read_fields(run: Path) -> dict[str, str]:
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


def write_fields(run: Path, values: Mapping[str, str]) -> Path:
    """Write all answers, empty ones included, so that the file shows what is asked; returns its path.

    An id that `values` lacks is left open. Raises InputError for an unknown id and for text that TOML cannot hold.
    """
    path = run / FILE
    answers = {_known(i, path): v.replace("\r\n", "\n").replace("\r", "\n").strip() for i, v in values.items()}
    lines = ["# Answers to what the tool cannot know. An empty answer is listed as open in the report."]
    section = ""
    for f in FIELDS:
        place, name = f.id.split(".")
        if place != section:
            lines.append(f"\n[{place}]")
            section = place
        lines += [f"# {f.question}", f"{name} = {_quoted(answers.get(f.id, ''), f.id)}"]
    write_text(path, "\n".join(lines) + "\n")
    return path


def open_ids(values: Mapping[str, str]) -> list[str]:
    """Ids without an answer, in the order of the questions."""
    return [f.id for f in FIELDS if not values.get(f.id, "").strip()]


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
