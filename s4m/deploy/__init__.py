"""Prediction of images of any size with trained networks: from a training's folder, or from an exported file.

Only `s4m.deploy.predictor` needs PyTorch and Detectron2; the other modules run without them.
"""
