import json
import math

import numpy as np
import pytest
import torch

import istd.benchmarks
import s4m.benchmarks
import s4m.benchmarks_ap
import s4m.benchmarks_guards
from d2kit import benchmark
from d2kit.benchmark import Case, Comparison, Goal, ResultsDiffer
from s4m.benchmarks_ap import make_evaluator
from s4m.modeling.teacher_student import TeacherStudent
from s4m.pseudo_labels import refinement

MIB = 2**20


@pytest.fixture
def run(tool, capsys):
    """Run the tool; the records it prints."""

    def run(*argv):
        tool.main([*argv, "--repeats", "1"])
        return json.loads(capsys.readouterr().out)

    return run


def case_of(results, tolerance=0.0, goals=(), memory="python"):
    """A case whose ways return the given numbers and note the order in which they ran."""
    order = []

    def way(name):
        def run():
            order.append(name)
            return results[name]

        return run

    comparison = Comparison("plain", "ours", lambda a, b: {"value": abs(a - b)}, {"value": tolerance}, goals)
    return Case({"size": 3}, {name: way(name) for name in results}, [comparison], memory), order


def test_record_of_a_case():
    goals = [Goal("cannot fail", "speed_ratio", 0.0), Goal("cannot be met", "speed_ratio", 1e12)]
    case, _ = case_of({"plain": 1.0, "ours": 1.25}, tolerance=0.5, goals=goals)
    record = benchmark.run_case(case, repeats=3)
    assert json.loads(json.dumps(record)) == record
    assert record["settings"] == {"size": 3} and record["memory"] == "python"
    assert list(record["ways"]) == ["plain", "ours"]
    for way in record["ways"].values():
        assert 0 < way["fastest_s"] <= way["median_s"] <= way["slowest_s"] and way["peak_mib"] >= 0
    (comparison,) = record["comparisons"]
    assert (comparison["plain"], comparison["ours"]) == ("plain", "ours")
    ratio = record["ways"]["plain"]["median_s"] / record["ways"]["ours"]["median_s"]
    assert comparison["speed_ratio"] == pytest.approx(ratio)
    assert comparison["difference"] == {"value": 0.25} and comparison["tolerance"] == {"value": 0.5}
    assert [goal["met"] for goal in comparison["goals"]] == [True, False]
    assert comparison["goals"][1]["value"] == comparison["speed_ratio"]


@pytest.mark.parametrize("wrong", [1.3, math.nan])
def test_a_wrong_result_is_an_error_before_anything_is_timed(wrong):
    case, order = case_of({"plain": 1.0, "ours": wrong}, tolerance=0.25)
    with pytest.raises(ResultsDiffer, match="'ours' does not give the result of 'plain': value"):
        benchmark.run_case(case, repeats=3)
    assert order == ["plain", "ours"]


def test_every_difference_needs_a_tolerance():
    comparison = Comparison("plain", "ours", lambda a, b: {"value": 0.0, "other": 9.0}, {"value": 0.0})
    with pytest.raises(ValueError, match="other"):
        comparison.check({"plain": 1, "ours": 1})


@pytest.mark.parametrize(
    ("quantity", "value", "met"),
    [
        ("speed_ratio", 1.5, True),
        ("speed_ratio", 1.49, False),
        ("memory_ratio", 8.0, True),
        ("memory_ratio", 7.9, False),
    ],
)
def test_goals(quantity, value, met):
    values = {"speed_ratio": math.nan, "memory_ratio": math.nan, quantity: value}
    goal = Goal("some goal", quantity, 1.5 if quantity == "speed_ratio" else 8.0)
    assert goal.judge(values)["met"] is met and goal.judge(values)["value"] == value
    assert goal.judge(dict.fromkeys(values, math.nan))["met"] is False


def test_slow_ways_alternate_and_run_once_a_sample(monkeypatch):
    monkeypatch.setattr(benchmark, "_SAMPLE_SECONDS", 0.0)
    case, order = case_of({"plain": 1.0, "ours": 1.0})
    samples = benchmark.time_alternately(case.ways, repeats=3)
    assert order == ["plain", "ours"] * 3 and [len(values) for values in samples.values()] == [3, 3]


def test_quick_ways_run_often_for_a_sample():
    case, order = case_of({"plain": 1.0, "ours": 1.0})
    samples = benchmark.time_alternately(case.ways, repeats=2)
    assert len(order) > 100 and all(0 < value < 0.01 for values in samples.values() for value in values)


def held_at_most_three_mib():
    first = torch.zeros(MIB // 4)
    second = first + 1  # 2 MiB
    del first
    third = torch.cat([second, second])  # 3 MiB
    return third[:1]


def test_peak_of_tensors_counts_what_is_held_at_once():
    outside = torch.ones(4 * MIB)
    assert benchmark.peak_bytes(held_at_most_three_mib) == pytest.approx(3 * MIB, rel=0.01)
    assert benchmark.peak_bytes(lambda: outside.sum()) < MIB / 10
    # What an operator needs inside of it: the sorted values beside the indices.
    assert benchmark.peak_bytes(lambda: torch.zeros(MIB // 4).argsort()) >= 4 * MIB - 1000


def test_peak_of_arrays_counts_what_is_held_at_once():
    outside = np.ones(MIB)

    def way():
        first = np.zeros(MIB, np.uint8) + np.uint8(1)
        return np.concatenate([first, first]), outside[:1]

    assert benchmark.peak_bytes(way, "python") == pytest.approx(3 * MIB, rel=0.05)


def test_the_list_names_every_scenario(tool, capsys):
    tool.main(["--list"])
    names = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == list(tool.SCENARIOS)
    assert {
        "sam_refinement",
        "structural_distillation",
        "s4m_guards",
        "coco_ap",
        "ir_metrics",
        "label_evolution",
    } <= set(names)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no_such"], "no scenario no_such"),
        ([], "name a scenario"),
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
    with pytest.raises(SystemExit) as error:
        tool.main(argv)
    assert message in f"{error.value}{capsys.readouterr().err}"


def test_ir_metrics(run, tmp_path):
    output = tmp_path / "out" / "benchmark.json"
    records = run("ir_metrics", "--regions", "1", "60", "--output", str(output))
    assert json.loads(output.read_text()) == records
    assert [record["settings"]["regions"] for record in records] == [1, 60]
    assert {record["scenario"] for record in records} == {"ir_metrics"}
    assert records[0]["device"] == benchmark.describe_device("cpu")
    assert records[0]["comparisons"][0]["goals"] == []
    assert [goal["at_least"] for goal in records[1]["comparisons"][0]["goals"]] == [8.0]


@pytest.mark.parametrize("regions", [1, 2, 60, 2000])
def test_drawn_targets_have_as_many_regions_and_are_not_met_by_all_predictions(regions):
    probability, target = istd.benchmarks.draw_targets(regions)
    score = istd.benchmarks.IRMetrics().update(probability, target)
    assert score.targets == regions and score.regions >= regions - regions // 10
    assert 0 < score.intersection < score.union or regions < 10
    assert regions < 10 or (0 < score.found < regions and score.false_pixels > 0)


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
    monkeypatch.setattr(s4m.benchmarks_ap, "_IMAGES", 2)
    (drawn,) = run("coco_ap", "--detections", "150")
    assert drawn["settings"]["limit"] == 150 and drawn["settings"]["instances"] == 2 * s4m.benchmarks_ap._INSTANCES
    assert [goal["at_least"] for goal in drawn["comparisons"][0]["goals"]] == [3.0]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(s4m.benchmarks_ap.draw_annotations(1, 5)))
    (record,) = run("coco_ap", "--annotations", str(path))
    assert record["settings"]["annotations"] == "some.json" and record["settings"]["limit"] == 100
    assert record["comparisons"][0]["difference"]["AP in percent"] < 1e-6


@pytest.fixture
def short_steps(monkeypatch):
    """The guards' benchmark with a fit of the calibration at each step, on an image of each kind."""

    def configuration(*args, whole=s4m.benchmarks_guards._configuration):
        cfg = whole(*args)
        cfg.S4M.CALIBRATION.PERIOD = 1
        return cfg

    monkeypatch.setattr(s4m.benchmarks_guards, "_configuration", configuration)
    monkeypatch.setattr(s4m.benchmarks_guards, "_IMAGES", 1)
    monkeypatch.setattr(s4m.benchmarks_guards, "_SIZE", (64, 64))


def test_s4m_guards(run, monkeypatch, short_steps):
    settings, steps = (("shapes_student", 4), ("shapes_mask2former_student", 2)), []
    monkeypatch.setattr(s4m.benchmarks_guards, "_SETTINGS", settings)
    step = TeacherStudent.forward

    def noting(model, batch):
        losses = step(model, batch)
        steps.append((model.calibration is not None, model.last_record.selected, losses.keys()))
        return losses

    monkeypatch.setattr(TeacherStudent, "forward", noting)
    records = run("s4m_guards")
    assert [(r["settings"]["configuration"], r["settings"]["objects"]) for r in records] == list(settings)
    for record in records:
        (comparison,) = record["comparisons"]
        assert comparison["goals"][0]["at_least"] == pytest.approx(1 / 1.15)
        assert comparison["difference"]["loss on labels"] < 1e-3
    # both ways learn from pseudo-labels, and one of them with the boundary loss
    assert all(selected > 0 and ("loss_boundary_pseudo" in losses) is guards for guards, selected, losses in steps)
    assert {guards for guards, *_ in steps} == {False, True}


def test_a_warm_cache_reads_no_image_and_asks_no_encoder(tmp_path, tool):
    options = tool.parse(["sam_refinement"])
    segmenter, _ = s4m.benchmarks.make_segmenter(options)
    images, _ = s4m.benchmarks.draw_batch(2, 1, (64, 96), "cpu")
    source = s4m.benchmarks._warm_source(images, segmenter, str(tmp_path))
    segmenter.network.image_encoder = None
    assert len(source.embed([1, 0])) == 2


def test_other_segmenters_have_random_weights_without_a_checkpoint(tool, monkeypatch):
    from s4m.sam.tiny import build_tiny_sam

    monkeypatch.setitem(s4m.benchmarks.sam_model_registry, "vit_b", build_tiny_sam)
    options = tool.parse(["sam_refinement", "--segmenter", "vit_b"])
    (first, origin), (second, _) = (s4m.benchmarks.make_segmenter(options) for _ in range(2))
    assert origin == "random" and first.name == "vit_b" and first.fingerprint == second.fingerprint


def spoiled_refine(*args, **kwargs):
    refined = refinement.refine(*args, **kwargs)
    for found in refined:
        found.pred_masks = found.pred_masks.roll(1, dims=2)
    return refined


def spoiled_detections(fast, data, found, *args):
    return make_evaluator(fast, data, found if fast else {image: items[1:] for image, items in found.items()}, *args)


def spoiled_step(model, entries):
    """With the guards the student is another one."""
    if model.calibration is not None:
        with torch.no_grad():
            next(model.student.parameters()).add_(0.1)


@pytest.mark.parametrize(
    ("package", "name", "spoiled", "argv"),
    [
        (s4m.benchmarks, "refine", spoiled_refine, ["sam_refinement", "--images", "1", "--instances", "1"]),
        (
            s4m.benchmarks,
            "structural_similarity",
            lambda tokens, cells: torch.zeros(len(tokens), tokens[0, 0].numel()),
            ["structural_distillation", "--queries", "4"],
        ),
        (s4m.benchmarks_guards, "_answer_with_truth", spoiled_step, ["s4m_guards"]),
        (s4m.benchmarks_ap, "make_evaluator", spoiled_detections, ["coco_ap", "--detections", "5"]),
        (istd.benchmarks, "evolve_mask", lambda mask, probability: mask, ["label_evolution"]),
        (istd.benchmarks, "_match_plainly", lambda target, predicted: (2, 1, 0), ["ir_metrics", "--regions", "2"]),
    ],
)
def test_no_scenario_times_wrong_results(tool, monkeypatch, short_steps, package, name, spoiled, argv):
    monkeypatch.setattr(package, name, spoiled)
    with pytest.raises(SystemExit, match="does not give the result of"):
        tool.main(argv)
