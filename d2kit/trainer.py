"""A DefaultTrainer that runs in any number of processes on GPU or CPU and resumes exactly."""

import logging
import weakref

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from d2kit.accumulate import with_accumulation
from d2kit.checkpoint import AtomicCheckpointer
from d2kit.hooks import SeedEveryStep

logger = logging.getLogger(__name__)


def unwrap_ddp(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model without the wrapper of DistributedDataParallel, if it has one."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class ResumableTrainer(DefaultTrainer):
    """DefaultTrainer with atomic checkpoints, DDP on CPU, gradient accumulation and data that continue on a resume.

    A subclass defines `build_train_loader`, which returns a loader with `set_start(iteration)`. `cfg.SEED` must not be
    negative.
    """

    checkpointer_class = AtomicCheckpointer

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: a complete, frozen configuration that is scaled for the batch and the number of processes.
        """
        TrainerBase.__init__(self)
        model = self.build_model(cfg)
        optimizer = with_accumulation(self.build_optimizer(cfg, model), cfg.SOLVER.ACCUMULATE)
        data_loader = self.build_train_loader(cfg)
        on_gpu = next(model.parameters()).is_cuda
        device_ids = [comm.get_local_rank()] if on_gpu else None  # DDP takes no device ids on a CPU.
        model = create_ddp_model(model, device_ids=device_ids, broadcast_buffers=False)
        if cfg.SOLVER.AMP.ENABLED and not on_gpu:
            logger.warning("SOLVER.AMP.ENABLED needs a CUDA device; the training on %s uses fp32.", cfg.MODEL.DEVICE)
        trainer_class = AMPTrainer if cfg.SOLVER.AMP.ENABLED and on_gpu else SimpleTrainer
        self._trainer = trainer_class(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = self.checkpointer_class(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @property
    def network(self) -> torch.nn.Module:
        """Return the model without the DDP wrapper."""
        return unwrap_ddp(self._trainer.model)

    def build_hooks(self) -> list:
        """Return Detectron2's hooks and one that seeds before every step."""
        return [SeedEveryStep(max(self.cfg.SEED, 0)), *super().build_hooks()]

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state as DefaultTrainer does; the state of a training without AMP gives a fresh gradient scaler."""
        inner = state_dict["_trainer"]
        if isinstance(self._trainer, AMPTrainer) and "grad_scaler" not in inner:
            fresh = self._trainer.grad_scaler.state_dict()
            state_dict = {**state_dict, "_trainer": {**inner, "grad_scaler": fresh}}
        super().load_state_dict(state_dict)

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint or `MODEL.WEIGHTS`, and let the data begin with the next iteration."""
        super().resume_or_load(resume=resume)
        self._trainer.data_loader.set_start(self.start_iter)
