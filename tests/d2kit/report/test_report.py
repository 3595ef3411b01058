"""The page of a report: numbers are those of the file, changed keys only, and names from data never become HTML."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.config import get_cfg

from d2kit.hooks import ReportAtEnd
from d2kit.report.figures import COLORS
from d2kit.report.page import Section, page_path, write_page
from d2kit.report.pictures import Picture, data_uri, draw_masks
from d2kit.report.report import Curves, ReportParts, write_report

EVIL = "<script>alert(1)</script>\"'&$x$"


class Page(HTMLParser):
    """Tags, the cells of tables and the texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.rows, self.texts, self.addresses = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.texts.append(data)
        if self.rows and self.tags[-1] in ("td", "th") and data.strip():
            self.rows[-1][-1] += data

    def row(self, first):
        return next(row[1:] for row in self.rows if row[0] == first)


def parts(**changes):
    options = {
        "package": "test",
        "add_keys": lambda cfg: None,
        "facts": {"seed": "SEED", "images": "DATASETS.TRAIN"},
        "curves": [Curves("Losses", "all", r"(?P<panel>loss_\w+?)(?P<line>_pseudo)?", {"": "a", "_pseudo": "b"})],
        "scores": lambda run: {("set", "student", name): run.last(name) for name in run.figures if "AP" in name},
        "sections": lambda runs: [],
        "commands": lambda run: [("Resume", f"resume {run.folder}")],
    }
    return ReportParts(**options | changes)


@pytest.fixture
def make_run(tmp_path):
    """Function (name, seed, rows) -> folder of a run."""

    def make(name, seed=1, rows=None, **keys):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows = rows or [{"iteration": 19, "loss_mask": 2.0, "loss_mask_pseudo": 1.5, "AP": 12.345678, "AP-cat": 7.0}]
        (folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
        cfg = get_cfg()
        cfg.SEED = seed
        cfg.merge_from_list([item for pair in keys.items() for item in pair])
        (folder / "config.yaml").write_text(cfg.dump())
        return folder

    return make


def test_one_run(make_run, tmp_path):
    write_report(parts(), [make_run("one", 3)], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.row("AP") == ["12.346"] and page.row("AP-cat") == ["7"]
    assert page.row("seed") == ["3"] and page.row("SEED") == ["3", "-1"]
    default = {key for key in get_cfg() if key.isupper()}
    changed = {row[0] for row in page.rows if row[0].split(".")[0] in default}
    assert changed == {"SEED"}, "only what differs from the defaults"
    assert f"resume {tmp_path / 'one'}" in page.texts
    assert "script" not in page.tags and "link" not in page.tags


def test_a_comparison_has_a_column_and_a_color_for_each_run(make_run, tmp_path):
    rows = [{"iteration": 39, "loss_mask": 1.0, "AP": 50.0}]
    folders = [make_run("one", 3), make_run("two", 3, rows, **{"SOLVER.BASE_LR": 0.5})]
    write_report(parts(), folders, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.row("AP") == ["12.346", "50"] and page.row("AP-cat") == ["7", "–"]
    assert page.row("SOLVER.BASE_LR") == ["0.001", "0.5"]
    text = (tmp_path / "report.html").read_text()
    assert text.count("<h3>loss_mask</h3>") == 1, "the runs share their axes"
    chart = text[text.index("<h3>loss_mask</h3>") :]
    assert all(color.lower() in chart.lower() for color in COLORS[:2])
    assert page.texts.count("one") > 1 and page.texts.count("two") > 1


def test_runs_of_the_same_name_are_told_by_their_folders(make_run, tmp_path):
    folders = [make_run("a/run"), make_run("b/run")]
    write_report(parts(), folders, tmp_path / "report.html")
    assert set(map(str, folders)) <= set(Page(tmp_path / "report.html").texts)


def test_names_never_become_html(make_run, tmp_path):
    rows = [{"iteration": 19, "loss_mask": 2.0, f"AP-{EVIL}": 1.0}]
    folder = make_run(f"{EVIL.replace('/', '')}", rows=rows, **{"DATASETS.TRAIN": (EVIL,)})
    picture = Picture(EVIL, data_uri(np.zeros((4, 4, 3), np.uint8)))
    section = Section(EVIL, [EVIL], legend=[("#000000", EVIL)], galleries=[(EVIL, [picture])])
    own = parts(sections=lambda runs: [section])
    write_report(own, [folder], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "script" not in page.tags
    assert EVIL in page.row("images") and f"AP-{EVIL}" in [row[0] for row in page.rows]
    assert page.texts.count(EVIL) >= 4
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.addresses)


def test_a_name_that_is_not_utf8_can_be_written(tmp_path):
    write_page(tmp_path / "page.html", "caf\udce9", [], [])
    assert "caf\\udce9" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_metrics_alone_make_a_report(make_run, tmp_path):
    folder = make_run("old")
    (folder / "config.yaml").unlink()
    write_report(parts(), [folder], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.row("AP") == ["12.346"] and page.row("seed") == ["–"]
    assert "old has no readable config.yaml." in page.texts


def test_equal_runs_give_equal_pages(make_run, tmp_path):
    folder = make_run("one")
    for name in ("a.html", "b.html"):
        write_report(parts(), [folder], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_run_named_twice_or_too_many_runs_are_refused(make_run, tmp_path):
    folder = make_run("one")
    with pytest.raises(ValueError, match="named twice"):
        write_report(parts(), [folder, f"{folder}/"], tmp_path / "report.html")
    with pytest.raises(ValueError, match="at most 8 runs, not 9"):
        write_report(parts(), [tmp_path / str(number) for number in range(9)], tmp_path / "report.html")


def test_the_page_of_an_output():
    assert [str(page_path(name, "x.html")) for name in ("a/b.html", "a")] == ["a/b.html", "a/x.html"]


def test_masks_are_outlined_in_their_color():
    mask = np.zeros((90, 180), bool)
    mask[30:60, 60:120] = True
    drawn = draw_masks(np.zeros((90, 180, 3), np.uint8), [mask], ["#ff0000"], tint=0)
    assert drawn.shape == (180, 360, 3)
    assert drawn[60, 180].tolist() == [255, 0, 0] and not drawn[90, 180].any() and not drawn[10, 10].any()
    tinted = draw_masks(np.zeros((90, 180, 3), np.uint8), [mask], ["#ff0000"], tint=0.5)
    assert tinted[90, 180].tolist() == [127, 0, 0]


def end_training(hook, iteration=1):
    """Call a hook at the end of a training of two iterations, which is at one of them."""
    hook.trainer = SimpleNamespace(iter=iteration, max_iter=2)
    hook.after_train()


@pytest.mark.parametrize(("iteration", "written"), [(0, False), (1, True)])
def test_a_training_that_reaches_its_end_writes_its_report(make_run, iteration, written):
    folder = make_run("one")
    end_training(ReportAtEnd(parts(), folder), iteration)
    assert (folder / "report.html").is_file() == written


def test_a_report_that_fails_is_one_warning(make_run, caplog):
    folder = make_run("one")
    end_training(ReportAtEnd(parts(scores=lambda run: 1 / 0), folder))
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch("The report of the training is not written: ZeroDivisionError: .*", message)
    assert not list(folder.glob("*.html")) and not list(folder.glob(".*"))
