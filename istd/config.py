"""Configuration keys of ISTD, beside Detectron2's own."""

from detectron2.config import CfgNode as CN

import istd.modeling.point_supervised  # noqa: F401  (the keys come with the registered architecture)


def add_istd_config(cfg: CN) -> None:
    """Add the keys of ISTD to a Detectron2 configuration, in place; published values where they fit.

    Detectron2's own keys mean what they mean there; DATASETS take names such as "sirst:ROOT:train.txt" too.
    """
    cfg.DATASETS.VALIDATION = ()  # evaluated while training, selects the best checkpoint, feeds the outer step
    cfg.SOLVER.ACCUMULATE = 1  # backward passes whose gradients are averaged before one optimizer step

    cfg.register_deprecated_key("ISTD.LABELS.KEEP")  # so that the config.yaml of an older run can be read
    cfg.ISTD = CN()
    _add_input(cfg.ISTD)
    _add_model(cfg.ISTD)
    _add_labels(cfg.ISTD)
    _add_schedule(cfg.ISTD)


def _add_input(node: CN) -> None:
    node.INPUT = CN()
    node.INPUT.CHANNELS = 3  # 1 or 3: the grey image, repeated
    node.INPUT.MEAN = 95.010  # grey values, 0..255; of the published SIRST3 networks
    node.INPUT.STD = 41.511
    node.INPUT.DEPTH = "range"  # 16-bit files: "range" (the image's own minimum..maximum) or "type" (0..65535)
    node.INPUT.CROP = 256  # side of the square training crop, pixels
    node.INPUT.TARGET_CROP = 0.5  # share of the crops that surely hold a target, where the image has one
    node.INPUT.AUGMENT = True  # flips and quarter turns of the training crop
    node.INPUT.VIEWS = 0  # crops an image has in all, so that features of the foundation model are kept; 0: no bound


def _add_model(node: CN) -> None:
    node.NETWORK = CN()
    node.NETWORK.NAME = "MLCLNet"  # of istd.modeling.NETWORK_REGISTRY
    node.NETWORK.NORM = ""  # GN or BN in the fusions of ACM and ALCNet; empty: the network's own
    node.NETWORK.MOMENTUM = -1.0  # BatchNorm momentum of ACM and ALCNet; negative: the network's own (published: 0.9)
    node.NETWORK.BLOCKS = 0  # residual blocks a stage of MLCLNet; 0: its own
    node.NETWORK.OUTPUT_BIAS = 0.0  # first bias of the convolutions that give logits; 0: the network's own
    node.NETWORK.CHANNELS_LAST = True  # memory layout; 8 to 10 % faster on a CPU

    node.SCAM = CN()  # the teacher's modulation by a foundation model; without it teacher and student are one
    node.SCAM.ENABLED = False
    node.SCAM.SCALE = -1.0  # s; negative: the network's own (ALCLNet 0.12, MLCLNet 0.55)
    node.SCAM.STAGES = ()  # stages that are modulated, 0 the finest; empty: all
    node.SCAM.HIDDEN_DIM = 128
    node.SCAM.LR = 0.001  # of its parameters, by the network's schedule: higher ones close its gates; 0.0: BASE_LR

    node.VFM = CN()
    node.VFM.NAME = "vit_small_patch14_dinov2"  # any ViT of timm, or sam_vit_b, sam_vit_l, sam_vit_h
    node.VFM.CHECKPOINT = ""  # local file of its weights; "random": seeded untrained ones, for tests and trials
    node.VFM.PRETRAINED = False  # without a file, let timm fetch its weights
    node.VFM.LAYERS = 13  # K, its last hidden states; 13: all of 12 blocks with the embedding
    node.VFM.CACHE_GIB = 1.0  # bound of the cache of features of whole, un-augmented images
    node.VFM.CACHE = ""  # its folder; empty: in memory

    node.LOSS = CN()
    node.LOSS.MASK = "bce"  # of istd.losses.SUPERVISION: bce, soft_iou, bce_soft_iou, bce_hard_iou, balanced_bce
    node.LOSS.DISTILL = 0.1
    node.LOSS.GATE = 0.005
    node.LOSS.TEMPERATURE = 4.0

    node.TEST = CN()
    node.TEST.NETWORK = "both"  # what answers in eval mode: student, teacher, or both side by side
    node.TEST.PAD_MULTIPLE = 32  # the normalised image is padded with zeros at the bottom and right
    node.TEST.PAD_ALWAYS = False  # by at least one pixel, as LESPS does
    node.TEST.THRESHOLD = 0.5
    node.TEST.DISTANCE = 3.0  # pixels, exclusive, between the centroids of a target and of a region that finds it
    node.TEST.EMPTY = "zero"  # nIoU of an image without target and prediction, see IRMetrics
    node.TEST.SELECT_BY = "masks"  # by IoU, where all validation images have a mask, or by "points" (F1)
    node.TEST.SELECT = "student"  # whose score: student or teacher


def _add_labels(node: CN) -> None:
    node.LABELS = CN()
    node.LABELS.SOURCE = "points"  # points, or masks: full supervision by the true masks
    node.LABELS.START = "contours"  # first mask around a point: its closed contour, or the point alone ("points")
    node.LABELS.POOL = "easy"  # images that train from epoch 0: easy (by EASY_SHARE), or all
    node.LABELS.EASY_SHARE = 0.8  # least share of an image's points with a contour

    node.EVOLUTION = CN()
    node.EVOLUTION.ENABLED = False
    node.EVOLUTION.START = 0.2  # share of the training after which it begins; published: epoch 60 of 300
    node.EVOLUTION.PERIOD = 5  # epochs
    node.EVOLUTION.DECAY = 0.97  # factor of a mask outside its regions
    node.EVOLUTION.NEIGHBOURHOOD = 33  # pixels
    node.EVOLUTION.CORE = 3  # pixels
    node.EVOLUTION.BASE = 0.5  # of the peak; threshold of a region without area
    node.EVOLUTION.GAIN = 0.5  # how fast the threshold rises with the area
    node.EVOLUTION.AREA_SCALE = 0.0015  # of the image: the area that counts as large
    node.EVOLUTION.FIXED = "points"  # pixels that stay 1: the points, or "ones" (published: the whole first mask)

    node.MINING = CN()  # waiting images enter the pool, in the epochs of label evolution
    node.MINING.ENABLED = False
    node.MINING.END = 0.8  # share of the training after which no image enters
    node.MINING.LOW = 0.2  # share of missed points that is allowed when evolution begins
    node.MINING.HIGH = 1.0  # and at the end
    node.MINING.FALSE = 5.0  # false regions a point that are allowed


def _add_schedule(node: CN) -> None:
    node.SCHEDULE = CN()  # all in epochs: passes over the number of training images, whatever the pool holds
    node.SCHEDULE.EPOCHS = 300  # 0: SOLVER.MAX_ITER, TEST.EVAL_PERIOD and SOLVER.CHECKPOINT_PERIOD stand as they are
    node.SCHEDULE.EVAL = 5
    node.SCHEDULE.CHECKPOINT = 5
    node.SCHEDULE.KEEP = 3  # newest checkpoints that stay, beside the best and the last; 0: all
    node.SCHEDULE.WARMUP = 0
    node.SCHEDULE.AVERAGE = 0.0  # decay of the moving average of the weights that answers in eval mode; 0: none

    node.OUTER = CN()  # the student and the cluster weights learn from validation images
    node.OUTER.ENABLED = False
    node.OUTER.PERIOD = 5  # epochs
    node.OUTER.STEPS = 4
    node.OUTER.LOSS = "published"  # published, or unweighted: F without cluster weights (see istd.engine.bilevel)
    node.OUTER.LR = 0.0  # of the student's weights; 0: the inner rate at that time
    node.OUTER.ALPHA_LR = 0.01
    node.OUTER.WEIGHT_DECAY = 0.0

    node.CLUSTERS = CN()
    node.CLUSTERS.FILE = ""  # of tools/make_clusters.py; empty: made at the start, kept under OUTPUT_DIR
    node.CLUSTERS.NUMBER = 0  # 0: follows the number of images
