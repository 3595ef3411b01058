"""Configuration keys of ISTD, in addition to Detectron2's own."""

from detectron2.config import CfgNode as CN

from d2kit.limits import DEFAULT as MAX_PIXELS


def add_istd_config(cfg: CN) -> None:
    """Add the keys of ISTD to a Detectron2 configuration, in place; the defaults are published values where they fit.

    Detectron2's own keys keep their meaning; the keys of DATASETS also take names such as "sirst:ROOT:train.txt".
    """
    cfg.DATASETS.VALIDATION = ()  # These data sets select the best checkpoint and feed the outer step.
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS  # A larger image is refused by its header, so that no file fills the memory.
    cfg.SOLVER.ACCUMULATE = 1  # One optimizer step averages the gradients of this many backward passes.

    cfg.WRITERS = CN()  # These writers come beside Detectron2's metrics.json and TensorBoard files.
    cfg.WRITERS.CSV = False  # True also writes losses and figures to metrics.csv in OUTPUT_DIR.
    cfg.WRITERS.WANDB = ""  # Losses and figures also go to this project of Weights & Biases; "" is none.

    cfg.ISTD = CN()
    _add_input(cfg.ISTD)
    _add_model(cfg.ISTD)
    _add_test(cfg.ISTD)
    _add_labels(cfg.ISTD)
    _add_schedule(cfg.ISTD)


def _add_input(node: CN) -> None:
    node.INPUT = CN()
    node.INPUT.CHANNELS = 3  # The network takes 1 or 3 channels, each of which is the gray image.
    node.INPUT.MEAN = 95.010  # This mean of gray values 0..255 normalizes images; the default is that of SIRST3.
    node.INPUT.STD = 41.511  # This standard deviation of gray values normalizes images; the default is that of SIRST3.
    # Raw values (files of more than 8 bits, arrays of counts or temperatures) are repaired and stretched to 0..255.
    # Their range is the image's own ("percentiles"), 0..65535 or 0..1 of floats ("type"), or two values ("7000..8000").
    node.INPUT.RANGE = "percentiles"
    node.INPUT.POLARITY = "bright"  # Targets are brighter than their surroundings, "dark" ones are darker, or "both".
    node.INPUT.CROP = 256  # The square training crop has this side in pixels.
    node.INPUT.TARGET_CROP = 0.5  # This share of the crops is certain to hold a target if the image has one.
    node.INPUT.VIEWS = 0  # Each image has this many crops, so that their features can be kept; 0 sets no limit.


def _add_model(node: CN) -> None:
    node.NETWORK = CN()
    node.NETWORK.NAME = "MLCLNet"  # It names the network: a key of istd.modeling.NETWORK_REGISTRY.
    node.NETWORK.NORM = ""  # The fusions of ACM and ALCNet use GN, or BN as in LESPS files; "" keeps their own norm.
    node.NETWORK.MOMENTUM = -1.0  # ACM and ALCNet use this BatchNorm momentum; a negative value keeps their own 0.9.
    node.NETWORK.BLOCKS = 0  # Each stage of MLCLNet has this many residual blocks; 0 keeps the network's own number.
    node.NETWORK.OUTPUT_BIAS = 0.0  # Convolutions that give logits start with this bias; 0 keeps the network's own.

    node.SCAM = CN()
    node.SCAM.ENABLED = False  # A foundation model modulates the teacher if True; else teacher and student are one.
    node.SCAM.SCALE = -1.0  # SCAM modulates with this strength s; a negative value takes the network's own.
    node.SCAM.STAGES = ()  # SCAM modulates the stages of these indices, where 0 is the finest; () means all stages.
    node.SCAM.LR = 0.001  # SCAM learns at this rate; higher rates close its gates, and 0 means SOLVER.BASE_LR.

    node.VFM = CN()
    node.VFM.NAME = "vit_small_patch14_dinov2"  # The foundation model is a ViT of timm, or sam_vit_b, _l or _h.
    node.VFM.CHECKPOINT = ""  # This local file holds its weights; "random" means seeded, untrained weights for trials.
    node.VFM.PRETRAINED = False  # timm downloads the weights if this is True and there is no local file.
    node.VFM.LAYERS = 13  # SCAM mixes this many last hidden states; a ViT-S has 13.
    node.VFM.CACHE_GIB = 1.0  # The feature cache takes at most this many GiB.
    node.VFM.CACHE = ""  # This folder keeps the feature cache; "" keeps it in memory.

    node.LOSS = CN()
    node.LOSS.MASK = "bce"  # It names the loss on masks: bce, soft_iou, bce_soft_iou, bce_hard_iou or balanced_bce.
    node.LOSS.DISTILL = 0.1  # The teacher's distillation from the student has this weight.
    node.LOSS.GATE = 0.005  # The mean absolute gate of SCAM has this weight in the loss.


def _add_test(node: CN) -> None:
    node.TEST = CN()
    node.TEST.NETWORK = "both"  # The network that answers in eval mode is the student, the teacher, or both.
    node.TEST.THRESHOLD = 0.5  # A pixel is predicted as target if its probability is above this threshold.
    node.TEST.DISTANCE = 3.0  # A region finds a target if their centroids are less than this many pixels apart.
    node.TEST.SELECT_BY = "masks"  # IoU selects the best checkpoint if all images have masks; "points" selects by F1.
    node.TEST.SELECT = "student"  # The best checkpoint is selected by the score of the student or the teacher.


def _add_labels(node: CN) -> None:
    node.LABELS = CN()
    node.LABELS.SOURCE = "points"  # The network learns from points, or from masks (full supervision).
    # The first mask of a point is its closed contour, the region that grows from it, or the point alone.
    node.LABELS.START = "contours"  # It is contours, regions or points.
    node.LABELS.GAIN = 1.0  # Regions end at sqrt(noise / contrast) times this; lower values make larger regions.
    node.LABELS.CALIBRATE = 0  # The gain is fitted to the true masks of this many training images; 0 keeps GAIN.
    node.LABELS.POOL = "easy"  # The images that train from epoch 0 are the easy ones, or all.
    node.LABELS.TARGET_SIZE = 8  # Targets have at most about this many pixels a side; first masks and evolution follow.
    node.LABELS.EASY_SHARE = 0.8  # An image is easy if at least this share of its points has a contour.

    node.EVOLUTION = CN()
    node.EVOLUTION.ENABLED = False  # Pseudo-masks follow the teacher's probabilities if this is True.
    node.EVOLUTION.START = 0.2  # Evolution begins after this share of the training; published: epoch 60 of 300.
    node.EVOLUTION.PERIOD = 5  # Updates of the pseudo-masks are this many epochs apart.
    node.EVOLUTION.DECAY = 0.97  # Each update multiplies a mask outside its regions by this factor.
    node.EVOLUTION.FIXED = "points"  # The points stay 1, or all pixels that are exactly 1 do ("ones", as published).

    node.MINING = CN()
    node.MINING.ENABLED = False  # Waiting images enter the pool if the teacher finds their points.


def _add_schedule(node: CN) -> None:
    node.SCHEDULE = CN()  # An epoch passes as many images as the training set has, whatever the pool holds.
    # The training has this many epochs; 0 keeps SOLVER.MAX_ITER, TEST.EVAL_PERIOD and SOLVER.CHECKPOINT_PERIOD.
    node.SCHEDULE.EPOCHS = 300
    node.SCHEDULE.EVAL = 5  # Validations are this many epochs apart; 0 means no validation.
    node.SCHEDULE.CHECKPOINT = 5  # Checkpoints are this many epochs apart.
    node.SCHEDULE.WARMUP = 0  # The learning rate rises over this many epochs.
    node.SCHEDULE.EMA_DECAY = 0.0  # Averaged weights with this decay answer in eval mode; 0 means no average.

    node.OUTER = CN()
    node.OUTER.ENABLED = False  # The student and the clusters' weights also learn from validation images if True.
    node.OUTER.PERIOD = 5  # Outer loops are this many epochs apart.
    node.OUTER.STEPS = 4  # One outer loop has this many optimizer steps.
    node.OUTER.LOSS = "published"  # The validation loss has cluster weights, or none ("unweighted").

    node.CLUSTERS = CN()
    node.CLUSTERS.FILE = ""  # `istd clusters` writes this table; "" fits one at the start, under OUTPUT_DIR.
