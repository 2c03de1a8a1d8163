"""The documentation: the site is built strictly, links lead somewhere, sentences are short, tutorials run as they stand."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from support import run

from fairsims.cli import main
from fairsims.options import settings_of

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
WRITTEN = [ROOT / "README.md", *TUTORIALS]
"""Pages whose sentences are to be short."""

MODEL = "--steps 4 --pool 200 --batch-size 24"
TINY = {
    "retarget": f"{MODEL} --calibration 100 --audit 50 --rounds 1 --budget 0.048",
    "generate": "--steps 4 --seeds 0-199",
    "sweep": f"{MODEL} --budgets 0.048,0.096 --omegas 0.5,1 --images 50",
    "compare": f"{MODEL} --calibration 100 --audit 50 --budget 0.048",
    "collapse": "--generations 4 --repeats 8 --no-threshold",
    "report": "--form html",
}
"""What the tests append to the commands of the tutorials; the last word on an option counts."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, code) of every block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> list[str]:
    """The sentences of a page: paragraphs, items and quotes, no code, tables, headings or pictures."""
    text = re.sub(r"^```.*?^```$", "\n", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(#|\||!\[).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*([-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    parts = [
        part for paragraph in text.split("\n\n") for part in re.split(r"(?<=[.?!:])\s+", " ".join(paragraph.split()))
    ]
    return [part for part in parts if re.search(r"\w", part)]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda p: p.stem)
def test_sentences_are_short(page: Path) -> None:
    lengths = [len(re.findall(r"[\w`][^\s]*", sentence)) for sentence in prose(page)]
    assert len(lengths) >= 10
    assert statistics.mean(lengths) <= 18
    assert max(lengths) <= 40


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    "page",
    # The researcher's is as long as the other two together.
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem == "researcher" else [], id=p.stem) for p in TUTORIALS],
)
def test_a_tutorial_runs_as_it_stands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
        else:
            assert language == "bash", f"{page.name} has a block of {language!r}; expected bash or python"
            for line in code.splitlines():
                program, verb, *arguments = shlex.split(line)
                assert program == "fairsims"
                result = run(verb, *arguments, *TINY.get(verb, "").split())
                assert result.exit_code == 0, (line, result.stderr, result.exception)
    made = {
        "engineer": ["half.zip", "runs/half/report.html", "runs/half/paired/model.safetensors"],
        "auditor": ["audit-of-b/report.html", "audit-of-b/manifest.dsse.json"],
        "researcher": ["runs/map/sweep.parquet", "runs/ways/compare.md", "runs/loop/manifest.json"],
    }
    assert all((tmp_path / name).exists() for name in made[page.stem])


def test_every_command_of_the_readme_parses() -> None:
    """Commands of README and pages, examples of options included: no option that is not there."""
    lines = [
        line.split("   #")[0].replace("\\\n", " ")
        for page in (ROOT / "README.md", ROOT / "docs" / "your-model.md")
        for _, code in blocks(page)
        for line in code.replace("\\\n", " ").splitlines()
        if line.startswith("fairsims ")
    ]
    assert len(lines) >= 9
    for line in lines:
        _, verb, *arguments = shlex.split(line)
        command = main.commands[verb]
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        command.make_context(verb, arguments)


def test_links_of_every_page_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("audits/**/*.md")]
    assert len(pages) > 20
    dead = []
    for page in pages:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for picture, words, target in re.findall(r"(!?)\[([^\]]*)\]\(<?([^)>]+)>?\)", text):
            assert words or not picture, f"{page.name}: a picture without a text for who cannot see it"
            if not re.match(r"\w+:|#|reference/", target) and not (page.parent / target.partition("#")[0]).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead


class Pictures(html.parser.HTMLParser):
    """Pictures of a page that have no text, and what it loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.mute: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "img" and not known.get("alt"):
            self.mute.append(str(known.get("src")))
        source = known.get("href") if tag == "link" and known.get("rel") == "stylesheet" else known.get("src")
        if tag in ("img", "script", "link", "iframe") and re.match("https?:|//", source or ""):
            self.outside.append(str(source))


def test_the_site_is_whole(tmp_path: Path) -> None:
    """Built with --strict: dead links and missing sections are errors. No page is heavy or loads from elsewhere."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        assert page.stat().st_size < 600_000, page
        found = Pictures()
        found.feed(page.read_text(encoding="utf-8"))
        assert not found.mute, page
        assert not found.outside, page
    assert sum(p.stat().st_size for p in site.rglob("*.*")) < 25e6
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f"fairsims {name}" in commands for name in main.commands)
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in settings for name in settings_of("fairsims.retarget.config:RetargetConfig"))
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert "retarget_model" in python


@pytest.mark.parametrize("name", ["audit", "retarget"])
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
def test_a_notebook_runs_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in their order in one namespace, with a tiny retargeting; no kernel is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    book = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (book["nbformat"], len({cell["id"] for cell in book["cells"]})) == (4, len(book["cells"]))
    names: dict[str, object] = {}
    for number, cell in enumerate(c for c in book["cells"] if c["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec"), names)
        if isinstance(names.get("settings"), dict) and "pool" not in names["settings"]:
            names["settings"] |= {
                "pool": 200,
                "calibration": 100,
                "audit": 50,
                "steps": 4,
                "rounds": 1,
                "budget": 0.048,
            }
            names["settings"]["batch_size"] = 24
    assert names["figure"].axes
    assert name != "retarget" or (tmp_path / "runs" / "notebook" / "report.html").exists()
