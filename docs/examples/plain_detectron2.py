"""A plain Detectron2 training script that learns from unlabeled images, too, because it imports `s4m`."""

from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup

from s4m import add_s4m_config
from s4m.data.two_stream import build_two_stream_loader
from s4m.engine.hooks import MeanTeacher
from s4m.engine.schedule import scale_schedule
from s4m.engine.weights import load_teacher


class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_two_stream_loader(cfg)

    def build_hooks(self):
        teacher = self.cfg.S4M.TEACHER
        return [MeanTeacher(teacher.EMA_DECAY, teacher.BURN_IN), *super().build_hooks()]

    def resume_or_load(self, resume=True):
        super().resume_or_load(resume)
        if not (resume and self.checkpointer.has_checkpoint()):
            load_teacher(self.cfg, self.model)


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.merge_from_file(args.config_file, allow_unsafe=False)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    cfg = scale_schedule(cfg)
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
