"""Configuration keys that S4M adds to Detectron2's own."""

from detectron2.config import CfgNode as CN

from d2kit.limits import DEFAULT as MAX_PIXELS


def add_s4m_config(cfg: CN) -> None:
    """Add the keys of S4M to a Detectron2 configuration, in place. Published values are the defaults where they fit."""
    # These registered data sets give images without labels; an empty tuple means supervised training.
    cfg.DATASETS.UNLABELED = ()

    cfg.WRITERS = CN()  # These writers come beside Detectron2's metrics.json and TensorBoard files.
    cfg.WRITERS.CSV = False  # True also writes losses and figures to metrics.csv in OUTPUT_DIR.
    cfg.WRITERS.WANDB = ""  # Losses and figures also go to this project of Weights & Biases; "" is none.

    _add_mask2former_config(cfg)
    _add_timm_config(cfg)
    _add_input_and_solver_config(cfg)

    cfg.S4M = CN()
    cfg.S4M.STUDENT = "S4MRCNN"  # META_ARCH_REGISTRY holds the trained network under this name.
    cfg.S4M.STUDENT_INIT = "backbone"  # "backbone" loads MODEL.WEIGHTS only; "teacher" copies the teacher's weights.
    cfg.S4M.UNLABELED_BATCH = 8  # An iteration takes this many unlabeled images over all processes.
    cfg.S4M.UNSUP_WEIGHT = 2.0  # The losses on pseudo-labels are multiplied by this weight.
    cfg.S4M.PIXEL_FEATURE = "p2"  # Structural distillation compares this backbone output of S4MRCNN with SAM.

    cfg.S4M.TEACHER = CN()  # The teacher is the student's exponential moving average (EMA).
    cfg.S4M.TEACHER.WEIGHTS = ""  # The teacher starts from this stage-1 checkpoint of a TeacherStudent or a student.
    cfg.S4M.TEACHER.EMA_DECAY = 0.9996  # The teacher keeps this share of its weights at each iteration.
    # The teacher stays fixed for this many iterations; then it takes the student's weights and follows them as an EMA.
    cfg.S4M.TEACHER.BURN_IN = 0

    cfg.S4M.TEST = CN()
    cfg.S4M.TEST.NETWORK = "student"  # "student" or "teacher" answers in eval mode and is exported.

    _add_sam_config(cfg)

    cfg.S4M.SD = CN()  # Structural distillation is a loss of stage 1.
    cfg.S4M.SD.ENABLED = False  # True switches structural distillation on.
    cfg.S4M.SD.POINTS = 128  # Each image has this many query points, half of them on foreground.
    cfg.S4M.SD.WEIGHT = 1.0  # The loss is multiplied by this weight.
    cfg.S4M.SD.CHUNK = 8  # SAM's decoder tokens of this many prompts are in memory at once.

    cfg.S4M.SELECTION = CN()  # Selection decides which predictions of the teacher become pseudo-labels.
    cfg.S4M.SELECTION.SCORE = 0.7  # The score must exceed this value.
    cfg.S4M.SELECTION.MIN_PIXELS = 5.0  # The sum of the soft mask must exceed this value.

    cfg.S4M.PR = CN()  # Pseudo-label refinement replaces the teacher's masks by SAM's.
    cfg.S4M.PR.ENABLED = False  # True switches refinement on.
    cfg.S4M.PR.POINTS = 3  # SAM gets this many positive points for each mask.

    _add_guards_config(cfg)
    _add_augmentation_config(cfg)
    _add_evaluation_config(cfg)


def _add_input_and_solver_config(cfg: CN) -> None:
    """Add the keys of images, optimizer and schedule that Detectron2 lacks."""
    cfg.INPUT.CROP.AFTER_RESIZE = False  # True crops the resized image; False crops the image before it is resized.

    # Unlabeled images that cannot be read are left out with a warning ("skip") or end the training ("stop").
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    # True takes annotations with iscrowd 1 for objects, as brush tools export all their masks.
    cfg.INPUT.CROWDS_AS_OBJECTS = False
    cfg.INPUT.MAX_PIXELS = MAX_PIXELS  # A larger image is refused by its header, so that no file fills the memory.
    cfg.INPUT.MAX_MASK_GIB = 2.0  # A view whose masks take more memory, a byte a pixel and object, is refused.
    # Raw values (more than 8 bits, floats) are stretched to 0..255 from their own "extremes" or those of their "type".
    cfg.INPUT.RANGE = "extremes"
    # True weighs a labeled object in the losses by its `confidence` in the json, which `s4m label` writes, else by 1.
    cfg.INPUT.CONFIDENCE_WEIGHTS = True

    # True leaves VOC's void regions that are wider than contours out of the losses; Detectron2's own heads need False.
    cfg.INPUT.IGNORE_VOID = True

    cfg.INPUT.LSJ = CN()  # Large-scale jitter takes the place of INPUT.CROP and INPUT.MIN_SIZE_TRAIN.
    cfg.INPUT.LSJ.ENABLED = False  # True switches large-scale jitter on.
    cfg.INPUT.LSJ.MIN_SCALE = 0.1  # This is the least scale, relative to the size that just fits SIZE x SIZE.
    cfg.INPUT.LSJ.MAX_SCALE = 2.0  # This is the greatest scale, relative to the size that just fits SIZE x SIZE.
    cfg.INPUT.LSJ.SIZE = 1024  # The square crop has this side in pixels; it is padded on the right and below.

    cfg.SOLVER.ACCUMULATE = 1  # The gradients of this many backward passes are averaged before an optimizer step.
    cfg.SOLVER.OPTIMIZER = "SGD"  # The optimizer is SGD or ADAMW.
    cfg.SOLVER.POLY_LR_POWER = 0.9  # The learning rate of WarmupPolyLR falls with this power of the remaining share.
    # The learning rate of the backbone without its pyramid is multiplied by this factor.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # The learning rate of each block of a trained ViT is this factor times that of the block after it.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # Embeddings and class, register and position tokens have this weight decay; None gives them the common one.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = None
    # The schedule was written for this batch size and is scaled to the actual one; 0 takes the schedule as it is.
    cfg.SOLVER.REFERENCE_BATCH = 0


def _add_sam_config(cfg: CN) -> None:
    """Add the keys of the segmenter."""
    cfg.S4M.SAM = CN()
    # The segmenter is tiny, vit_b, vit_l, vit_h, mobile_sam, sam2, sam3, sam_hq or facebook/sam2.1-hiera-large.
    cfg.S4M.SAM.NAME = ""
    # This file holds the weights; SAM 2, SAM 3 and SAM-HQ need a folder in the hub's layout, and tiny needs nothing.
    cfg.S4M.SAM.CHECKPOINT = ""
    # An encoder call takes this many images; 0 chooses by device: 1 for ViT-L/H on a GPU below 40 GiB.
    cfg.S4M.SAM.ENCODE_BATCH = 0
    cfg.S4M.SAM.DECODE_CHUNK = 0  # A decoder call takes this many prompts; 0 chooses by device.
    # This folder keeps embeddings of images without augmentation; "" encodes the augmented view each time.
    cfg.S4M.SAM.CACHE = ""
    cfg.S4M.SAM.CACHE_GIB = 20.0  # The folder may grow to this size; embeddings beyond it are computed each time.


def _add_mask2former_config(cfg: CN) -> None:
    """Add the keys of S4MMask2Former; classes, pixel statistics and detections are Detectron2's own keys."""
    cfg.MODEL.MASK2FORMER = CN()
    # This folder holds a checkpoint in the hub's layout, whose config.json gives the sizes; "" builds a new network.
    cfg.MODEL.MASK2FORMER.PRETRAINED = ""
    # These backbone outputs have the strides 4, 8, 16 and 32.
    cfg.MODEL.MASK2FORMER.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.MASK2FORMER.QUERIES = 100  # The network predicts this many masks for an image.
    cfg.MODEL.MASK2FORMER.HIDDEN = 256  # All maps and queries have this many channels, a multiple of 32.
    cfg.MODEL.MASK2FORMER.HEADS = 8  # The attention layers have this many heads.
    cfg.MODEL.MASK2FORMER.ENCODER_LAYERS = 6  # The pixel decoder has this many layers.
    cfg.MODEL.MASK2FORMER.ENCODER_FEEDFORWARD = 1024  # Its feedforward blocks have this width.
    cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 9  # The transformer decoder has this many layers.
    cfg.MODEL.MASK2FORMER.FEEDFORWARD = 2048  # Its feedforward blocks have this width.
    cfg.MODEL.MASK2FORMER.POINTS = 12544  # Masks are matched and learned at this many points for each instance.


def _add_timm_config(cfg: CN) -> None:
    """Add the keys of build_vit_backbone and build_timm_backbone."""
    cfg.MODEL.VIT = CN()
    cfg.MODEL.VIT.NAME = "vit_small_patch14_dinov2"  # The backbone is this ViT of timm; DINOv3 works, too.
    cfg.MODEL.VIT.CHECKPOINT = ""  # This file holds the weights; "random" starts from untrained ones, for tests.
    # The pyramid takes the output of this block, counted from 0, or from the end if negative; later blocks do not run.
    cfg.MODEL.VIT.LAYER = -1
    cfg.MODEL.VIT.STRIDE = 16  # A token covers this many input pixels, 8 or 16; the image is resized for it.
    cfg.MODEL.VIT.FROZEN = True  # True trains no weight of the ViT and saves none of them in checkpoints.
    cfg.MODEL.VIT.OUT_CHANNELS = 256  # The maps of the pyramid have this many channels.

    cfg.MODEL.TIMM = CN()
    # The backbone is this network of timm, whose last stages have the strides 4, 8, 16 and 32.
    cfg.MODEL.TIMM.NAME = "swin_tiny_patch4_window7_224"
    cfg.MODEL.TIMM.CHECKPOINT = ""  # This file holds the weights; "" starts untrained.


def _add_guards_config(cfg: CN) -> None:
    """Add the keys of the guards.

    "Guards" are boundary consistency, calibration and matching together: each limits what a wrong pseudo-label can do.
    """
    cfg.S4M.BOUNDARY = CN()  # Boundary consistency holds the student's masks of pseudo-labels to SAM's boundaries.
    # True switches boundary consistency on; without PR its edge term is 0, and all cells weigh the same.
    cfg.S4M.BOUNDARY.ENABLED = False
    cfg.S4M.BOUNDARY.WEIGHT = 1.0  # This weight multiplies the divergence from the refined and the teacher's mask.
    cfg.S4M.BOUNDARY.EDGE_WEIGHT = 1.0  # This weight multiplies the dice loss between the boundaries.
    cfg.S4M.BOUNDARY.WIDTH = 0.08  # The band on each side of the boundary is this fraction of the object's size wide.
    cfg.S4M.BOUNDARY.GAIN = 4.0  # A cell of the band weighs this much more where SAM is certain.
    cfg.S4M.BOUNDARY.TEACHER = 0.25  # The student's mask follows a blend with this share of the teacher's soft mask.

    cfg.S4M.CALIBRATION = CN()  # Calibration sets the score threshold of each class and the weight of a pseudo-label.
    cfg.S4M.CALIBRATION.ENABLED = False  # True switches calibration on.
    # A prediction whose score lies between this value and the threshold of its class is an ignored region.
    cfg.S4M.CALIBRATION.LOW = 0.3
    cfg.S4M.CALIBRATION.BOUNDS = (0.5, 0.9)  # A threshold stays within these bounds; SELECTION.SCORE lies between them.
    # The score distribution of a class fades by this factor at each iteration that saw the class.
    cfg.S4M.CALIBRATION.DECAY = 0.99
    # Confidence is fitted to the IoU on the labeled batch once in this many iterations.
    cfg.S4M.CALIBRATION.PERIOD = 10
    cfg.S4M.CALIBRATION.FLOOR = 0.4  # A pseudo-label whose confidence (expected IoU) is lower is an ignored region.

    cfg.S4M.MATCHING = CN()  # Matching assigns SAM's candidates to the teacher's instances one to one.
    cfg.S4M.MATCHING.ENABLED = False  # True matches; False takes the candidate that SAM trusts most.
    # True also prompts SAM with the boxes of the instances that its answers to points leave without a mask.
    cfg.S4M.MATCHING.BOX = True
    cfg.S4M.MATCHING.MIN_IOU = 0.5  # A candidate needs at least this IoU with the teacher's mask.
    cfg.S4M.MATCHING.PART = 0.6  # A candidate must cover at least this share of the teacher's mask.
    # A candidate may have this many pixels outside the teacher's mask, in units of that mask's area.
    cfg.S4M.MATCHING.LEAK = 0.6
    cfg.S4M.MATCHING.DUPLICATE = 0.8  # Two candidates above this IoU are one mask, which only one instance may take.
    # True lets an instance without a candidate take the union of the candidates inside the teacher's mask.
    cfg.S4M.MATCHING.MERGE = True


def _add_augmentation_config(cfg: CN) -> None:
    """Add the keys of the augmentation of the student's view."""
    cfg.S4M.ARP = CN()  # ARP is copy-paste between unlabeled images, with their (refined) pseudo-labels.
    cfg.S4M.ARP.ENABLED = False  # True switches copy-paste on.
    cfg.S4M.ARP.FRACTION = 0.25  # This share of the unlabeled batch is paired with another share of the same size.
    cfg.S4M.ARP.MIN_AREA = 3000 / 1024**2  # A pasted instance has at least this area, as a fraction of its image.
    cfg.S4M.ARP.DYNAMIC = True  # True rescales and moves pasted instances (COCO); False keeps size and place.
    cfg.S4M.ARP.SCALE = (0.8, 1.2)  # The factor of rescaling lies in this range.

    cfg.S4M.STRONG = CN()  # Strong augmentation changes colors and sharpness of the student's view.
    cfg.S4M.STRONG.ENABLED = True  # True augments the unlabeled images.
    cfg.S4M.STRONG.LABELED = False  # True augments the labeled images in the same way.


def _add_evaluation_config(cfg: CN) -> None:
    """Add the keys of evaluation and logging."""
    cfg.S4M.COCO_EVAL = CN()  # These keys are about the COCO-style AP of DATASETS.TEST.
    cfg.S4M.COCO_EVAL.FAST = True  # True uses faster-coco-eval where it is installed; the numbers are the same.
    # AP counts this many detections of a class in an image; 0 means 100, or TEST.DETECTIONS_PER_IMAGE if that is more.
    cfg.S4M.COCO_EVAL.MAX_DETS = 0
    cfg.S4M.COCO_EVAL.BOUNDARY = False  # True adds boundary AP to mask and box AP; it needs faster-coco-eval.
    # Boundary AP compares a band that is this fraction of the image's diagonal wide.
    cfg.S4M.COCO_EVAL.BOUNDARY_RATIO = 0.02

    cfg.S4M.LOG_PERIOD = 200  # TensorBoard gets a picture of pseudo-labels once in this many iterations.
    cfg.S4M.QUALITY_IMAGES = 50  # Each evaluation measures pseudo-labels on this many test images; 0 measures none.
    # "test" resizes these images as for a test; "train" augments them as weak views.
    cfg.S4M.QUALITY_VIEW = "test"
    # model_best.pth keeps the weights with the best value of this metric of the network that S4M.TEST.NETWORK names.
    cfg.S4M.BEST_METRIC = "segm/AP"
