"""tools/train_net.py that notes every iteration's losses in the file RECORD and waits to be killed before step HALT."""

import json
import os
import runpy
import time

from detectron2.engine import HookBase

from s4m.engine.trainer import S4MTrainer

build_hooks = S4MTrainer.build_hooks


class Record(HookBase):
    def before_step(self):
        if self.trainer.iter == int(os.environ.get("HALT", -1)):
            time.sleep(600)

    def after_step(self):
        losses = {k: v.latest() for k, v in self.trainer.storage.histories().items() if "loss" in k}
        with open(os.environ["RECORD"], "a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": self.trainer.iter, **losses}) + "\n")


if __name__ == "__main__":
    S4MTrainer.build_hooks = lambda self: [*build_hooks(self), Record()]
    runpy.run_path("tools/train_net.py", run_name="__main__")
