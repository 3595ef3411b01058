"""A DefaultTrainer that runs in any number of processes on GPU or CPU and resumes exactly."""

import logging
import weakref

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model
from detectron2.engine import hooks as d2_hooks
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from d2kit.accumulate import with_accumulation
from d2kit.checkpoint import AtomicCheckpointer
from d2kit.files import load_weights
from d2kit.hooks import KeptCheckpoints, PromptWriter, ReportAtEnd, SeedEveryStep
from d2kit.report.report import ReportParts
from d2kit.run_folder import require_same_training, training_keys
from d2kit.writers import build_writers

logger = logging.getLogger(__name__)

LOG_PERIOD = 20  # iterations between two lines of metrics.json, as in Detectron2


def unwrap_ddp(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model without the wrapper of DistributedDataParallel, if it has one."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class ResumableTrainer(DefaultTrainer):
    """DefaultTrainer with atomic checkpoints, DDP on CPU, gradient accumulation and data that continue on a resume.

    A subclass defines `build_train_loader`, which returns a loader with `set_start(iteration)`. `cfg.SEED` must not be
    negative.
    """

    checkpointer_class = AtomicCheckpointer
    allow_changed = False  # True lets a resumed training go on with another configuration than it began with.
    report_parts: ReportParts | None = None  # What the report at the end of a training shows; None writes none.
    kept_checkpoints: int | None = None  # This many of the newest periodic checkpoints stay; None keeps all.

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
        if self.report_parts is not None:
            self.register_hooks([ReportAtEnd(self.report_parts, cfg.OUTPUT_DIR)])

    @property
    def network(self) -> torch.nn.Module:
        """Return the model without the DDP wrapper."""
        return unwrap_ddp(self._trainer.model)

    def build_hooks(self) -> list:
        """Return Detectron2's hooks with the seeds, checkpoints and writers of `d2kit.hooks`."""
        hooks = [SeedEveryStep(max(self.cfg.SEED, 0)), *super().build_hooks()]
        checkpoint = self.cfg.SOLVER.CHECKPOINT_PERIOD
        for place, hook in enumerate(hooks):
            if isinstance(hook, d2_hooks.PeriodicCheckpointer):
                hooks[place] = KeptCheckpoints(self.checkpointer, checkpoint, max_to_keep=self.kept_checkpoints)
            elif isinstance(hook, d2_hooks.PeriodicWriter):
                hooks[place] = PromptWriter(hook._writers, LOG_PERIOD, (self.cfg.TEST.EVAL_PERIOD, checkpoint))
        return hooks

    def build_writers(self) -> list:
        """Return Detectron2's writers, and those that the keys of WRITERS name."""
        return [*super().build_writers(), *build_writers(self.cfg)]

    def state_dict(self) -> dict:
        """Return DefaultTrainer's state, with the keys of the configuration that decide what is trained."""
        return {**super().state_dict(), "config": training_keys(self.cfg)}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state as DefaultTrainer does; the state of a training without AMP gives a fresh gradient scaler."""
        inner = state_dict["_trainer"]
        if isinstance(self._trainer, AMPTrainer) and "grad_scaler" not in inner:
            fresh = self._trainer.grad_scaler.state_dict()
            state_dict = {**state_dict, "_trainer": {**inner, "grad_scaler": fresh}}
        super().load_state_dict(state_dict)

    def after_train(self) -> None:
        """Run the hooks; Detectron2 counts one iteration too many where a resumed training has none left."""
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint or `MODEL.WEIGHTS`, and let the data begin with the next iteration.

        Raises:
            ValueError: the checkpoint is of a training with another configuration (see `d2kit.run_folder`) or of
                another network, or it cannot be read.
        """
        if resume and self.checkpointer.has_checkpoint():
            checkpoint = load_weights(self.checkpointer.get_checkpoint_file(), "last_checkpoint")
            if not self.allow_changed:
                require_same_training(checkpoint.get("trainer", {}).get("config", {}), self.cfg)
            self._require_same_network(checkpoint["model"])
            del checkpoint
        super().resume_or_load(resume=resume)
        if self.start_iter >= self.max_iter:
            logger.info("The checkpoint is of iteration %d: there are 0 iterations left to train.", self.start_iter - 1)
        self._trainer.data_loader.set_start(self.start_iter)

    def _require_same_network(self, saved: dict[str, torch.Tensor]) -> None:
        """Refuse weights of another network: Detectron2 would leave random what does not fit."""
        parameters = {name for name, _ in self.network.named_parameters()}
        shapes = {name: value.shape for name, value in self.network.state_dict().items() if name in parameters}
        other = [name for name, shape in shapes.items() if name not in saved or saved[name].shape != shape]
        if other:
            raise ValueError(
                f"The checkpoint to resume is of another network: {len(other)} of {len(shapes)} weights are missing or "
                f"have another shape, '{other[0]}' for one; choose another OUTPUT_DIR."
            )
