"""DefaultTrainer for any number of processes on GPU or CPU, which resumes exactly."""

import logging
import weakref

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from d2kit.accumulate import with_accumulation
from d2kit.checkpoint import AtomicCheckpointer
from d2kit.hooks import SeedEveryStep
from d2kit.rng import derive_seed

logger = logging.getLogger(__name__)


def wrap_ddp(model: torch.nn.Module) -> torch.nn.Module:
    """DistributedDataParallel when there are several processes, on a CPU as well (where it takes no device ids)."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(
        model, device_ids=[comm.get_local_rank()] if on_gpu else None, broadcast_buffers=False
    )


def unwrap_ddp(model: torch.nn.Module) -> torch.nn.Module:
    """The model without the wrapper of DistributedDataParallel, if it has one."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def usable_amp(cfg: CfgNode) -> bool:
    """Whether to train with AMP: as configured, but fp32 with one warning where the device cannot."""
    if cfg.SOLVER.AMP.ENABLED and not (torch.cuda.is_available() and cfg.MODEL.DEVICE.startswith("cuda")):
        logger.warning("SOLVER.AMP.ENABLED needs a CUDA device; training in fp32 on %s.", cfg.MODEL.DEVICE)
        return False
    return cfg.SOLVER.AMP.ENABLED


class ResumableTrainer(DefaultTrainer):
    """DefaultTrainer with atomic checkpoints, CPU DDP, gradient accumulation and loaders that continue where they were.

    A subclass gives `build_train_loader` returning a loader with `set_start(iteration)`; `cfg.SEED` must not be
    negative.
    """

    checkpointer_class = AtomicCheckpointer

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: complete and frozen, already scaled for the batch and the number of processes.
        """
        TrainerBase.__init__(self)
        model = self.build_model(cfg)
        optimizer = with_accumulation(self.build_optimizer(cfg, model), cfg.SOLVER.ACCUMULATE)
        data_loader = self.build_train_loader(cfg)
        model = wrap_ddp(model)
        trainer_class = AMPTrainer if usable_amp(cfg) else SimpleTrainer
        self._trainer = trainer_class(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = self.checkpointer_class(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @property
    def network(self) -> torch.nn.Module:
        """The model without the DDP wrapper."""
        return unwrap_ddp(self._trainer.model)

    def build_hooks(self) -> list:
        """Detectron2's hooks, with seeding before every step."""
        return [SeedEveryStep(max(self.cfg.SEED, 0)), *super().build_hooks()]

    def load_state_dict(self, state_dict: dict) -> None:
        """As DefaultTrainer's; a training that began without AMP goes on with a fresh gradient scaler."""
        inner = state_dict["_trainer"]
        if isinstance(self._trainer, AMPTrainer) and "grad_scaler" not in inner:
            fresh = self._trainer.grad_scaler.state_dict()
            state_dict = {**state_dict, "_trainer": {**inner, "grad_scaler": fresh}}
        super().load_state_dict(state_dict)

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint or `MODEL.WEIGHTS`, and move the data to the iteration that comes next."""
        super().resume_or_load(resume=resume)
        self._trainer.data_loader.set_start(self.start_iter)


def fixed_seed(cfg: CfgNode) -> int:
    """cfg.SEED, or a fresh one, the same on all processes, when it is negative."""
    return cfg.SEED if cfg.SEED >= 0 else derive_seed(comm.shared_random_seed())
