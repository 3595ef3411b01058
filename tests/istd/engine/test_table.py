"""Running a table: what is trained, skipped, resumed and named; the trainings are a stand-in script, one is real."""

import json
import threading
import time

import pytest

from istd.engine import table as tables
from istd.engine.table import Run, Table, plan

# Takes what tools/train_net.py takes; leaves what a training leaves, at once; fails where the seed is 13.
TRAINING = """
import json, pathlib, sys, time
pairs = sys.argv[4:]
options = dict(zip(pairs[::2], pairs[1::2]))
folder = pathlib.Path(options["OUTPUT_DIR"])
with open(folder / "calls", "a") as file:
    file.write(" ".join(sys.argv[1:4]) + "\\n")
if options["SEED"] == "13":
    sys.exit("no luck")
time.sleep(float(options.get("SLEEP", 0)))
network = pathlib.Path(sys.argv[3]).stem.split("_")[0]
config = {"ISTD": {"NETWORK": {"NAME": network}, "SCHEDULE": {"EPOCHS": 2}}}
(folder / "config.yaml").write_text(json.dumps(config))
(folder / "model_best.json").write_text(json.dumps({"metric": float(options.get("X", 1)), "iteration": 0}))
(folder / "test").mkdir(exist_ok=True)
value = {"sirst:data:test.txt/istd/IoU": float(options["SEED"])}
(folder / "test" / "results.json").write_text(json.dumps({"results": value}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train_net.py").write_text(TRAINING)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    return tmp_path / "table"


def calls(output, name) -> int:
    return len((output / name / "calls").read_text().splitlines())


def test_plan():
    runs = plan(["acm", "mshnet"], ["full"], [1, 2])
    assert [run.name for run in runs] == [f"{net}_full/seed{seed}" for net in ("acm", "mshnet") for seed in (1, 2)]
    first, second = plan(["acm"], ["pal"], [3], ["ISTD.SCAM.SCALE", "0.05", "0.6"])
    assert first.name == "acm_pal-ISTD.SCAM.SCALE=0.05/seed3"
    assert second.options == ["SEED", "3", "ISTD.SCAM.SCALE", "0.6"]
    with pytest.raises(ValueError, match="ISTD.SCAM.SCALE names no value"):
        plan(["acm"], ["pal"], [3], ["ISTD.SCAM.SCALE"])


def test_every_configuration_of_the_table_exists():
    for run in plan(tables.NETWORKS, tables.SCHEMES, [1]):
        assert (tables.ROOT / "configs" / "istd" / f"{run.network}_{run.scheme}.yaml").is_file(), run.name


def test_one_failure_is_named_and_the_rest_goes_on(stand_in, capsys):
    runs = plan(["mshnet", "acm"], ["full"], [1, 13, 4])
    failed = Table(stand_in, runs, ["ISTD.X", "1"]).run(jobs=2)
    assert set(failed) == {"acm_full/seed13", "mshnet_full/seed13"} and "seed13.out" in failed["acm_full/seed13"]
    assert "no luck" in (stand_in / "acm_full" / "seed13.out").read_text()
    document = json.loads((stand_in / "table.json").read_text())
    assert [(row["network"], row["seeds"]) for row in document["rows"]] == [("mshnet", [1, 4]), ("acm", [1, 4])]
    assert document["rows"][0]["figures"]["all"]["IoU"]["mean"] == 2.5 and document["failed"] == failed
    text = (stand_in / "table.md").read_text()
    assert "4 of 6 trainings are done. Options: `ISTD.X 1`." in text and "acm_full/seed13" in text
    assert "[acm_full/seed13] failed" in capsys.readouterr().out


def test_finished_runs_are_skipped_and_interrupted_ones_resumed(stand_in):
    runs = plan(["acm"], ["full"], [1, 2])
    Table(stand_in, runs).run()
    (stand_in / "acm_full" / "seed2" / "test" / "results.json").unlink()
    before = json.loads((stand_in / "acm_full" / "seed2" / "run.json").read_text())["seconds"]
    assert Table(stand_in, runs).run() == {}
    assert (calls(stand_in, "acm_full/seed1"), calls(stand_in, "acm_full/seed2")) == (1, 2)
    assert (stand_in / "acm_full" / "seed2" / "calls").read_text().startswith("--resume --config-file configs/istd/")
    assert json.loads((stand_in / "acm_full" / "seed2" / "run.json").read_text())["seconds"] > before > 0


def test_a_folder_with_other_options_is_left_alone(stand_in):
    runs = plan(["acm"], ["full"], [1])
    Table(stand_in, runs).run()
    table = Table(stand_in, runs, ["ISTD.SCHEDULE.EPOCHS", "9"])
    assert "other options, SEED 1" in table.run()["acm_full/seed1"]
    assert calls(stand_in, "acm_full/seed1") == 1 and json.loads((stand_in / "table.json").read_text())["rows"] == []


def test_a_sweep_has_a_row_a_value(stand_in):
    runs = plan(["acm"], ["pal"], [1, 2], ["X", "0.1", "0.3"])
    Table(stand_in, runs).run(jobs=4)
    rows = json.loads((stand_in / "table.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["X=0.1", "X=0.3"]
    assert "| acm | pal | X=0.3 |" in (stand_in / "table.md").read_text()


def test_an_interruption_ends_the_trainings(stand_in, monkeypatch):
    table = Table(stand_in, plan(["acm"], ["full"], [1, 2, 3]), ["SLEEP", "60"])

    def interrupt(futures):
        while not (stand_in / "acm_full" / "seed1" / "calls").is_file():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "as_completed", interrupt)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        table.run()
    assert time.monotonic() - began < 50 and threading.active_count() < 10
    assert not (stand_in / "acm_full" / "seed3").exists()
    assert not tables.is_finished(stand_in / "acm_full" / "seed1")


def test_a_real_training(istd_options, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = [str(item) for item in istd_options(ISTD__SCHEDULE__EPOCHS=1, ISTD__INPUT__CROP=32)]
    table = Table(tmp_path, [Run("alcnet", "full", 5)], options)
    assert table.run() == {}, (tmp_path / "alcnet_full" / "seed5.out").read_text()[-3000:]
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (row["network"], row["seeds"], row["epochs"], row["answer"]) == ("ALCNet", [5], 1, "student")
    assert set(row["figures"]) > {"all"} and row["validation"]["mean"] is not None
