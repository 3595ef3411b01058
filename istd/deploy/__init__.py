"""Trained students outside of training: exported files, inference at any size, detections."""

from istd.deploy.export import export_student
from istd.deploy.predictor import ISTDPredictor
from istd.deploy.runners import Runner, open_model

__all__ = ["ISTDPredictor", "Runner", "export_student", "open_model"]
