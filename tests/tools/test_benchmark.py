import json

import pytest
import torch

from benchmarks import coco_ap, istd_masks, s4m_guards, sam
from benchmarks.coco_ap import make_evaluator
from benchmarks.harness import describe_device
from d2kit.commands import run_command
from s4m.modeling.teacher_student import TeacherStudent
from s4m.pseudo_labels import refinement


@pytest.fixture
def run(tool, capsys):
    """Function (*arguments) that runs the tool and returns the records that it prints."""

    def run(*argv):
        assert run_command(tool, [*argv, "--repeats", "1"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_the_list_names_every_scenario(tool, capsys):
    assert run_command(tool, ["--list"]) == 0
    names = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    sam_names = {"sam_refinement", "structural_distillation"}
    istd_names = {"ir_metrics", "label_evolution", "inner_step", "outer_step", "istd_networks"}
    assert set(names) == sam_names | istd_names | {"s4m_guards", "coco_ap"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no_such"], "no scenario no_such"),
        ([], "A scenario must be named"),
        (["ir_metrics", "--repeats", "0"], "--repeats"),
        (["ir_metrics", "--regions", "9000"], "--regions"),
        (["ir_metrics", "--regions", "0"], "--regions"),
        (["structural_distillation", "--queries", "0"], "--queries"),
        (["sam_refinement", "--instances", "0"], "an instance"),
        (["sam_refinement", "--checkpoint", "absent.pth"], "absent.pth"),
        (["coco_ap", "--annotations", "absent.json"], "absent.json"),
        (["coco_ap", "--detections", "0"], "--detections"),
    ],
)
def test_bad_options_are_one_sentence(tool, argv, message, capsys):
    try:
        assert run_command(tool, argv) == 1
    except SystemExit as error:
        assert error.code == 2
    assert message in capsys.readouterr().err


def test_ir_metrics(run, tmp_path):
    output = tmp_path / "out" / "benchmark.json"
    records = run("ir_metrics", "--regions", "1", "60", "--output", str(output))
    assert json.loads(output.read_text()) == records
    assert [record["settings"]["regions"] for record in records] == [1, 60]
    assert {record["scenario"] for record in records} == {"ir_metrics"}
    assert records[0]["device"] == describe_device("cpu")
    assert records[0]["comparisons"][0]["goals"] == []
    assert [goal["at_least"] for goal in records[1]["comparisons"][0]["goals"]] == [8.0]


def test_label_evolution(run):
    (record,) = run("label_evolution")
    assert record["comparisons"][0]["difference"] == {"mask": 0.0}
    assert [goal["at_least"] for goal in record["comparisons"][0]["goals"]] == [3.0]


def test_structural_distillation(run):
    (record,) = run("structural_distillation", "--queries", "24", "--chunk", "2", "--image-size", "96", "128")
    (comparison,) = record["comparisons"]
    assert record["settings"]["weights"] == "package" and record["settings"]["chunk"] == 2
    assert [goal["quantity"] for goal in comparison["goals"]] == ["memory_ratio", "speed_ratio"]
    # 24 queries at once against 2: the memory of a run repeats exactly, so this is no measurement of speed.
    assert comparison["memory_ratio"] > 6


def test_sam_refinement(run):
    (record,) = run("sam_refinement", "--images", "2", "--instances", "2")
    compared = [(comparison["plain"], comparison["ours"]) for comparison in record["comparisons"]]
    plain = "image by image"
    assert compared == [(plain, "batched"), ("prompt by prompt", "batched"), (plain, "warm cache")]
    assert [len(comparison["goals"]) for comparison in record["comparisons"]] == [1, 0, 0]
    assert all(way["peak_mib"] > 0.5 for way in record["ways"].values())


def test_coco_ap(run, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_ap, "IMAGES", 2)
    (drawn,) = run("coco_ap", "--detections", "150")
    assert drawn["settings"]["limit"] == 150 and drawn["settings"]["instances"] == 2 * coco_ap.INSTANCES
    assert [goal["at_least"] for goal in drawn["comparisons"][0]["goals"]] == [3.0]
    path = coco_ap.draw_annotations(tmp_path, 1, 5)
    (record,) = run("coco_ap", "--annotations", path)
    assert record["settings"]["annotations"] == "drawn.json" and record["settings"]["limit"] == 100
    assert record["comparisons"][0]["difference"]["AP in percent"] < 1e-6


@pytest.fixture
def short_steps(monkeypatch):
    """The guards' benchmark with a fit of the calibration at each step, on an image of each kind."""

    def configuration(*args, whole=s4m_guards.configure):
        cfg = whole(*args)
        cfg.S4M.CALIBRATION.PERIOD = 1
        return cfg

    monkeypatch.setattr(s4m_guards, "configure", configuration)
    monkeypatch.setattr(s4m_guards, "IMAGES", 1)
    monkeypatch.setattr(s4m_guards, "SIZE", (64, 64))


def test_s4m_guards(run, monkeypatch, short_steps):
    settings = [(*s4m_guards.SETTINGS[0][:2], 4), (*s4m_guards.SETTINGS[-1][:2], 2)]
    steps = []
    monkeypatch.setattr(s4m_guards, "SETTINGS", settings)
    step = TeacherStudent.forward

    def noting(model, batch):
        losses = step(model, batch)
        steps.append((model.calibration is not None, model.last_record.selected, losses.keys()))
        return losses

    monkeypatch.setattr(TeacherStudent, "forward", noting)
    records = run("s4m_guards")
    assert [r["settings"]["objects"] for r in records] == [4, 2]
    assert [r["settings"]["configuration"] for r in records] == [name for name, *_ in settings]
    for record in records:
        (comparison,) = record["comparisons"]
        assert comparison["goals"][0]["at_least"] == pytest.approx(1 / 1.15)
        assert comparison["difference"]["loss on labels"] < 1e-3
    # both ways learn from pseudo-labels, and one of them with the boundary loss
    assert all(selected > 0 and ("loss_boundary_pseudo" in losses) is guards for guards, selected, losses in steps)
    assert {guards for guards, *_ in steps} == {False, True}


def spoiled_refine(*args, **kwargs):
    refined = refinement.refine(*args, **kwargs)
    for instances in refined:
        instances.pred_masks = instances.pred_masks.roll(1, dims=2)
    return refined


def spoiled_detections(fast, data, detections, *args):
    if not fast:
        detections = {image: items[1:] for image, items in detections.items()}
    return make_evaluator(fast, data, detections, *args)


def spoiled_step(model, entries):
    """With the guards the student is another one."""
    if model.calibration is not None:
        with torch.no_grad():
            next(model.student.parameters()).add_(0.1)


@pytest.mark.parametrize(
    ("package", "name", "spoiled", "argv"),
    [
        (sam, "refine", spoiled_refine, ["sam_refinement", "--images", "1", "--instances", "1"]),
        (
            sam,
            "structural_similarity",
            lambda tokens, cells: torch.zeros(len(tokens), tokens[0, 0].numel()),
            ["structural_distillation", "--queries", "4"],
        ),
        (s4m_guards, "answer_with_truth", spoiled_step, ["s4m_guards"]),
        (coco_ap, "make_evaluator", spoiled_detections, ["coco_ap", "--detections", "5"]),
        (istd_masks, "evolve_mask", lambda mask, probability: mask, ["label_evolution"]),
        (istd_masks, "match_plainly", lambda target, predicted: (2, 1, 0), ["ir_metrics", "--regions", "2"]),
    ],
)
def test_no_scenario_times_wrong_results(tool, monkeypatch, capsys, short_steps, package, name, spoiled, argv):
    monkeypatch.setattr(package, name, spoiled)
    assert run_command(tool, argv) == 1
    output = capsys.readouterr()
    assert "does not give the result of" in output.err and not output.out
