"""The hooks of a training: weight averaging, the gate log, the outer step, label evolution, the final test."""

import logging
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from d2kit.finite import require_finite_losses
from istd.data.mapper import ISTDMapper
from istd.engine.bilevel import Forward, batch_loss, outer_gradients
from istd.engine.data import TrainingData
from istd.engine.processes import average_over_processes, share_statistics
from istd.engine.schedule import EpochClock
from istd.modeling.point_supervised import PointSupervisedISTD
from istd.modeling.scam import SCAM

logger = logging.getLogger(__name__)

ALPHA_LR = 0.01  # learning rate of the clusters' alpha in the outer step
GATE_PERIOD = 20  # iterations


class WeightAverage(HookBase):
    """Moves the model's averages after every step; the decay rises to its value over the first steps."""

    def __init__(self, model: PointSupervisedISTD, decay: float):
        self._model = model
        self._decay = decay

    def after_step(self) -> None:
        """Update the averages."""
        step = self.trainer.iter
        self._model.update_average(min(self._decay, (1 + step) / (10 + step)))


class GateLog(HookBase):
    """Logs mean |gate| of SCAM as `scam/gate`, which starts at 1; near 0 SCAM does not scale the student's features."""

    def __init__(self, scam: SCAM):
        self._scam = scam

    def after_step(self) -> None:
        """Log every GATE_PERIOD iterations and at the end."""
        if (self.trainer.iter + 1) % GATE_PERIOD == 0 or self.trainer.iter + 1 >= self.trainer.max_iter:
            self.trainer.storage.put_scalar("scam/gate", self._scam.gate_penalty().item(), smoothing_hint=False)


class OuterStep(HookBase):
    """Trains the student and the clusters' alpha by a few outer steps every few epochs (see `istd.engine.bilevel`).

    Training and validation crops come from separate streams. BatchNorm uses the statistics of each batch and records
    none. The hook's state is alpha, the optimizer of the outer steps and their number so far.
    """

    def __init__(self, cfg: CfgNode, model: PointSupervisedISTD, data: TrainingData, clock: EpochClock):
        """Set the model's `alpha`, one scalar per cluster."""
        node = cfg.ISTD.OUTER
        self._node = node
        self._model = model
        self._clock = clock
        self._loaders = data.outer_loaders()
        self._theta = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
        model.alpha = torch.zeros(data.clusters.num_clusters, device=model.device)
        groups = [
            {"params": self._theta, "weight_decay": 0.0},
            {"params": [model.alpha], "lr": ALPHA_LR, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-3)
        self._done = 0

    def after_step(self) -> None:
        """Take the outer steps if an epoch ended that is a multiple of ISTD.OUTER.PERIOD."""
        epoch = self._clock.ended(self.trainer.iter)
        if not epoch or epoch % self._node.PERIOD:
            return
        eta = self.trainer.optimizer.param_groups[0]["lr"]
        self._optimizer.param_groups[0]["lr"] = eta
        for loader in self._loaders:
            loader.set_start(self._done)
        batches = [iter(loader) for loader in self._loaders]
        for _ in range(self._node.STEPS):
            figures = self.step(*(next(batch) for batch in batches), eta)
            self.trainer.storage.put_scalars(**figures, smoothing_hint=False)

    def step(self, train: list[dict], validation: list[dict], eta: float) -> dict[str, float]:
        """Take one outer step and return figures for the log.

        Args:
            train, validation: batches of dicts from `ISTDMapper`.
            eta: inner learning rate.
        """
        alpha = self._model.alpha.detach().requires_grad_()
        loss = self._model.loss
        outer = batch_loss(self._forward(validation), alpha, weighted=self._node.LOSS == "published", loss=loss)
        inner = batch_loss(self._forward(train), alpha, loss=loss)
        losses = {"outer loss": outer, "inner loss": inner}
        require_finite_losses(losses, lambda: [str(image["file_name"]) for image in [*validation, *train]])
        gradients = outer_gradients(outer, inner, self._theta, alpha, eta, average_over_processes)
        for parameter, gradient in zip(self._theta, gradients.theta, strict=True):
            parameter.grad = gradient
        self._model.alpha.grad = gradients.alpha
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._done += 1
        return {
            "outer/loss": outer.item(),
            "outer/loss_train": inner.item(),
            "outer/fraction": gradients.fraction,
            "outer/implicit_share_theta": gradients.share_theta,
            "outer/implicit_share_alpha": gradients.share_alpha,
            "outer/alpha_spread": self._model.alpha.std(correction=0).item(),
        }

    def _forward(self, images: list[dict]) -> Forward:
        batch = self._model.collect(images)
        student, teacher = self._model.both_maps(batch, learner="student")
        return Forward(student, teacher[0], batch.targets, batch.clusters, batch.all_clusters)

    def state_dict(self) -> dict[str, Any]:
        """Return alpha, the state of the outer optimizer and the number of steps done."""
        return {"alpha": self._model.alpha, "optimizer": self._optimizer.state_dict(), "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; ValueError when the number of clusters differs."""
        if state["alpha"].shape != self._model.alpha.shape:
            raise ValueError(
                f"the checkpoint has {len(state['alpha'])} clusters and ISTD.CLUSTERS {len(self._model.alpha)}: resume "
                "with the cluster file of that run."
            )
        self._model.alpha.copy_(state["alpha"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._done = state["done"]


class LabelEvolution(HookBase):
    """Updates the pool's masks by the teacher's probabilities every few epochs, and admits waiting images.

    The hook's state is the masks and the pool, so that a checkpoint holds the labels it was trained on.
    """

    def __init__(self, cfg: CfgNode, model: PointSupervisedISTD, data: TrainingData, clock: EpochClock):
        self._node = cfg.ISTD.EVOLUTION
        self._enabled = cfg.ISTD.EVOLUTION.ENABLED or cfg.ISTD.MINING.ENABLED
        self._model = model
        self._labels = data.labels
        self._clock = clock
        self._mapper = ISTDMapper(cfg, is_train=False)

    def before_train(self) -> None:
        """Make the first masks unless `ISTDTrainer.resume_or_load` did."""
        if not self._labels.masks:
            self._labels.start()

    def after_step(self) -> None:
        """Update the masks if an epoch ended that is due, and restart the loader with them."""
        epoch = self._clock.ended(self.trainer.iter)
        due = epoch > self._node.START * self._clock.epochs and epoch % self._node.PERIOD == 0
        if not (due and self._enabled):
            return
        share_statistics(self._model)
        self._model.eval()
        figures = self._labels.update(self._probability, epoch, self._clock.epochs)
        self._model.train()
        self.trainer.restart_data(self.trainer.iter + 1)
        if comm.is_main_process():
            self._log(figures)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks and the pool."""
        return self._labels.masks.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._labels.load_state_dict(state)

    def _probability(self, record: dict) -> np.ndarray:
        image = self._mapper({key: value for key, value in record.items() if key != "mask_file"})
        return self._model.probabilities(image, "teacher")["teacher"].cpu().numpy()

    def _log(self, update: dict[str, float]) -> None:
        figures = {
            "labels/pool": len(self._labels.pool()),
            "labels/area_change": update["area_change"],
            "labels/iou_last": update["iou_mean"],
            **self._labels.quality(),
        }
        self.trainer.storage.put_scalars(**figures, smoothing_hint=False)
        text = ", ".join(f"{name.partition('/')[2]} {value:.4g}" for name, value in figures.items())
        logger.info(
            "Pseudo-masks version %d: %d images entered, %s.", self._labels.masks.version, update["entered"], text
        )


class FinalTest(HookBase):
    """Scores the test data sets with the best checkpoint after a training that did not fail."""

    def after_train(self) -> None:
        """Score if the last iteration was reached."""
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self.trainer.final_test()
