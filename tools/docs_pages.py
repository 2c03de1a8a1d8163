"""Hooks of mkdocs: pages of the reference that come from the code, and links that lead out of `docs/`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import fairsims
from fairsims.audit.result import audit_schema
from fairsims.cli import main
from fairsims.options import settings_of

log = get_plugin_logger("docs_pages")

SETTINGS = {
    "fairsims.retarget.config:RetargetConfig": "`fairsims retarget`, `fairsims.retarget_model(…)`, recipes",
    "fairsims.models.sampling:SamplerConfig": "how images are sampled, in every command that samples",
    "fairsims.audit.command:AuditConfig": "`fairsims audit`, `fairsims.audit_images(…)`",
    "fairsims.training.config:TrainConfig": "`fairsims train`; of fine-tunes by `--finetune NAME=VALUE`",
}
"""Settings dataclasses that a user gives values of, and where."""


class Examples(griffe.Extension):
    """The examples of docstrings as blocks of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = obj.docstring.value + "\n\n"
            fenced = re.sub(r"^(>>> .*?)\n\n", r"```pycon\n\1\n```\n\n", text, flags=re.MULTILINE | re.DOTALL)
            obj.docstring.value = fenced.rstrip()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages that the menu does not name into its section of how-to pages."""
    named = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    docs = Path(config.docs_dir)
    others = sorted(str(p.relative_to(docs)) for p in docs.rglob("*.md"))
    for section in config.nav or []:
        if "How to" in section:
            section["How to"] += [name for name in others if name not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the reference."""
    made = {"commands": commands, "settings": settings, "python": python, "audit-json": audit_json}
    for name, write in made.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(write())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a file of the repository beside `docs/` becomes its path, for the site has no such page."""
    docs = Path(config.docs_dir)

    def found(match: re.Match[str]) -> str:
        text, target = match.groups()
        place = (docs / page.file.src_uri).parent / target.partition("#")[0]
        if target.startswith("http") or place.resolve().is_relative_to(docs):
            return match[0]
        if not place.exists():
            log.warning("%s links to %s, which is not in the repository", page.file.src_uri, target)
        path = place.resolve().relative_to(docs.parent)
        return f"`{path}`" if text.strip("`") in (str(path), path.name) else f"{text} (`{path}`)"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)]+)\)", found, markdown)


def commands() -> Iterator[str]:
    """Every command with its options, from the command line itself."""
    yield "# Commands\n\nAfter this page you know every command and option. `fairsims COMMAND --help` says the same.\n"
    yield "Results go to stdout and progress to stderr. A refusal is one line and exit code 2.\n"
    yield from _command(main, "fairsims")


def _command(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group):
        for each, inner in sorted(command.commands.items()):
            yield from _command(inner, f"{name} {each}")
        return
    arguments = " ".join(p.make_metavar(context) for p in command.params if isinstance(p, click.Argument))
    yield f"## `{name}`\n\n{command.help or ''}\n\n```\n{' '.join(filter(None, (name, arguments)))} [OPTIONS]\n```\n"
    yield "| option | default | meaning |\n|---|---|---|"
    for option in command.params:
        if isinstance(option, click.Option):
            told = option.to_info_dict()
            default = option.default if option.show_default and option.default is not None else ""
            kind = "" if option.is_flag else f" {option.make_metavar(context)}"
            flags = ", ".join(f"`{o}{kind}`" for o in (*option.opts, *option.secondary_opts))
            needed = "required" if option.required else f"`{default}`" if default != "" else ""
            yield f"| {flags.replace('|', chr(92) + '|')} | {_cell(needed)} | {_cell(told.get('help') or '')} |"
    yield ""


def settings() -> Iterator[str]:
    """The fields of the settings classes."""
    yield "# Settings\n\nAfter this page you know every setting by its name in Python, TOML and JSON.\n"
    yield "The options of the command line are made from the same fields.\n"
    for place, where in SETTINGS.items():
        yield f"## `{place.partition(':')[2]}`\n\nUsed by {where}.\n\n| field | default | meaning |\n|---|---|---|"
        for s in settings_of(place).values():
            default = "required" if s.default is dataclasses.MISSING else f"`{s.default!r}`"
            choices = f" One of {', '.join(f'`{c}`' for c in s.choices)}." if s.choices else ""
            yield f"| `{s.name}` | {_cell(default)} | {_cell(s.help + choices)} |"
        yield ""


def python() -> Iterator[str]:
    """The public names, from their docstrings."""
    yield "# Python\n\nAfter this page you can do in a notebook what the commands do.\n"
    yield "`import fairsims` has these names. Each docstring ends with an example, and the tests run it.\n"
    for module, names in fairsims._ROOMS.items():
        for name in names:
            yield f"::: {module}.{name}\n    options: {{heading_level: 2, members: false}}\n"


def audit_json() -> Iterator[str]:
    """What audit.json holds, from its types."""
    schema = audit_schema()
    yield "# audit.json\n\nAfter this page you can read an audit in another program.\n"
    yield "`fairsims.audit.result.audit_schema()` gives the same as a JSON schema.\n"
    yield from _record("the file", schema)
    for name, part in sorted(schema["$defs"].items()):
        yield from _record(name, part)


def _record(name: str, part: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}\n\n{_plain(part.get('description', ''))}\n"
    if "properties" not in part:
        return
    yield "| key | type | required |\n|---|---|---|"
    for key, kind in part["properties"].items():
        yield f"| `{key}` | {_cell(_kind(kind))} | {'yes' if key in part.get('required', ()) else ''} |"
    yield ""


def _kind(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in kind:
        return " or ".join(dict.fromkeys(_kind(k) for k in kind["anyOf"]))
    if "enum" in kind or "const" in kind:
        return " or ".join(f"`{v}`" for v in kind.get("enum", [kind.get("const")]))
    of = kind.get("type", "any")
    if of == "array" and isinstance(kind.get("items"), dict):
        return f"list of {_kind(kind['items'])}"
    if of == "object" and isinstance(kind.get("additionalProperties"), dict):
        return f"object of {_kind(kind['additionalProperties'])}"
    return " or ".join(of) if isinstance(of, list) else str(of)


def _plain(text: str) -> str:
    return text.replace("[", "\\[").replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
