"""Packaging of s4m, istd and d2kit, the small module both share."""

from setuptools import find_packages, setup

setup(
    name="detectron2-s4m-istd",
    version="0.1.0",
    description="Semi-supervised instance segmentation with SAM and point-supervised infrared small target detection, "
    "as a Detectron2 extension",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["s4m", "s4m.*", "istd", "istd.*", "d2kit", "d2kit.*"]),
    package_data={"s4m.sam": ["*.pth", "*.json"]},
    # Detectron2, torch and torchvision are left to the environment: see the README's install section.
    install_requires=[
        "fvcore",
        "portalocker",
        "pycocotools",
        "opencv-python-headless",
        "numpy",
        "pillow",
        "timm>=1.0",
        "scipy",
        "scikit-learn",
        "scikit-image",
        "matplotlib",
        "tqdm",
        "tensorboard",
        "tifffile",
        "segment-anything",
    ],
    extras_require={
        "transformers": ["transformers>=5"],
        "onnx": ["onnx", "onnxruntime"],
        "eval": ["faster-coco-eval"],
        "cityscapes": ["cityscapesscripts", "shapely"],
        "dev": ["pytest", "ruff"],
    },
)
