"""Configuration keys of ISTD, in addition to Detectron2's own."""

from detectron2.config import CfgNode as CN

# Configurations that older runs wrote hold these keys; they are ignored with a warning.
REMOVED_KEYS = {
    "INPUT": ("AUGMENT",),
    "NETWORK": ("CHANNELS_LAST",),
    "SCAM": ("HIDDEN_DIM",),
    "LOSS": ("TEMPERATURE",),
    "TEST": ("PAD_MULTIPLE", "PAD_ALWAYS", "EMPTY"),
    "EVOLUTION": ("NEIGHBOURHOOD", "CORE", "BASE", "GAIN", "AREA_SCALE"),
    "MINING": ("END", "LOW", "HIGH", "FALSE"),
    "SCHEDULE": ("KEEP",),
    "OUTER": ("LR", "ALPHA_LR", "WEIGHT_DECAY"),
    "CLUSTERS": ("NUMBER",),
}


def add_istd_config(cfg: CN) -> None:
    """Add the keys of ISTD to a Detectron2 configuration, in place; the defaults are published values where they fit.

    Detectron2's own keys keep their meaning; the keys of DATASETS also take names such as "sirst:ROOT:train.txt".
    """
    cfg.DATASETS.VALIDATION = ()  # These data sets select the best checkpoint and feed the outer step.
    cfg.SOLVER.ACCUMULATE = 1  # One optimizer step averages the gradients of this many backward passes.

    cfg.ISTD = CN()
    _add_input(cfg.ISTD)
    _add_model(cfg.ISTD)
    _add_test(cfg.ISTD)
    _add_labels(cfg.ISTD)
    _add_schedule(cfg.ISTD)
    for section, keys in REMOVED_KEYS.items():
        for key in keys:
            cfg.register_deprecated_key(f"ISTD.{section}.{key}")
    cfg.register_renamed_key("ISTD.SCHEDULE.AVERAGE", "ISTD.SCHEDULE.EMA_DECAY")


def _add_input(node: CN) -> None:
    node.INPUT = CN()
    node.INPUT.CHANNELS = 3  # The network takes 1 or 3 channels; each of them is the gray image.
    node.INPUT.MEAN = 95.010  # This mean of gray values 0..255 normalizes images; the default is that of SIRST3.
    node.INPUT.STD = 41.511  # This standard deviation of gray values normalizes images; the default is that of SIRST3.
    # 16-bit files are scaled from the image's own minimum and maximum ("range") or from 0..65535 ("type").
    node.INPUT.DEPTH = "range"
    node.INPUT.CROP = 256  # The side of the square training crop, in pixels.
    node.INPUT.TARGET_CROP = 0.5  # This share of the crops is certain to hold a target if the image has one.
    # Each image has this many different crops, so that the foundation model's features can be kept; 0 sets no limit.
    node.INPUT.VIEWS = 0


def _add_model(node: CN) -> None:
    node.NETWORK = CN()
    node.NETWORK.NAME = "MLCLNet"  # A name in istd.modeling.NETWORK_REGISTRY.
    # The norm of the fusions in ACM and ALCNet is GN or BN (published LESPS weights); "" keeps the network's own.
    node.NETWORK.NORM = ""
    node.NETWORK.MOMENTUM = -1.0  # BatchNorm momentum of ACM and ALCNet; a negative value keeps the published 0.9.
    node.NETWORK.BLOCKS = 0  # The number of residual blocks in each stage of MLCLNet; 0 keeps the network's own.
    node.NETWORK.OUTPUT_BIAS = 0.0  # The initial bias of the convolutions that give logits; 0 keeps the network's own.

    node.SCAM = CN()
    node.SCAM.ENABLED = False  # A foundation model modulates the teacher; without it teacher and student are one.
    node.SCAM.SCALE = -1.0  # The strength s of the modulation; a negative value takes the network's own.
    node.SCAM.STAGES = ()  # Indices of the modulated stages, where 0 is the finest; an empty tuple means all stages.
    # The learning rate of SCAM's parameters; higher rates close its gates, and 0 means SOLVER.BASE_LR.
    node.SCAM.LR = 0.001

    node.VFM = CN()
    # The foundation model is any ViT of timm, or one of sam_vit_b, sam_vit_l and sam_vit_h.
    node.VFM.NAME = "vit_small_patch14_dinov2"
    node.VFM.CHECKPOINT = ""  # The local file of its weights; "random" means seeded, untrained weights for trials.
    node.VFM.PRETRAINED = False  # Without a local file, timm downloads its own weights.
    node.VFM.LAYERS = 13  # The number K of last hidden states; 13 are all 12 blocks and the embedding of a ViT-S or -B.
    node.VFM.CACHE_GIB = 1.0  # The limit of the feature cache, in GiB.
    node.VFM.CACHE = ""  # The folder of the feature cache; "" keeps features in memory.

    node.LOSS = CN()
    # The loss on pseudo-masks is bce (published), soft_iou, bce_soft_iou, bce_hard_iou or balanced_bce.
    node.LOSS.MASK = "bce"
    node.LOSS.DISTILL = 0.1  # The weight of the teacher's distillation from the student.
    node.LOSS.GATE = 0.005  # The weight of the mean absolute gate of SCAM.


def _add_test(node: CN) -> None:
    node.TEST = CN()
    node.TEST.NETWORK = "both"  # The network that answers in eval mode is the student, the teacher, or both.
    node.TEST.THRESHOLD = 0.5  # A pixel is predicted as target if its probability is above this threshold.
    # A region finds a target if their centroids are less than this distance apart, in pixels.
    node.TEST.DISTANCE = 3.0
    # The best checkpoint is selected by IoU if all validation images have masks ("masks"), or by F1 ("points").
    node.TEST.SELECT_BY = "masks"
    node.TEST.SELECT = "student"  # The best checkpoint is selected by the score of the student or the teacher.


def _add_labels(node: CN) -> None:
    node.LABELS = CN()
    node.LABELS.SOURCE = "points"  # The labels are points, or masks for full supervision.
    node.LABELS.START = "contours"  # The first mask of a point is its closed contour, or the point alone ("points").
    node.LABELS.POOL = "easy"  # The images that train from epoch 0 are the easy ones, or all.
    node.LABELS.EASY_SHARE = 0.8  # An image is easy if at least this share of its points has a contour.
    node.LABELS.KEEP = 64  # This many versions of the store stay on disk.

    node.EVOLUTION = CN()
    node.EVOLUTION.ENABLED = False  # The pseudo-masks follow the teacher's probabilities.
    node.EVOLUTION.START = 0.2  # Evolution begins after this share of the training; published: epoch 60 of 300.
    node.EVOLUTION.PERIOD = 5  # The number of epochs from one update to the next.
    node.EVOLUTION.DECAY = 0.97  # Each update multiplies a mask outside its regions by this factor.
    # The points stay 1 in their masks, or all pixels that are exactly 1 do ("ones", published: the whole first mask).
    node.EVOLUTION.FIXED = "points"

    node.MINING = CN()
    node.MINING.ENABLED = False  # Waiting images enter the pool once the teacher finds enough of their points.


def _add_schedule(node: CN) -> None:
    # All values are in epochs; one epoch passes as many images as the training set has, whatever the pool holds.
    node.SCHEDULE = CN()
    # The length of the training; 0 leaves SOLVER.MAX_ITER, TEST.EVAL_PERIOD and SOLVER.CHECKPOINT_PERIOD as they are.
    node.SCHEDULE.EPOCHS = 300
    node.SCHEDULE.EVAL = 5  # The number of epochs from one validation to the next; 0 means none.
    node.SCHEDULE.CHECKPOINT = 5  # The number of epochs from one checkpoint to the next.
    node.SCHEDULE.WARMUP = 0  # The number of epochs over which the learning rate rises.
    # The decay of the moving average of the weights that answers in eval mode; 0 means no average.
    node.SCHEDULE.EMA_DECAY = 0.0

    node.OUTER = CN()
    node.OUTER.ENABLED = False  # The student and the weights of the clusters also learn from validation images.
    node.OUTER.PERIOD = 5  # The number of epochs from one outer loop to the next.
    node.OUTER.STEPS = 4  # The number of optimizer steps in one outer loop.
    # The validation loss has cluster weights ("published") or none ("unweighted"); see istd.engine.bilevel.
    node.OUTER.LOSS = "published"

    node.CLUSTERS = CN()
    node.CLUSTERS.FILE = ""  # A cluster table of tools/make_clusters.py; "" fits one at the start, under OUTPUT_DIR.
