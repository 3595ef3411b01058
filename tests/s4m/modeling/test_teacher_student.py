"""One training step of the teacher-student: any batch, each part alone, and equality with plain Mask R-CNN."""

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from s4m.data.shapes import ShapesRecipe, draw_scene

SUPERVISED = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
PSEUDO = {f"{key}_pseudo" for key in SUPERVISED}
GUARDS = {"S4M__BOUNDARY__ENABLED": True, "S4M__CALIBRATION__ENABLED": True}  # the defaults; test_guards has more


def scene(seed, size=(64, 64), empty=False):
    """One labeled image as the mapper gives it; `empty`: without an instance."""
    recipe = ShapesRecipe(image_size=size, objects=(1, 3))
    image, owner, names = draw_scene(recipe, np.random.default_rng(seed))
    labels = [] if empty else list(range(1, len(names) + 1))
    masks = BitMasks(torch.from_numpy(owner)[None] == torch.tensor(labels, dtype=torch.int64).view(-1, 1, 1))
    classes = torch.tensor([recipe.classes.index(names[i - 1]) for i in labels], dtype=torch.int64)
    instances = Instances(size, gt_boxes=masks.get_bounding_boxes(), gt_classes=classes, gt_masks=masks)
    image = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    size = {"height": size[0], "width": size[1]}
    return {"image": image, "instances": instances, "seed": seed, "file_name": f"scene{seed}.png", **size}


def weak(seed, size=(64, 64)):
    return {key: value for key, value in scene(seed, size).items() if key != "instances"}


def batch(labeled, unlabeled):
    return {"labeled": labeled, "unlabeled": unlabeled}


def step(model, data, seed=0):
    """Losses of one step with their gradients, and the scalars it logged."""
    torch.manual_seed(seed)
    model.zero_grad()
    with EventStorage() as storage:
        losses = model.train()(data)
        sum(losses.values()).backward()
    return losses, storage.latest()


@pytest.fixture(scope="module")
def build(small_cfg):
    def make(**options):
        torch.manual_seed(0)
        return build_model(small_cfg(**{**dict.fromkeys(GUARDS, False), **options}))

    return make


@pytest.fixture(scope="module")
def whole(build):
    """Everything on: PR, ARP and SD."""
    return build(S4M__SD__ENABLED=True)


@pytest.fixture(scope="module")
def guarded(build):
    """With the guards, too."""
    return build(S4M__SD__ENABLED=True, **GUARDS)


@pytest.fixture
def encoded(whole, monkeypatch):
    """The numbers of images that SAM was asked to encode."""
    counts, encode = [], whole.segmenter.encode

    def counting(images):
        counts.append(len(images))
        return encode(images)

    monkeypatch.setattr(whole.segmenter, "encode", counting)
    return counts


@pytest.mark.parametrize("name", ["whole", "guarded"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: batch([scene(0)], [weak(1)]), id="batch-of-one"),
        pytest.param(lambda: batch([scene(0, (47, 95))], [weak(1, (33, 70))]), id="odd-shapes"),
        pytest.param(lambda: batch([scene(i) for i in range(3)], [weak(i, (64, 40 + i)) for i in range(5)]), id="many"),
        pytest.param(lambda: batch([scene(0, empty=True)], [weak(1), weak(2)]), id="no-labeled-instance"),
        pytest.param(lambda: batch([scene(0, empty=True), scene(1)], [weak(2)]), id="one-empty-image"),
        pytest.param(lambda: batch([], [weak(1), weak(2)]), id="only-unlabeled"),
    ],
)
def test_any_batch_gives_finite_losses(request, name, data):
    data, whole = data(), request.getfixturevalue(name)
    losses, logged = step(whole, data)
    expected = PSEUDO | (SUPERVISED | {"loss_structure"} if data["labeled"] else set())
    assert losses.keys() == expected | ({"loss_boundary_pseudo"} if name == "guarded" else set())
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["loss_mask_pseudo"] > 0 and logged["pseudo_labels/selected"][0] > 0
    gradients = [p.grad for p in whole.student.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_no_pseudo_label_asks_sam_nothing(whole, encoded, monkeypatch):
    monkeypatch.setattr(whole.labeler, "score", 1.0)
    losses, logged = step(whole, batch([], [weak(1), weak(2)]))
    assert encoded == []
    assert logged["pseudo_labels/selected"][0] == 0 == logged["pseudo_labels/targets"][0]
    assert losses["loss_mask_pseudo"] == 0 == losses["loss_box_reg_pseudo"]
    assert losses["loss_cls_pseudo"] > 0  # all is background


def test_sam_is_asked_once_for_each_use(whole, encoded):
    step(whole, batch([scene(0)], [weak(1), weak(2), weak(3)]))
    assert encoded == [1, 3]


def test_plain_list_is_for_supervised_training_alone(build, whole):
    data = [scene(0), scene(1)]
    model = build(name="supervised", semi=False)
    listed, _ = step(model, data)
    split, _ = step(model, batch(data, []))
    assert listed.keys() == SUPERVISED
    for key in listed:
        torch.testing.assert_close(listed[key], split[key])
    with pytest.raises(ValueError, match=r"build_two_stream_loader .* s4m\.engine\.hooks\.MeanTeacher, as S4MTrainer"):
        step(whole, data)


def test_labeled_images_are_augmented_for_the_student_alone(whole, encoded, monkeypatch):
    seen = {"student": [], "sam": []}

    def spy(name, function):
        def call(images):
            seen[name].append(images[0]["image"] if name == "student" else images[0].flip(0))
            return function(images)

        return call

    monkeypatch.setattr(whole.student, "losses_and_features", spy("student", whole.student.losses_and_features))
    monkeypatch.setattr(whole.segmenter, "encode", spy("sam", whole.segmenter.encode))
    strong = {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_prob": 1.0, "gray_prob": 0.0, "blur_sigma": (0.1, 2.0)}
    data = [scene(3)]
    plain, _ = step(whole, batch(data, []))
    monkeypatch.setattr(whole, "strong_labeled", {**strong, "blur_prob": 1.0, "bgr": True})
    for _ in range(2):
        augmented, _ = step(whole, batch(data, []))
    assert torch.equal(seen["student"][0], data[0]["image"]) and plain["loss_cls"] != augmented["loss_cls"]
    assert not torch.equal(seen["student"][1], data[0]["image"])
    assert torch.equal(seen["student"][1], seen["student"][2])
    assert all(torch.equal(image, data[0]["image"]) for image in seen["sam"])


def test_teacher_takes_no_gradient_and_no_training_mode(whole):
    before = {key: value.clone() for key, value in whole.teacher.state_dict().items()}
    step(whole, batch([scene(0)], [weak(1)]))
    assert whole.training and whole.student.training
    assert not any(module.training for module in whole.teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in whole.teacher.parameters())
    for key, value in whole.teacher.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_sam_is_no_part_of_the_model(whole):
    # What is in no list of parameters is in no optimizer and in no DDP bucket.
    sam = {id(p) for p in whole.segmenter.network.parameters()}
    assert sam and not sam & {id(p) for p in whole.parameters()}
    assert all(key.startswith(("student.", "teacher.")) for key in whole.state_dict())
    assert not any(module is whole.segmenter.network for module in whole.modules())


@pytest.mark.parametrize(
    ("switch", "semi"), [("SD", False), ("SD", True), ("PR", True), ("ARP", True), (None, True), (None, False)]
)
def test_each_part_switches_on_alone(build, switch, semi):
    options = {f"S4M__{part}__ENABLED": part == switch for part in ("SD", "PR", "ARP")}
    model = build(semi=semi, S4M__SAM__NAME="tiny" if switch in ("SD", "PR") else "", **options)
    losses, logged = step(model, batch([scene(0)], [weak(i) for i in range(4)] if semi else []))
    assert losses.keys() == SUPERVISED | ({"loss_structure"} if switch == "SD" else set()) | (PSEUDO if semi else set())
    assert all(torch.isfinite(value) for value in losses.values())
    assert (model.segmenter is not None) == (switch in ("SD", "PR"))
    if not semi:
        assert model.teacher is None and model.last_record is None
        return
    asked = logged["pseudo_labels/refined"][0] + logged["pseudo_labels/rejected"][0]
    assert (asked > 0) == (switch == "PR")
    pasted = logged["pseudo_labels/targets"][0] != logged["pseudo_labels/selected"][0]
    assert pasted == (switch == "ARP")


def test_unsupervised_weight_scales_the_pseudo_losses(whole, monkeypatch):
    data = batch([scene(0)], [weak(1)])
    once, _ = step(whole, data)
    monkeypatch.setattr(whole, "unsup_weight", 3 * whole.unsup_weight)
    thrice, _ = step(whole, data)
    for key in PSEUDO:
        torch.testing.assert_close(thrice[key], 3 * once[key])
    torch.testing.assert_close(thrice["loss_mask"], once["loss_mask"])


def plain_cfg(small_cfg):
    """Detectron2's own Mask R-CNN of the same size."""
    cfg = small_cfg("supervised", semi=False)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "GeneralizedRCNN", "RPN"
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    return cfg


def test_all_off_is_plain_mask_rcnn(build, small_cfg):
    ours = build(name="supervised", semi=False)
    torch.manual_seed(0)
    plain = build_model(plain_cfg(small_cfg))
    assert ours.student.state_dict().keys() == plain.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(ours.student.state_dict()[key], value), key
    data = [scene(0), scene(1, (50, 64)), scene(2, empty=True)]
    a, _ = step(ours, batch(data, []))
    b, _ = step(plain, data)
    assert a.keys() == b.keys()
    for key in b:
        torch.testing.assert_close(a[key], b[key])
        assert b[key] > 0
    for (name, p), q in zip(plain.named_parameters(), ours.student.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_eval_mode_is_the_network_that_the_key_names(build, name):
    model = build(S4M__TEST__NETWORK=name, S4M__PR__ENABLED=False).eval()
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(0.9)
    data = [weak(0), weak(1, (40, 80))]
    with torch.no_grad():
        found, wanted = model(data), getattr(model, name)(data)
        other = (model.student if name == "teacher" else model.teacher)(data)
    for a, b, c in zip(found, wanted, other, strict=True):
        assert torch.equal(a["instances"].scores, b["instances"].scores)
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)
        assert not torch.equal(a["instances"].scores, c["instances"].scores)
    assert found[1]["instances"].image_size == (40, 80)


def test_weights_of_a_plain_student_load(build, small_cfg, tmp_path):
    torch.manual_seed(5)
    plain = build_model(plain_cfg(small_cfg))
    model = build(name="supervised", semi=False)
    model.load_state_dict(plain.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(model.student.state_dict()[key], value)
    DetectionCheckpointer(plain, str(tmp_path)).save("plain")
    other = build(S4M__PR__ENABLED=False)
    DetectionCheckpointer(other).load(str(tmp_path / "plain.pth"))
    assert torch.equal(other.student.backbone.fpn_output2.weight, plain.backbone.fpn_output2.weight)


def test_loss_that_is_not_finite_names_term_and_images(build):
    model = build(name="supervised", semi=False)
    torch.nn.init.constant_(model.student.roi_heads.mask_head.predictor.bias, float("nan"))
    with pytest.raises(FloatingPointError, match="loss_mask.*scene0.png, scene7.png.*checkpoint") as caught:
        step(model, [scene(0), scene(7)])
    assert "loss_cls" not in str(caught.value)


def test_finite_losses_whose_sum_is_not_are_told(build):
    model = build(name="supervised", semi=False)
    model.structure = lambda *_: torch.tensor(3e38, requires_grad=True)
    model.student.losses_and_features = lambda _: ({"loss_cls": torch.tensor(3e38)}, None, None)
    with pytest.raises(FloatingPointError, match="sum"):
        model.train()([scene(0)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"S4M__TEST__NETWORK": "both"}, "S4M.TEST.NETWORK must be one of student, teacher, not 'both'"),
        ({"S4M__BOUNDARY__WIDTH": 0.0}, r"^S4M\.BOUNDARY\.WIDTH must be in \(0, inf\), not 0\.0\.$"),
        ({"S4M__TEST__NETWORK": "teacher", "semi": False}, "S4M.TEST.NETWORK is teacher.*DATASETS.UNLABELED"),
        ({"S4M__SAM__NAME": ""}, "S4M.PR.ENABLED need.* S4M.SAM.NAME"),
        ({"S4M__SAM__NAME": "", "S4M__SD__ENABLED": True, "semi": False}, "S4M.SD.ENABLED .*S4M.SAM.NAME"),
        ({"S4M__PIXEL_FEATURE": "p9"}, r"S4M.PIXEL_FEATURE is 'p9', but the backbone gives \['p2'"),
        ({"S4M__STUDENT": "NoSuchNetwork"}, "S4M.STUDENT .*not 'NoSuchNetwork'"),
        ({"S4M__STUDENT": "GeneralizedRCNN"}, "S4M.STUDENT .*not 'GeneralizedRCNN'"),
    ],
)
def test_bad_keys_are_named(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"S4M__SAM__NAME": "vit_x"}, ValueError, "S4M.SAM.NAME is 'vit_x'"),
        ({"S4M__SAM__NAME": "vit_b", "S4M__SAM__CHECKPOINT": "no.pth"}, FileNotFoundError, "S4M.SAM.CHECKPOINT"),
    ],
)
def test_sam_that_cannot_be_built_is_named_at_its_first_use(build, options, error, message):
    model = build(**options)
    with pytest.raises(error, match=message):
        _ = model.segmenter


def test_the_record_of_the_batch_before_is_not_held(whole, monkeypatch):
    step(whole, batch([scene(0)], [weak(1)]))
    first, held, ask = whole.last_record, [], whole.pseudo_label
    monkeypatch.setattr(whole, "pseudo_label", lambda images: held.append(whole.last_record) or ask(images))
    step(whole, batch([scene(0)], [weak(2)]))
    assert first is not None and held == [None] and whole.last_record not in (None, first)


def test_images_an_encoder_call_come_from_the_configuration(build):
    assert build(S4M__SAM__ENCODE_BATCH=2).segmenter.encode_batch == 2
