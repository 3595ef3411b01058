"""Checkpoints of teacher-student models are loaded whole, in part, or from plain networks."""

import logging
from collections.abc import Iterable, Mapping

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from d2kit.checkpoint import AtomicCheckpointer
from d2kit.files import load_weights, require_tensors
from s4m.modeling.teacher_student import TeacherStudent

logger = logging.getLogger(__name__)


def _is_teacher_student(names: Iterable[str]) -> bool:
    return any(name.startswith(("student.", "teacher.")) for name in names)


class TeacherStudentCheckpointer(AtomicCheckpointer):
    """Loads files of plain networks and backbones, for example ImageNet's R-50.pkl, into the student.

    After a file without a teacher, the teacher is a copy of the student.
    """

    def _load_model(self, checkpoint: dict):
        model = self.model
        names = list(checkpoint["model"])
        if not isinstance(model, TeacherStudent):
            return super()._load_model(checkpoint)
        if not _is_teacher_student(names):
            self.model = model.student
        try:
            return super()._load_model(checkpoint)
        finally:
            self.model = model
            if model.teacher is not None and not any(name.startswith("teacher.") for name in names):
                model.reset_teacher()


def network_weights(checkpoint: dict, network: str, path: str) -> dict:
    """Return the weights of one network in a checkpoint, without the network's prefix.

    Args:
        checkpoint: training checkpoint or bare weights, of a TeacherStudent or a plain network.
        network: "student" or "teacher".
        path: file of the checkpoint, for the message.

    Raises:
        ValueError: the checkpoint holds no weights, or is a TeacherStudent's that lacks the network.
    """
    state = require_tensors(checkpoint.get("model", checkpoint), path)
    if not _is_teacher_student(state):
        return state
    prefix = f"{network}."
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not weights:
        raise ValueError(f"'{path}' holds no {network}: it comes from training without DATASETS.UNLABELED.")
    return weights


def saved_classes(checkpoint: Mapping) -> list[str]:
    """Return the names of the classes that a training wrote into its checkpoint; empty if it holds none."""
    trainer = checkpoint.get("trainer")
    return list(trainer.get("classes", ())) if isinstance(trainer, dict) else []


def load_teacher(cfg: CfgNode, model: TeacherStudent) -> None:
    """Load the weights of stage 1 into the teacher and, with `S4M.STUDENT_INIT teacher`, into the student.

    Without `S4M.TEACHER.WEIGHTS` the teacher is that of `MODEL.WEIGHTS`, if they are a checkpoint of stage 2, or else a
    copy of the student. The log names it.

    Raises:
        FileNotFoundError, ValueError: the file is missing, unsafe or of another network.
    """
    if model.teacher is None:
        return
    if not cfg.S4M.TEACHER.WEIGHTS:
        if model.has_loaded_teacher:
            logger.info("The teacher is that of MODEL.WEIGHTS '%s'.", cfg.MODEL.WEIGHTS)
        else:
            model.reset_teacher()
            logger.info("The teacher starts as a copy of the student, because S4M.TEACHER.WEIGHTS names no file.")
        return
    path = PathManager.get_local_path(cfg.S4M.TEACHER.WEIGHTS)
    weights = network_weights(load_weights(path, "S4M.TEACHER.WEIGHTS"), "student", path)
    try:
        model.teacher.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"S4M.TEACHER.WEIGHTS: '{path}' does not fit the configured network: {reason}") from error
    model.awaited_teacher = ""
    logger.info("The teacher is the student of '%s'.", path)
    if cfg.S4M.STUDENT_INIT == "teacher":
        model.student.load_state_dict(weights)
