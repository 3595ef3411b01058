"""Stage 2 of S4M as one of Detectron2's LazyConfigs, trained on synthetic shapes by Detectron2's plain loop.

    python docs/examples/lazy_config.py train.max_iter=20 dataloader.batch=4

The upper half is the configuration, which `LazyConfig.load` of this file reads as well; the lower half trains it.
"""

import sys
from collections.abc import Callable
from functools import partial

from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import SimpleTrainer, default_writers, hooks
from detectron2.modeling.backbone import ResNet
from detectron2.utils.logger import setup_logger

from d2kit.loader import StreamLoader
from s4m.data.builtin import register_shapes
from s4m.data.mappers import LabeledMapper, UnlabeledMapper
from s4m.data.two_stream import TwoStreamLoader, load_labeled, load_unlabeled
from s4m.engine.hooks import MeanTeacher
from s4m.modeling import S4MRCNN, PseudoLabelROIHeads, PseudoLabelRPN, TeacherStudent
from s4m.pseudo_labels.pipeline import PseudoLabeler
from s4m.sam import PromptableSegmenter, build_segmenter


def two_streams(labeled: tuple, unlabeled: tuple, augmentations: list, batch: int, seed: int) -> TwoStreamLoader:
    """Batches of as many labeled as unlabeled images, of registered data sets."""
    view = {"augmentations": augmentations, "image_format": "BGR"}
    first, second = load_labeled(labeled), load_unlabeled(unlabeled)
    mappers = LabeledMapper(recompute_boxes=False, **view), UnlabeledMapper(**view)
    streams = [
        StreamLoader(dicts, mapper, TrainingSampler(len(dicts), seed=seed), batch, 0, seed, name)
        for dicts, mapper, name in zip((first, second), mappers, ("labeled", "unlabeled"), strict=True)
    ]
    return TwoStreamLoader(labeled=streams[0], unlabeled=streams[1])


def frozen_sam(name: str, checkpoint: str = "") -> Callable[[], PromptableSegmenter]:
    """What builds the segmenter when it is first needed."""
    return partial(build_segmenter, name, checkpoint)


register_shapes()  # shapes_train_5 and its companions

mask_rcnn = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
mask_rcnn._target_ = S4MRCNN
mask_rcnn.pixel_feature = "p2"
mask_rcnn.proposal_generator._target_ = PseudoLabelRPN
mask_rcnn.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [96], [128]]
mask_rcnn.roi_heads._target_ = PseudoLabelROIHeads
mask_rcnn.proposal_generator.post_nms_topk = (200, 100)
mask_rcnn.roi_heads.num_classes = 3
mask_rcnn.roi_heads.batch_size_per_image = 64
mask_rcnn.backbone.bottom_up.stages = {"_target_": ResNet.make_default_stages, "depth": 18, "norm": "GN"}
mask_rcnn.backbone.bottom_up.freeze_at = 0
mask_rcnn.backbone.bottom_up.stem.norm = "GN"

model = L(TeacherStudent)(
    student=mask_rcnn,
    teacher=mask_rcnn,
    labeler=L(PseudoLabeler)(num_points=3, mixing={"fraction": 0.25}, strong={"jitter": [0.4, 0.4, 0.4, 0.1]}),
    structure=None,
    make_segmenter=L(frozen_sam)(name="tiny"),
    unsup_weight=1.0,
    evaluate="student",
)
dataloader = L(two_streams)(
    labeled=("shapes_train_5",),
    unlabeled=("shapes_train_5_unlabeled",),
    augmentations=[L(T.RandomFlip)()],
    batch=4,
    seed=1,
)
optimizer = model_zoo.get_config("common/optim.py").AdamW
train = model_zoo.get_config("common/train.py").train
train.update(device="cpu", max_iter=300, output_dir="output/lazy_config", ema_decay=0.99)


def main(overrides: list[str]) -> None:
    """Train the configuration, changed by overrides such as train.max_iter=20."""
    cfg = LazyConfig.apply_overrides(LazyConfig.load(__file__), overrides)
    setup_logger(cfg.train.output_dir)
    network = instantiate(cfg.model).to(cfg.train.device).train()
    cfg.optimizer.params.model = network
    trainer = SimpleTrainer(network, instantiate(cfg.dataloader), instantiate(cfg.optimizer))
    checkpointer = DetectionCheckpointer(network, cfg.train.output_dir)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            MeanTeacher(cfg.train.ema_decay, 0),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.PeriodicWriter(default_writers(cfg.train.output_dir, cfg.train.max_iter), cfg.train.log_period),
        ]
    )
    trainer.train(0, cfg.train.max_iter)


if __name__ == "__main__":
    main(sys.argv[1:])
