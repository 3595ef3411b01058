"""Configuration keys of S4M, beside Detectron2's own."""

from detectron2.config import CfgNode as CN


def add_s4m_config(cfg: CN) -> None:
    """Add the keys of S4M to a Detectron2 configuration, in place. Published values are the defaults where they fit."""
    cfg.DATASETS.UNLABELED = ()  # registered names whose images train without labels; empty: supervised training

    _add_mask2former_config(cfg)
    _add_timm_config(cfg)
    _add_input_and_solver_config(cfg)

    cfg.S4M = CN()
    cfg.S4M.STUDENT = "S4MRCNN"  # META_ARCH_REGISTRY name of the network that is trained
    cfg.S4M.EVALUATE = "student"  # which network answers in eval mode and exports: student or teacher
    cfg.S4M.UNLABELED_BATCH = 8  # unlabelled images an iteration, over all processes
    cfg.S4M.UNSUP_WEIGHT = 2.0  # weight of the losses on pseudo-labels
    cfg.S4M.PIXEL_FEATURE = "p2"  # backbone output of S4MRCNN that structural distillation compares

    cfg.S4M.TEACHER = CN()
    cfg.S4M.TEACHER.WEIGHTS = ""  # checkpoint of the first stage (a TeacherStudent or a plain student)
    cfg.S4M.TEACHER.EMA_DECAY = 0.9996
    cfg.S4M.TEACHER.BURN_IN = 0  # iterations with the teacher fixed; then it becomes the student, then its EMA
    cfg.S4M.STUDENT_INIT = "backbone"  # backbone: MODEL.WEIGHTS only (guided burn-in); teacher: the teacher's weights

    _add_sam_config(cfg)

    cfg.S4M.SD = CN()  # structural distillation, stage 1
    cfg.S4M.SD.ENABLED = False
    cfg.S4M.SD.POINTS = 128  # query points an image, half on foreground
    cfg.S4M.SD.WEIGHT = 1.0
    cfg.S4M.SD.CHUNK = 8  # prompts whose decoder tokens are held at once

    cfg.S4M.SELECTION = CN()  # which teacher predictions become pseudo-labels
    cfg.S4M.SELECTION.SCORE = 0.7
    cfg.S4M.SELECTION.MIN_PIXELS = 5.0  # least sum of the soft mask, exclusive

    cfg.S4M.PR = CN()  # pseudo-label refinement by SAM
    cfg.S4M.PR.ENABLED = False
    cfg.S4M.PR.POINTS = 3  # positive points a mask

    _add_guards_config(cfg)
    _add_augmentation_config(cfg)
    _add_evaluation_config(cfg)


def _add_input_and_solver_config(cfg: CN) -> None:
    """Keys of images, optimizer and schedule that Detectron2 lacks."""
    cfg.INPUT.CROP.AFTER_RESIZE = False  # INPUT.CROP is of the resized image; False: of the image as it is

    cfg.INPUT.IGNORE_VOID = True  # no loss in VOC's void regions wider than contours; Detectron2's own heads need False

    cfg.INPUT.LSJ = CN()  # large-scale jitter in place of INPUT.CROP and INPUT.MIN_SIZE_TRAIN
    cfg.INPUT.LSJ.ENABLED = False
    cfg.INPUT.LSJ.MIN_SCALE = 0.1  # of the size that just fits SIZE x SIZE
    cfg.INPUT.LSJ.MAX_SCALE = 2.0
    cfg.INPUT.LSJ.SIZE = 1024  # side of the square crop in pixels, padded on the right and below

    cfg.SOLVER.ACCUMULATE = 1  # backward passes whose gradients are averaged before one optimizer step
    cfg.SOLVER.OPTIMIZER = "SGD"  # or ADAMW
    cfg.SOLVER.POLY_LR_POWER = 0.9  # of LR_SCHEDULER_NAME WarmupPolyLR
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # of the rate, for parameters of the backbone without its pyramid
    cfg.SOLVER.LAYER_DECAY = 1.0  # of the rate, from each block of a trained ViT to the one before it
    cfg.SOLVER.WEIGHT_DECAY_EMBED = None  # of embeddings and of class, register and position tokens; None: as the rest
    cfg.SOLVER.REFERENCE_BATCH = 0  # batch the schedule was written for; 0: take the schedule as it is


def _add_sam_config(cfg: CN) -> None:
    """Keys of the segmenter."""
    cfg.S4M.SAM = CN()
    cfg.S4M.SAM.NAME = ""  # tiny, vit_b, vit_l, vit_h, mobile_sam, sam2_hiera_tiny, sam2.1_hiera_large ...; empty: none
    cfg.S4M.SAM.CHECKPOINT = ""  # file of its weights, of SAM 2 a folder in the hub's layout; tiny carries its own
    cfg.S4M.SAM.ENCODE_BATCH = 0  # images an encoder call; 0: chosen by device, 1 for ViT-L/H on a GPU below 40 GiB
    cfg.S4M.SAM.DECODE_CHUNK = 0  # prompts a decoder call; 0: chosen by device
    cfg.S4M.SAM.CACHE = ""  # folder for embeddings of un-augmented images; empty: encode the augmented view
    cfg.S4M.SAM.CACHE_GIB = 20.0  # bound of that folder; what does not fit is embedded each time


def _add_mask2former_config(cfg: CN) -> None:
    """Keys of S4MMask2Former; classes, pixel statistics and detections are Detectron2's own keys."""
    cfg.MODEL.MASK2FORMER = CN()
    cfg.MODEL.MASK2FORMER.PRETRAINED = ""  # folder of a checkpoint in the hub's layout, whose config.json gives sizes
    cfg.MODEL.MASK2FORMER.IN_FEATURES = ["res2", "res3", "res4", "res5"]  # backbone outputs of strides 4, 8, 16, 32
    cfg.MODEL.MASK2FORMER.QUERIES = 100
    cfg.MODEL.MASK2FORMER.HIDDEN = 256  # channels everywhere, a multiple of 32
    cfg.MODEL.MASK2FORMER.HEADS = 8
    cfg.MODEL.MASK2FORMER.ENCODER_LAYERS = 6  # of the pixel decoder
    cfg.MODEL.MASK2FORMER.ENCODER_FEEDFORWARD = 1024
    cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 9
    cfg.MODEL.MASK2FORMER.FEEDFORWARD = 2048
    cfg.MODEL.MASK2FORMER.POINTS = 12544  # at which masks are matched and learned, an instance
    cfg.MODEL.MASK2FORMER.CLASS_WEIGHT = 2.0  # of the losses, and of the costs in matching
    cfg.MODEL.MASK2FORMER.MASK_WEIGHT = 5.0
    cfg.MODEL.MASK2FORMER.DICE_WEIGHT = 5.0
    cfg.MODEL.MASK2FORMER.NO_OBJECT_WEIGHT = 0.1  # of queries without an instance in the classification loss


def _add_timm_config(cfg: CN) -> None:
    """Keys of build_vit_backbone and build_timm_backbone."""
    cfg.MODEL.VIT = CN()
    cfg.MODEL.VIT.NAME = "vit_small_patch14_dinov2"  # any ViT of timm, DINOv3 too
    cfg.MODEL.VIT.CHECKPOINT = ""  # file of its weights; random: untrained ones, for tests
    cfg.MODEL.VIT.LAYER = -1  # block whose output feeds the pyramid, from 0, or from the end; later ones do not run
    cfg.MODEL.VIT.STRIDE = 16  # pixels of the input that a token stands for, 8 or 16; the image is resized for it
    cfg.MODEL.VIT.FROZEN = True  # it does not train and is in no checkpoint
    cfg.MODEL.VIT.OUT_CHANNELS = 256  # of the pyramid

    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "swin_tiny_patch4_window7_224"  # any network of timm with stages of strides 4 to 32
    cfg.MODEL.TIMM.CHECKPOINT = ""  # file of its weights; empty: it starts untrained


def _add_guards_config(cfg: CN) -> None:
    """Keys of what makes pseudo-labels safe to learn from."""
    cfg.S4M.BOUNDARY = CN()  # boundary-aware consistency distillation, on pseudo-labels
    cfg.S4M.BOUNDARY.ENABLED = False  # without PR SAM is sure of nothing: no band, and the edge term is 0
    cfg.S4M.BOUNDARY.WEIGHT = 1.0  # of the student's mask held to the refined mask and the teacher's
    cfg.S4M.BOUNDARY.EDGE_WEIGHT = 1.0  # of the student's boundary held to SAM's
    cfg.S4M.BOUNDARY.WIDTH = 0.08  # of the band on each side of the boundary, as a fraction of the object's size
    cfg.S4M.BOUNDARY.GAIN = 4.0  # what a cell of the band weighs more where SAM is certain
    cfg.S4M.BOUNDARY.TEACHER = 0.25  # share of the teacher's soft mask in what the student is held to

    cfg.S4M.CALIBRATION = CN()  # dynamic confidence calibration of pseudo-labels
    cfg.S4M.CALIBRATION.ENABLED = False
    cfg.S4M.CALIBRATION.LOW = 0.3  # least score; a region between it and its class's threshold is ignored
    cfg.S4M.CALIBRATION.BOUNDS = (0.5, 0.9)  # of a class's threshold; SELECTION.SCORE lies between them
    cfg.S4M.CALIBRATION.QUANTILE = 0.25  # a class's threshold lies at this quantile of its scores above LOW
    cfg.S4M.CALIBRATION.DECAY = 0.99  # of the scores' distribution, an iteration that saw the class
    cfg.S4M.CALIBRATION.WARMUP = 100  # predictions of a class; before them its threshold is SELECTION.SCORE
    cfg.S4M.CALIBRATION.PERIOD = 10  # iterations between fits of confidence to IoU on the labelled batch
    cfg.S4M.CALIBRATION.SAMPLES = 1024  # latest labelled predictions that the fit is to
    cfg.S4M.CALIBRATION.FLOOR = 0.4  # confidence (expected IoU) below which a region is ignored

    cfg.S4M.MATCHING = CN()  # SAM's candidates matched to the teacher's instances one to one, in place of the best one
    cfg.S4M.MATCHING.ENABLED = False
    cfg.S4M.MATCHING.BOX = True  # ask SAM by box, too, about instances that its answers to points leave without a mask
    cfg.S4M.MATCHING.MIN_IOU = 0.5  # with the teacher's mask
    cfg.S4M.MATCHING.PART = 0.6  # least share of the teacher's mask that is covered: less is a part of the object
    cfg.S4M.MATCHING.LEAK = 0.6  # most pixels outside the teacher's mask, in units of its area
    cfg.S4M.MATCHING.DUPLICATE = 0.8  # IoU above which two candidates are one mask, for one instance
    cfg.S4M.MATCHING.MERGE = True  # where none fits, the union of candidates inside the teacher's mask


def _add_augmentation_config(cfg: CN) -> None:
    """Keys of what is done to the student's unlabelled view."""
    cfg.S4M.ARP = CN()  # copy-paste with (refined) pseudo-labels
    cfg.S4M.ARP.ENABLED = False
    cfg.S4M.ARP.FRACTION = 0.25  # share of the unlabelled batch on each side of the pairs
    cfg.S4M.ARP.MIN_AREA = 3000 / 1024**2  # least area of a pasted instance, as a fraction of its image
    cfg.S4M.ARP.DYNAMIC = True  # rescale and move what is pasted (COCO); False: paste it where it was
    cfg.S4M.ARP.SCALE = (0.8, 1.2)

    cfg.S4M.STRONG = CN()  # photometric augmentation of the student's unlabelled view
    cfg.S4M.STRONG.ENABLED = True
    cfg.S4M.STRONG.LABELED = False  # the labelled images are augmented in the same way
    cfg.S4M.STRONG.JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
    cfg.S4M.STRONG.JITTER_PROB = 0.8
    cfg.S4M.STRONG.GREY_PROB = 0.2
    cfg.S4M.STRONG.BLUR_SIGMA = (0.1, 2.0)  # pixels
    cfg.S4M.STRONG.BLUR_PROB = 0.5


def _add_evaluation_config(cfg: CN) -> None:
    """Keys of evaluation and of what is logged."""
    cfg.S4M.COCO_EVAL = CN()  # COCO-style AP of DATASETS.TEST
    cfg.S4M.COCO_EVAL.FAST = True  # by faster-coco-eval where it is installed: the same numbers
    cfg.S4M.COCO_EVAL.MAX_DETS = 0  # that count, of a class in an image; 0: 100 or TEST.DETECTIONS_PER_IMAGE if more
    cfg.S4M.COCO_EVAL.BOUNDARY = False  # boundary AP beside mask and box AP; needs faster-coco-eval
    cfg.S4M.COCO_EVAL.BOUNDARY_RATIO = 0.02  # width of the boundary, as a fraction of the image's diagonal

    cfg.S4M.LOG_PERIOD = 200  # iterations between overlays of pseudo-labels in TensorBoard
    cfg.S4M.QUALITY_IMAGES = 50  # test images that pseudo-labels are measured on at each evaluation; 0: none
    cfg.S4M.QUALITY_VIEW = "test"  # these are resized as for the "test", or augmented as weak views are when "train"ing
    cfg.S4M.BEST_METRIC = "segm/AP"  # of the network that S4M.EVALUATE names; model_best.pth keeps the best
