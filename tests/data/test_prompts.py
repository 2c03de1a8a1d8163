"""Prompt files: templates, kinds, targets, ready sets, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairsims.data.prompts import Prompt, Prompts, read_prompts
from fairsims.errors import InputError

TOML = """
neutral = "a photo of a {occupation}"
held-out = ["a photo of a judge"]
unrelated = "a photo of a tree"

[explicit]
man = "a photo of a male {occupation}"
woman = ["a photo of a female {occupation}"]

[lists]
occupation = ["nurse", "pilot"]

[targets]
"a photo of a nurse" = 0.3
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_templates_are_filled_and_linked(tmp_path: Path) -> None:
    found = read_prompts(write(tmp_path / "p.toml", TOML))
    assert found.of("neutral") == ("a photo of a nurse", "a photo of a pilot")
    assert found.of("held-out", "unrelated") == ("a photo of a judge", "a photo of a tree")
    assert found.explicit("a photo of a pilot") == {
        "man": "a photo of a male pilot",
        "woman": "a photo of a female pilot",
    }
    assert found.explicit("a photo of a judge") == {}
    assert [found.by_text[t].target for t in found.of("neutral")] == ["0.3", None]
    assert found.digest != read_prompts(write(tmp_path / "q.toml", TOML.replace("0.3", "0.4"))).digest


def test_csv_says_the_same(tmp_path: Path) -> None:
    text = "prompt,kind,target,class,of\na photo of a nurse,,0.3,,\na photo of a pilot,neutral,,,\n"
    text += "a photo of a judge,held-out,,,\na photo of a tree,unrelated,,,\n"
    for says, word in (("man", "male"), ("woman", "female")):
        text += "".join(f"a photo of a {word} {o},explicit,,{says},a photo of a {o}\n" for o in ("nurse", "pilot"))
    found = read_prompts(write(tmp_path / "p.csv", text))
    assert found.items == read_prompts(write(tmp_path / "p.toml", TOML)).items


def test_a_text_file_has_neutral_prompts(tmp_path: Path) -> None:
    found = read_prompts(write(tmp_path / "p.txt", "# people\na photo of a nurse\n\n a photo of a pilot \n"))
    assert found.items == (Prompt(text="a photo of a nurse"), Prompt(text="a photo of a pilot"))


def test_ready_sets_say_where_they_come_from(tmp_path: Path) -> None:
    found = read_prompts("winobias")
    assert (len(found.of("neutral")), len(found.of("held-out")), len(found.of("explicit"))) == (32, 8, 64)
    assert "WinoBias" in found.source
    own = read_prompts(write(tmp_path / "p.toml", 'neutral = "a {job}"\n[lists]\njob = "winobias"\n'))
    assert own.of("neutral")[0] == "a driver"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "", "has 0 prompts; expected 1 to 2,000"),
        ("p.txt", "\n".join(f"prompt {k}" for k in range(10_000)), "has 10000 prompts"),
        ("p.txt", "a nurse\na nurse\n", "has the prompt 'a nurse' twice"),
        ("p.toml", 'neutral = ["a nurse", " "]', "has an empty prompt"),
        ("p.toml", 'neutral = "a {job}"', "asks for a list 'job'"),
        (
            "p.toml",
            'neutral = "a {x}{y}"\n[lists]\nx = ["a"]\ny = "winnobias"',
            "'winnobias', which is no ready one; did you",
        ),
        ("p.toml", 'neutral = "a"\nneutrel = "b"', "no setting 'neutrel'; did you mean 'neutral'"),
        ("p.toml", 'unrelated = "a tree"', "has no neutral prompt"),
        ("p.toml", 'neutral = "a"\nexplicit = "a man"', "expected a text or list for each class"),
        (
            "p.toml",
            'neutral = "a"\n[explicit]\nman = "a {job}"\n[lists]\njob = ["b"]',
            "the words of no neutral prompt",
        ),
        ("p.toml", 'neutral = "a"\n[targets]\nb = 0.5', "a target for 'b', which is no neutral prompt"),
        ("p.toml", "neutral = 3", "neutral is 3; expected a text or a list"),
        ("p.toml", "neutral = ", "is not valid TOML"),
        ("p.csv", "text\na\n", "has columns text without prompt"),
        ("p.csv", "prompt,sort\na,b\n", "has columns sort; expected prompt, kind"),
        ("p.csv", "prompt,kind\na,neutrel\n", "of kind 'neutrel'"),
        ("p.csv", "prompt,kind,target\na,,\nb,unrelated,0.5\n", "has a target and is unrelated"),
        ("p.csv", "prompt,kind,class,of\na,,,\nb,explicit,man,c\n", "is of 'c', which is no neutral prompt"),
        ("p.csv", "prompt,kind,class\na,,\nb,explicit,man\n", "expected both or neither"),
    ],
)
def test_files_that_are_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as found:
        read_prompts(write(tmp_path / name, text))
    assert "\n" not in str(found.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="no prompt file 'winobia' and no ready set of that name; did you mean 'winobias'"
    ):
        read_prompts("winobia")
    with pytest.raises(InputError, match="is a folder"):
        read_prompts(tmp_path)
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_prompts(tmp_path / "p.txt")
    with pytest.raises(InputError, match="has 0 prompts"):
        Prompts(())
