"""Files that exist whole or not at all, settings that settle, manifests that hold."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path

import pytest
from support import small_disk

from fairsims.errors import ChangedSettings, FairsimsError, InputError, closest
from fairsims.files import append_jsonl, atomic, read_json, read_jsonl, sha256_file, sha256_json, write_json, write_text
from fairsims.run import Run, new_run_folder, read_plan, settle_settings, write_manifest, write_plan


def everything(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), atomic(tmp_path / "deep" / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("half way")
    assert everything(tmp_path) == []


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "before")
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert everything(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


def test_a_writer_that_writes_nothing_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        pass
    assert everything(tmp_path) == []


def test_the_file_appears_at_the_end_only(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
        assert temporary.parent == tmp_path, "another file system could not be renamed from"
    assert everything(tmp_path) == ["a.txt"]


def test_what_a_kill_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.part").write_text("left by a kill, longer than what follows")
    write_text(tmp_path / "a.txt", "new")
    assert everything(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_file_in_the_way_of_a_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as caught:
        write_text(tmp_path / "file" / "a.txt", "x")
    assert caught.value.filename is not None
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path, "x")
    assert not (tmp_path.parent / f".{tmp_path.name}.part").exists()


def test_a_disk_that_fills_up_leaves_the_earlier_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "before")
    with small_disk(1000), pytest.raises(OSError, match="File too large"):
        write_text(tmp_path / "a.txt", "x" * 5000)
    assert everything(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


def test_json_keeps_order_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "größer"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "größer"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert everything(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"[1]", "holds a JSON list"), (b"\xff{}", "not valid JSON"), (None, "is missing")],
)
def test_bad_json_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value)


def test_statistics_end_at_a_line_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    assert read_jsonl(path) == []
    for step in (1, 2):
        append_jsonl(path, {"step": step})
    with path.open("a") as f:
        f.write('{"step": 3, "lo')
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]


def test_settings_settle_and_then_hold(tmp_path: Path) -> None:
    path = tmp_path / "run" / "config.json"
    settle_settings(path, {"pool": 300, "pilots": (1, 2), "reference": None})
    first = path.read_bytes()
    settle_settings(path, {"pool": 300, "pilots": (1, 2), "reference": None})
    assert path.read_bytes() == first
    assert read_json(path) == {"pool": 300, "pilots": [1, 2], "reference": None}


def test_changed_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run" / "config.json"
    settle_settings(path, {"pool": 300, "mode": "merged", "seed": 0})
    before = path.read_bytes()
    with pytest.raises(ChangedSettings) as caught:
        settle_settings(path, {"pool": 400, "mode": "merged", "seed": 1})
    message = str(caught.value)
    assert "pool = 300, now pool = 400" in message
    assert "seed" in message
    assert "mode" not in message
    assert str(tmp_path / "run") in message
    assert path.read_bytes() == before


def test_a_changed_setting_inside_a_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    train = {f"field_{i}": i for i in range(30)}
    settle_settings(path, {"preset": "digits-8", "train": train | {"seed": 0}})
    with pytest.raises(ChangedSettings, match=r"made with train\.seed = 0, now train\.seed = 1;"):
        settle_settings(path, {"preset": "digits-8", "train": train | {"seed": 1}})


PLAN = {"when": "before measuring", "attributes": {"parity": {"classes": ["even", "odd"], "tolerance": 0.03}}}


def test_a_plan_is_written_once(tmp_path: Path) -> None:
    (tmp_path / ".plan.json.part").write_text("left by a kill")
    fixed = write_plan(tmp_path, PLAN)
    assert everything(tmp_path) == ["plan.json"]
    found = read_plan(tmp_path)
    # Anyone can check the digest: of canonical JSON.
    canonical = json.dumps(found["plan"], sort_keys=True, separators=(",", ":")).encode()
    assert found["sha256"] == hashlib.sha256(canonical).hexdigest() == fixed["sha256"]
    assert (found["plan"], found["format"]) == (PLAN, "fairsims-plan/1")
    assert (fixed["file"], fixed["written"]) == ("plan.json", found["written"])
    assert dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(found["written"]) < dt.timedelta(minutes=5)
    before = (tmp_path / "plan.json").read_bytes()
    assert write_plan(tmp_path, PLAN) == fixed
    assert (tmp_path / "plan.json").read_bytes() == before


def test_another_plan_is_refused_by_name(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN)
    before = (tmp_path / "plan.json").read_bytes()
    wider = {"parity": PLAN["attributes"]["parity"] | {"tolerance": 0.1}}  # type: ignore[index]
    with pytest.raises(ChangedSettings, match=r"planned with attributes\.parity\.tolerance = 0\.03, now .* = 0\.1;"):
        write_plan(tmp_path, PLAN | {"attributes": wider})
    assert (tmp_path / "plan.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": {"when": "before measuring", "attributes": {}}}, "was changed after it was written"),
        ({"sha256": "0" * 64}, "was changed after it was written"),
        ({"format": "fairsims-plan/9"}, "is no plan of format fairsims-plan/1"),
        ({"plan": "x"}, "is no plan of format"),
        ({"omega": 1.0}, "is the plan of a complement, which earlier versions called so"),
    ],
)
def test_a_plan_that_was_tampered_with_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_plan(tmp_path, PLAN)
    write_json(tmp_path / "plan.json", read_json(tmp_path / "plan.json") | changes)
    for again in (lambda: write_plan(tmp_path, PLAN), lambda: read_plan(tmp_path)):
        with pytest.raises(InputError, match=message) as caught:
            again()
        assert str(tmp_path / "plan.json") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_added_and_dropped_settings_count_as_changed(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    settle_settings(path, {"a": 1})
    with pytest.raises(ChangedSettings, match="b = null, now b = 2"):
        settle_settings(path, {"a": 1, "b": 2})
    with pytest.raises(ChangedSettings, match="a = 1, now a = null"):
        settle_settings(path, {})


SETTINGS = {"pool": 300, "base_digest": "abc", "reference_digest": None}


def status(folder: Path) -> tuple[str, str, str]:
    found = read_json(folder / "status.json")
    return found["stage"], found["state"], found["message"]


def test_a_run_says_where_it_is_and_then_lists_its_files(tmp_path: Path) -> None:
    assert not Run.is_finished(tmp_path, SETTINGS)
    with Run(tmp_path, SETTINGS) as run:
        with run.stage("pool"):
            assert status(tmp_path) == ("pool", "running", "")
            write_text(tmp_path / "pool.txt", "images")
        assert not Run.is_finished(tmp_path, SETTINGS)
        run.finish()
    assert status(tmp_path) == ("pool", "finished", "")
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["inputs"] == {"base_digest": "abc"}
    assert set(manifest["outputs"]) == {"config.json", "timings.json", "pool.txt"}
    assert Run.is_finished(tmp_path, SETTINGS)
    for again in (lambda: Run(tmp_path, SETTINGS | {"pool": 400}), lambda: Run.is_finished(tmp_path, {})):
        with pytest.raises(ChangedSettings, match="pool = 300, now"):
            again()


def test_the_time_of_a_stage_that_was_cut_off_counts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Run(tmp_path, SETTINGS) as run, run.stage("pool"):
        raise KeyboardInterrupt
    assert status(tmp_path) == ("pool", "failed", "KeyboardInterrupt")
    first = read_json(tmp_path / "timings.json")["pool"]
    with Run(tmp_path, SETTINGS) as run, run.stage("pool"):
        pass
    assert read_json(tmp_path / "timings.json")["pool"] >= first >= 0


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    Run(tmp_path, SETTINGS)
    with Run(tmp_path, SETTINGS, main=False) as run:
        with run.stage("pool"):
            pass
        run.finish()
    assert everything(tmp_path) == ["config.json"]
    assert list(run.seconds) == ["pool"]


def test_run_folders_are_numbered_after_the_highest(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert new_run_folder(root, "gender-0.5").name == "00000-gender-0.5"
    for name in ("00003-x", "00007-y", "notes", "123-z"):
        (root / name).mkdir(parents=True)
    assert new_run_folder(root, "gender-0.5").name == "00008-gender-0.5"


def test_manifest_holds_every_file(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_text(run / "pool" / "shard.bin", "images")
    write_text(run / "report.html", "<p>")
    write_text(run / "status.json", "{}")
    (run / ".left.part").write_text("by a kill")
    write_manifest(run, {"base_digest": "abc"})
    manifest = read_json(run / "manifest.json")
    assert manifest["inputs"] == {"base_digest": "abc"}
    assert manifest["outputs"] == {
        "pool/shard.bin": hashlib.sha256(b"images").hexdigest(),
        "report.html": hashlib.sha256(b"<p>").hexdigest(),
    }
    first = (run / "manifest.json").read_bytes()
    write_manifest(run, {"base_digest": "abc"})
    assert (run / "manifest.json").read_bytes() == first, "the manifest must not name itself"
    write_text(run / "report.html", "<b>")
    assert sha256_file(run / "report.html") != manifest["outputs"]["report.html"]


def test_digest_of_json_ignores_order_of_keys_only() -> None:
    assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json(json.loads('{"b": [1, 2], "a": 1}'))
    assert sha256_json([1, 2]) != sha256_json([2, 1])


def test_closest_names() -> None:
    assert closest("gendr", ["gender", "vendor", "skin_tone"]).startswith("; did you mean 'gender'")
    assert closest("zzz", ["gender", "parity"]) == "; there is 'gender', 'parity'"
    assert closest("zzz", []) == ""


def test_the_error_family_is_one() -> None:
    assert issubclass(InputError, FairsimsError)
    assert issubclass(ChangedSettings, FairsimsError)
