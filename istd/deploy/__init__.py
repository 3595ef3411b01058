"""Trained students outside of training: exported files, inference at any size, detections.

Running an exported .onnx or .pt file needs neither Detectron2 nor anything else that only training uses.
"""

from istd.deploy.predictor import ISTDPredictor
from istd.deploy.runners import Runner, open_model

__all__ = ["ISTDPredictor", "Runner", "open_model"]
