"""What is read of the folders of trainings: old, torn, restarted and damaged ones."""

import json

import pytest

from d2kit.report.runs import read_run


def write(folder, *rows, tail=""):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return folder


def loss(iteration, value):
    return {"iteration": iteration, "total_loss": value}


def test_a_run_of_metrics_alone(tmp_path):
    rows = [loss(19, 2.5), {"iteration": 20, "student/segm/AP": 31.25}]
    run = read_run(write(tmp_path / "old", *rows))
    assert run.name == "old" and run.config == {} and run.versions == {} and run.iterations == 20
    assert run.figures == {"total_loss": {19: 2.5}, "student/segm/AP": {20: 31.25}}
    assert run.last("student/segm/AP") == 31.25 and run.last("teacher/segm/AP") is None


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    folder = write(tmp_path / "run", loss(19, 2.0), [1], {"lr": 1}, loss("x", 1), tail='{"iteration": 39, "total')
    with open(folder / "metrics.json", "ab") as file:
        file.write(b'\n\xff\xfe\n{"iteration": 59, "total_loss": NaN, "lr": 0.5, "note": "text"}\n')
    assert read_run(folder).figures == {"total_loss": {19: 2.0}, "lr": {59: 0.5}}


def test_a_resume_replaces_the_iterations_that_it_repeats(tmp_path):
    rows = [loss(19, 4.0), loss(39, 3.0), loss(59, 9.0), loss(79, 9.0), loss(49, 2.5), loss(59, 2.0)]
    assert read_run(write(tmp_path / "run", *rows)).figures["total_loss"] == {19: 4.0, 39: 3.0, 49: 2.5, 59: 2.0}


def test_a_new_start_in_the_same_folder_forgets_the_longer_run(tmp_path):
    run = read_run(write(tmp_path / "run", loss(19, 4.0), loss(39, 3.0), loss(19, 1.0)))
    assert run.figures["total_loss"] == {19: 1.0} and run.iterations == 20


def test_rows_of_the_same_iteration_add_up(tmp_path):
    run = read_run(write(tmp_path / "run", loss(19, 4.0), {"iteration": 19, "istd/IoU": 50.0}))
    assert run.figures == {"total_loss": {19: 4.0}, "istd/IoU": {19: 50.0}}


def test_configuration_and_versions(tmp_path):
    folder = write(tmp_path / "run", loss(19, 4.0))
    (folder / "config.yaml").write_text("SEED: 3\nSOLVER:\n  STEPS: [1, 2]\n")
    (folder / "log.txt").write_text(
        "[11/26 20:19:59] detectron2 INFO: Environment info:\n"
        "Python                           3.11.7 (main, May  9 2026)\n"
        "PyTorch                          2.11.0+cu130 @/site-packages/torch\n"
        "[11/26 20:19:59] s4m INFO: This is s4m 0.2.0.\n"
    )
    run = read_run(folder)
    assert run.config == {"SEED": 3, "SOLVER.STEPS": [1, 2]}
    assert run.versions == {"s4m": "0.2.0", "Python": "3.11.7", "PyTorch": "2.11.0+cu130"}


@pytest.mark.parametrize("content", ["[", "- 1", "a: !!python/object:os.system x", "\x00"])
def test_a_damaged_configuration_counts_as_none(tmp_path, content):
    folder = write(tmp_path / "run", loss(19, 4.0))
    (folder / "config.yaml").write_text(content)
    assert read_run(folder).config == {}


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder of a training: it holds no metrics.json"):
        read_run(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match="metrics.json' holds no figure"):
        read_run(tmp_path)


def test_the_best_checkpoint_goes_on(tmp_path):
    run = read_run(write(tmp_path / "run", loss(19, 4.0)))
    assert run.checkpoint.name == "model_final.pth"
    (run.folder / "model_best.pth").touch()
    assert run.checkpoint.name == "model_best.pth"
