#!/usr/bin/env python
"""Write a trained student (or teacher) as a checkpoint of Detectron2's own Mask R-CNN.

python tools/export_student.py --checkpoint output/demo/s4m/model_final.pth --output exported/student.pth \
    --config-file output/demo/s4m/config.yaml
With --config-file, exported/student.yaml is written too: `get_cfg()`, `merge_from_file` and DefaultPredictor need
nothing of this project.
"""

import argparse
import sys
from collections.abc import Sequence

from detectron2.config import get_cfg

from istd import add_istd_config
from s4m import add_s4m_config
from s4m.engine.export import export_config, export_weights


def main(arguments: Sequence[str] | None = None) -> None:
    """Export as the options say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="file that training wrote")
    parser.add_argument("--output", required=True, help="file to write, .pth")
    parser.add_argument("--network", choices=("student", "teacher"), default="student")
    parser.add_argument("--config-file", help="configuration of the training; its config.yaml will do")
    args = parser.parse_args(arguments)
    try:
        export_weights(args.checkpoint, args.network, args.output)
        print(args.output)
        if args.config_file:
            cfg = get_cfg()
            add_s4m_config(cfg)
            add_istd_config(cfg)  # tools/train_net.py writes the keys of both packages
            cfg.merge_from_file(args.config_file, allow_unsafe=False)
            print(export_config(cfg, args.output))
    except (OSError, ValueError) as error:
        sys.exit(f"export_student: {error}")


if __name__ == "__main__":
    main()
