"""Inference with trained students on images of any size, and export of students to files.

An exported .onnx or .pt file runs without Detectron2 and without any other package that only training uses.
"""

from istd.deploy.predictor import ISTDPredictor
from istd.deploy.runners import Runner, open_model

__all__ = ["ISTDPredictor", "Runner", "open_model"]
