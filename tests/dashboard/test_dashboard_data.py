"""What lies under the pages: links that lead out, open fields, galleries, plans, pools that are read as needed."""

from __future__ import annotations

import os

import numpy as np
import pytest
import report_fixtures as fixtures
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsims.audit.result import Cell, JointResult, JointSide
from fairsims.dashboard.charts import joint_alt, joint_chart
from fairsims.dashboard.gallery import Calls, attributes_of, chosen_rows, picture, positions_of, shared_seeds
from fairsims.dashboard.planning import command, ways
from fairsims.dashboard.runs_index import leads_out, list_runs, pools_of, read_run
from fairsims.errors import InputError
from fairsims.pools import Pool
from fairsims.report.questions import FILE, QUESTIONS, open_ids, read_answers, write_answers
from fairsims.retarget.complement import plan_complement


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("leak", "/etc"),
        ("leak", "../../outside"),
        ("leak", "../other-run"),
        ("audit/x.png", "gone/../../../x"),
        ("audit/x.png", "/etc/passwd"),
    ],
)
def test_a_run_with_a_link_out_of_it_is_not_opened(root, target, place):
    run = fixtures.finished_run(root)
    (root / "other-run").mkdir()
    (run / place).symlink_to(target)
    entry = read_run(run, root)
    assert (entry.state, entry.audit) == ("refused", None)
    assert place in entry.message


def test_a_pipe_in_a_run_is_refused_and_never_waited_for(root):
    run = fixtures.finished_run(root)
    os.mkfifo(run / "report.html")
    assert read_run(run, root).state == "refused"


def test_a_link_inside_a_run_is_allowed(root):
    run = fixtures.finished_run(root)
    (run / "latest.json").symlink_to("audit/audit.json")
    (run / "loop").symlink_to("loop")
    assert leads_out(run) is None
    assert read_run(run, root).state == "finished"


def test_a_run_that_is_a_link_elsewhere_is_named_and_refused(root, tmp_path):
    fixtures.finished_run(tmp_path, "outside")
    (root / "00001-link").symlink_to(tmp_path / "outside")
    fixtures.finished_run(root)
    (root / "latest").symlink_to("00003-gender-0.50")
    assert [(r.name, r.state) for r in list_runs(root)] == [
        ("00003-gender-0.50", "finished"),
        ("00001-link", "refused"),
    ]


def test_runs_in_folders_are_found_and_models_are_not_runs(root):
    fixtures.finished_run(root / "audits" / "emoji", "seed0")
    (root / "audits" / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (root / "audits" / "model" / name).write_text("{}")
    (root / "deep" / "deep" / "deep").mkdir(parents=True)
    fixtures.finished_run(root / "deep" / "deep" / "deep", "too-deep")
    assert [r.name for r in list_runs(root)] == ["audits/emoji/seed0"]


def test_pools_of_a_run_come_with_the_audit_seeds_first(whole_run):
    assert list(pools_of(read_run(whole_run))) == ["before", "after", "pool"]
    assert list(pools_of(read_run(whole_run / "pool"))) == ["pool"]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=3, max_size=3))
@settings(deadline=None, max_examples=30)
def test_answers_come_back_as_they_were_given(tmp_path_factory, answers):
    run = tmp_path_factory.mktemp("run")
    given_ids = [f.id for f in QUESTIONS[:3]]
    write_answers(run, dict(zip(given_ids, answers, strict=True)))
    found = read_answers(run)
    for id, answer in zip(given_ids, answers, strict=True):
        assert found[id] == answer.replace("\r\n", "\n").replace("\r", "\n").strip()
    assert set(found) == {f.id for f in QUESTIONS}


def test_open_fields_are_listed_and_unknown_ones_refused(tmp_path):
    assert open_ids(read_answers(tmp_path)) == [f.id for f in QUESTIONS]
    write_answers(tmp_path, {"purpose.intended": "x"})
    assert "purpose.intended" not in open_ids(read_answers(tmp_path))
    with pytest.raises(InputError, match=r"'purpose.intention'.*did you mean 'purpose.intended'"):
        write_answers(tmp_path, {"purpose.intention": "x"})
    for text, message in (
        ("[purpose]\nx = 1", "expected text"),
        ("purpose = 1", "outside of a section"),
        ("[", "is no TOML"),
        ('[purpose]\nother = "x"', "no report asks for"),
    ):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(InputError, match=message):
            read_answers(tmp_path)
    assert len({f.id for f in QUESTIONS}) == len(QUESTIONS)


def test_pairs_are_of_the_seeds_that_both_have(whole_run, make_faces):
    other = make_faces(whole_run / "other", 4, 3, list(range(530, 546)))
    pools = {"before": Pool(whole_run / "before"), "other": other}
    seeds = shared_seeds(pools)
    assert seeds.tolist() == list(range(530, 540))
    assert pools["before"].seeds[positions_of(pools["before"], seeds)].tolist() == seeds.tolist()
    assert attributes_of(other) == {"gender": "faces-12345678"}
    (whole_run / "other" / "labels" / "faces-12345678" / "shard-00000.parquet").write_bytes(b"x")
    assert attributes_of(other) == {}


def test_rows_are_filtered_and_sorted():
    before = Calls(classes=("a", "b"), probabilities=np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], dtype=np.float32))
    after = Calls(classes=("a", "b"), probabilities=np.array([[0.8, 0.2], [0.1, 0.9], [0.35, 0.65]], dtype=np.float32))
    both = {"before": before, "after": after}
    assert chosen_rows(both, {}, (0, 1), "seed").tolist() == [0, 1, 2]
    assert chosen_rows(both, {"after": "b"}, (0, 1), "seed").tolist() == [1, 2]
    assert chosen_rows(both, {"before": "a", "after": "b"}, (0, 1), "seed").tolist() == [1]
    assert chosen_rows(both, {}, (0.65, 1), "seed").tolist() == [0, 2]
    assert chosen_rows(both, {}, (0, 1), "least certain first").tolist() == [1, 2, 0]
    assert chosen_rows(both, {}, (0, 1), "most changed first").tolist() == [1, 2, 0]


def test_calls_are_worked_out_once():
    """Of 50,000 images each takes milliseconds, and a page asks for every image that it shows."""
    calls = Calls(classes=("a", "b"), probabilities=np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32))
    assert calls.winners is calls.winners
    assert calls.confidence is calls.confidence
    assert calls.confidence.tolist() == pytest.approx([0.9, 0.8])


def test_a_picture_holds_both_images():
    import io

    from PIL import Image

    pair = np.stack([np.zeros((1, 4, 4), np.uint8), np.full((1, 4, 4), 255, np.uint8)])
    image = np.asarray(Image.open(io.BytesIO(picture(pair, 8))))
    assert image.shape == (8, 22, 4)
    assert (image[:, :8, :3] == 0).all() and (image[:, 14:, :3] == 255).all() and (image[:, 8:14, 3] == 0).all()


def test_a_large_pool_is_read_group_by_group(whole_run, monkeypatch):
    monkeypatch.setattr("fairsims.pools.reading.HELD_BYTES", 1)
    pool, whole = Pool(whole_run / "before"), Pool(whole_run / "before").read(range(40))
    order = np.random.default_rng(0).permutation(40)
    assert (pool.read(order) == whole[order]).all()
    assert (pool.read([-1]) == whole[39:]).all()
    with pytest.raises(IndexError):
        pool.read([40])


def test_costs_are_those_of_the_rule():
    pi, tau = np.array([0.75, 0.25]), np.array([0.5, 0.5])
    plan = plan_complement(pi, tau, ("man", "woman"))
    resampling, merged, guided = ways(pi, tau, plan, evaluations=10, pool=100, budget=1.0, calibration=50)
    assert (resampling.once, resampling.each) == (0, 20)
    assert (merged.once, merged.each) == (100 * 10 + 3000 + 500, 10)
    assert (guided.once, guided.each) == (100 * 10 + 3000 + 1000, 20)
    assert merged.pays_from(resampling) == 450
    assert merged.total(450) == resampling.total(450)
    assert guided.pays_from(resampling) == float("inf")
    # Beyond the cap what is left is resampled from what strength reaches.
    far = plan_complement(pi, np.array([0.1, 0.9]), ("man", "woman"), cap=1.0)
    assert ways(pi, np.array([0.1, 0.9]), far, evaluations=10, pool=0, budget=0.1, calibration=0)[
        1
    ].each == pytest.approx(18)


def test_the_command_is_one_that_the_command_line_reads():
    import shlex

    from fairsims.cli.retargeting import retarget

    earlier = {
        "model": "a b",
        "calibration": 2560,
        "solver": "dpmpp2m",
        "tolerance": 0.03,
        "classifier": ["x=1", "y=2"],
    }
    line = command("skin tone", {"light & fair": 0.25, "dark": 0.75}, mode="guided", settings=earlier)
    assert shlex.split(line)[:6] == [
        "fairsims",
        "retarget",
        "--attr",
        "skin tone",
        "--target",
        "light & fair=0.25,dark=0.75",
    ]
    assert "--tolerance" not in line
    context = retarget.make_context("retarget", shlex.split(line)[2:])
    assert context.params["calibration"] == 2560
    assert "--precision float32" in command("a", {"b": 1.0}, mode="merged", settings={"precision": "float32"})
    assert context.params["classifier"] == ("x=1", "y=2")


def test_joint_shares_as_a_heat_map():
    def cells(values):
        pairs = [("man", "dark"), ("man", "light"), ("woman", "dark"), ("woman", "light")]
        found = (
            Cell(classes=c, share=v, low=v - 0.01, high=v + 0.01, lift=1.0, count=3)
            for c, v in zip(pairs, values, strict=True)
        )
        return JointSide(cells=tuple(found))

    sides = {"before": cells((0.4, 0.3, 0.2, 0.1)), "after": cells((0.25,) * 4)}
    joint = JointResult(attributes=("gender", "tone"), **sides)
    assert "woman and light +15.0" in joint_alt(joint, "change")
    value = joint_chart(joint, "before").to_dict()
    rows = next(iter(value["datasets"].values()))
    assert rows[0] == {
        "row": "man",
        "column": "dark",
        "value": 0.4,
        "size": 0.4,
        "text": "40.0%",
        "before": "40.0% [39.0, 41.0]",
        "after": "25.0% [24.0, 26.0]",
        "lift": "1.00",
    }
