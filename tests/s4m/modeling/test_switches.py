"""Switches that would do nothing, or harm, are told or refused; numbers out of their range are named."""

import logging

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from s4m.config import add_s4m_config
from s4m.losses.boundary_consistency import BoundaryConsistency
from s4m.modeling import PseudoLabelROIHeads
from s4m.modeling.ignored import require_pseudo_label_parts
from s4m.modeling.teacher_student import log_idle_switches
from s4m.pseudo_labels.pipeline import PseudoLabeler

SWITCHES = ("PR", "ARP", "BOUNDARY", "CALIBRATION", "MATCHING")
PLAIN = {"MODEL__PROPOSAL_GENERATOR__NAME": "RPN", "MODEL__ROI_HEADS__NAME": "StandardROIHeads"}


def config(semi=True, on=(), **options):
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.DATASETS.UNLABELED = ("some",) if semi else ()
    for name in on:
        cfg.S4M[name].ENABLED = True
    cfg.merge_from_list([item for key, value in options.items() for item in (key.replace("__", "."), value)])
    return cfg


def messages(caplog, *arguments, **options):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log_idle_switches(config(*arguments, **options))
    return [(record.levelno, record.getMessage()) for record in caplog.records]


def test_a_first_stage_tells_once_which_switches_wait(small_cfg, caplog):
    cfg = small_cfg("stage1", semi=False, **{f"S4M__{name}__ENABLED": True for name in SWITCHES})
    with caplog.at_level(logging.INFO, logger="s4m"):
        assert build_model(cfg).labeler is None
    (message,) = (record.getMessage() for record in caplog.records if "DATASETS.UNLABELED" in record.getMessage())
    assert message.startswith("S4M.PR, S4M.ARP, S4M.BOUNDARY, S4M.CALIBRATION, S4M.MATCHING: waiting")
    ((level, one),) = messages(caplog, semi=False, on=["SD", "ARP"])
    assert level == logging.INFO and one.startswith("S4M.ARP: waiting")
    assert messages(caplog, semi=False, on=["SD"]) == [] == messages(caplog, on=SWITCHES)


def test_boundary_without_refinement_is_one_warning(small_cfg, caplog):
    with caplog.at_level(logging.INFO, logger="s4m"):
        build_model(small_cfg(S4M__PR__ENABLED=False, S4M__BOUNDARY__ENABLED=True))
    (found,) = (record for record in caplog.records if "S4M.BOUNDARY" in record.getMessage())
    assert found.levelno == logging.WARNING and "S4M.PR" in found.getMessage()
    assert messages(caplog, on=["BOUNDARY", "PR"]) == [] == messages(caplog, on=["CALIBRATION"])


REASONS = [("S4M__CALIBRATION__ENABLED", False), ("S4M__BOUNDARY__ENABLED", False), ("INPUT__IGNORE_VOID", True)]


@pytest.mark.parametrize("key", [key for key, _ in REASONS])
@pytest.mark.parametrize("part", PLAIN)
def test_detectron2s_own_parts_are_refused_where_they_would_do_harm(small_cfg, key, part):
    options = {**{name: False for name, _ in REASONS}, key: True, part: PLAIN[part]}
    expected = rf"{key.replace('__', '.')} with DATASETS.UNLABELED need MODEL.PROPOSAL_GENERATOR.NAME .*ROI_HEADS.NAME"
    with pytest.raises(ValueError, match=rf"{expected}.*'{PLAIN[part]}'"):
        build_model(small_cfg(**options))


def test_detectron2s_own_parts_stay_where_nothing_is_ignored(small_cfg):
    model = build_model(small_cfg(**PLAIN, **{name: False for name, _ in REASONS}))
    assert type(model.student.roi_heads).__name__ == "StandardROIHeads"
    require_pseudo_label_parts(config(semi=False, on=SWITCHES, **PLAIN))


def test_parts_that_declare_it_are_taken(monkeypatch):
    cfg = config(on=SWITCHES, MODEL__PROPOSAL_GENERATOR__NAME="PseudoLabelRPN", MODEL__ROI_HEADS__NAME="Own")
    for kind in (type("Own", (PseudoLabelROIHeads,), {}), type("Own", (), {"learns_from_pseudo_labels": True})):
        monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "Own", kind)
        require_pseudo_label_parts(cfg)
    monkeypatch.setitem(ROI_HEADS_REGISTRY._obj_map, "Own", object)
    with pytest.raises(ValueError, match="'PseudoLabelRPN' and 'Own'"):
        require_pseudo_label_parts(cfg)


def test_an_ignored_region_is_no_object_of_detectron2s_own_parts(small_cfg):
    torch.manual_seed(0)
    model = build_model(small_cfg("supervised", semi=False, **PLAIN)).train()
    boxes = Boxes(torch.tensor([[4.0, 4, 30, 30], [32, 32, 60, 60]]))
    masks = BitMasks(torch.zeros(2, 64, 64, dtype=torch.bool))
    truth = Instances((64, 64), gt_boxes=boxes, gt_classes=torch.tensor([0, -1]), gt_masks=masks)
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r"INPUT\.IGNORE_VOID.*MODEL\.PROPOSAL_GENERATOR\.NAME.*MODEL\.ROI_HEADS\.NAME"
    ):
        model([{"image": image, "instances": truth}])
    with EventStorage():
        assert model([{"image": image, "instances": truth[:1]}])["loss_rpn_cls"] > 0


@pytest.mark.parametrize(
    "ends",
    [
        {"BOUNDARY": {"TEACHER": 0.0, "GAIN": 0.0, "WEIGHT": 0.0, "EDGE_WEIGHT": 0.0}},
        {"BOUNDARY": {"TEACHER": 1.0}, "MATCHING": {"MIN_IOU": 1.0, "PART": 1.0, "DUPLICATE": 1.0}},
        {"MATCHING": {"MIN_IOU": 0.0, "PART": 0.0, "DUPLICATE": 0.0, "LEAK": 0.0}, "CALIBRATION": {"FLOOR": 1.0}},
        {"CALIBRATION": {"LOW": 0.0, "FLOOR": 0.0, "DECAY": 0.0, "PERIOD": 1}},
        {"CALIBRATION": {"LOW": 0.7, "BOUNDS": (0.7, 0.7)}},
    ],
)
def test_the_ends_of_the_ranges_are_taken(ends):
    cfg = config(on=SWITCHES)
    for group, values in ends.items():
        for name, value in values.items():
            cfg.S4M[group][name] = value
    PseudoLabeler(cfg)
    BoundaryConsistency.read(cfg)


@pytest.mark.parametrize(
    ("score", "low", "bounds"), [(0.3, 0.2, (0.5, 0.9)), (0.95, 0.3, (0.5, 0.9)), (0.3, 0.4, (0.2, 0.9))]
)
def test_a_score_outside_of_the_bounds_contradicts_them(score, low, bounds):
    cfg = config(S4M__SELECTION__SCORE=score, S4M__CALIBRATION__LOW=low, S4M__CALIBRATION__BOUNDS=bounds)
    PseudoLabeler(cfg)
    cfg.S4M.CALIBRATION.ENABLED = True
    with pytest.raises(ValueError, match=r"S4M\.CALIBRATION\.LOW.*S4M\.CALIBRATION\.BOUNDS.*S4M\.SELECTION\.SCORE"):
        PseudoLabeler(cfg)
