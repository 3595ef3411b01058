"""Data set dicts -> what the network takes: crops for training, whole images for testing."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.config import configurable

from istd.data.images import SizeMismatch, read_infrared, read_mask
from istd.data.view import View


class ISTDMapper:
    """Map one dict of `load_sirst`.

    Training: a dict with file_name, image_id, height, width (of the image) and
        image: (C, S, S) float32 tensor, grey values 0..255, not normalised; beyond the image's border it is
            `fill`, the mean, so that it is 0 once normalised
        pseudo_mask: (S, S) float32 tensor in [0, 1], the label of the crop
        points: [x, y] in the crop's pixels, where the dict has points
        view: the `View` that was taken, so that maps of the whole image (a newer mask, cached features) can follow
        cluster: int, where clusters are given
    Testing: the dict itself with
        image: (C, H, W) float32 tensor, the whole image
        mask: (H, W) uint8 tensor of 0 and 1, where the dict has a mask_file

    Randomness is np.random's global generator, which the loader seeds for each sample.

    Args:
        is_train: crops with labels, or whole images.
        channels: the grey image is repeated so often.
        crop, target_share, augment: see `View.draw`.
        views: crops an image has, the same in every epoch (`View.of_set`); 0: a new one each time.
        seed: of those views.
        fill: grey value beyond the border.
        depth: see `read_infrared`.
        pseudo_masks: image id -> (H, W) soft mask, for example `PseudoMasks`; a dict's own "pseudo_mask" goes first.
        use_masks: full supervision: the label is the true mask of mask_file.
        clusters: lookup image id -> cluster, for example `ClusterTable`.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        channels: int = 3,
        crop: int = 256,
        target_share: float = 0.5,
        augment: bool = True,
        views: int = 0,
        seed: int = 0,
        fill: float = 0.0,
        depth: str = "range",
        pseudo_masks: Mapping[str, np.ndarray] | None = None,
        use_masks: bool = False,
        clusters: Mapping[str, int] | None = None,
    ):
        if channels not in (1, 3):
            raise ValueError(f"ISTD.INPUT.CHANNELS must be 1 or 3, not {channels}.")
        if is_train and crop < 1:
            raise ValueError(f"ISTD.INPUT.CROP must be at least 1 pixel, not {crop}.")
        self.is_train, self.channels, self.depth = is_train, channels, depth
        self.crop, self.target_share, self.augment, self.fill = crop, target_share, augment, fill
        self.views, self.seed = views, seed
        self.pseudo_masks, self.use_masks, self.clusters = pseudo_masks, use_masks, clusters

    @classmethod
    def from_config(cls, cfg, is_train: bool, **lookups) -> dict:
        """`lookups`: pseudo_masks, use_masks and clusters, which are no configuration."""
        options = cfg.ISTD.INPUT
        return {
            "is_train": is_train,
            "channels": options.CHANNELS,
            "crop": options.CROP,
            "target_share": options.TARGET_CROP,
            "augment": options.AUGMENT,
            "views": options.VIEWS,
            "seed": max(cfg.SEED, 0),
            "fill": options.MEAN,
            "depth": options.DEPTH,
            **lookups,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        image = read_infrared(dataset_dict["file_name"], self.depth)
        self._check(image.shape, dataset_dict, "image", dataset_dict["file_name"])
        return self._train(image, dataset_dict) if self.is_train else self._test(image, dataset_dict)

    def label(self, dataset_dict: dict) -> np.ndarray:
        """(H, W) float32 label of the whole image; ValueError naming the file when there is none."""
        file_name, image_id = dataset_dict["file_name"], dataset_dict["image_id"]
        if dataset_dict.get("pseudo_mask") is not None:
            label, origin = np.asarray(dataset_dict["pseudo_mask"], np.float32), "pseudo-mask of"
        elif self.use_masks:
            if "mask_file" not in dataset_dict:
                raise ValueError(f"{file_name} has no mask, and full supervision needs one.")
            label, origin = read_mask(dataset_dict["mask_file"]).astype(np.float32), "mask of"
        elif self.pseudo_masks is not None:
            label, origin = np.asarray(self.pseudo_masks[image_id], np.float32), "pseudo-mask of"
        else:
            raise ValueError(f"{file_name} has no label: the mapper was given neither pseudo-masks nor use_masks.")
        self._check(label.shape, dataset_dict, origin, file_name)
        return label

    def _train(self, image: np.ndarray, dataset_dict: dict) -> dict:
        label = self.label(dataset_dict)
        points = dataset_dict.get("points")
        targets = points if points else np.argwhere(label > 0.5)[:, ::-1]
        options = {"targets": targets, "target_share": self.target_share, "augment": self.augment}
        if self.views:
            view = View.of_set(dataset_dict["image_id"], self.views, self.seed, *image.shape, self.crop, **options)
        else:
            view = View.draw(*image.shape, self.crop, **options)
        result = {key: dataset_dict[key] for key in ("file_name", "image_id", "height", "width")}
        result["image"] = self._tensor(view.apply(image, self.fill))
        result["pseudo_mask"] = torch.from_numpy(view.apply(label))
        result["view"] = view
        if points is not None:
            result["points"] = view.apply_points(points)
        if self.clusters is not None:
            result["cluster"] = int(self.clusters[dataset_dict["image_id"]])
        return result

    def _test(self, image: np.ndarray, dataset_dict: dict) -> dict:
        result = copy.deepcopy({key: value for key, value in dataset_dict.items() if key != "pseudo_mask"})
        result["image"] = self._tensor(image)
        if "mask_file" in dataset_dict:
            mask = read_mask(dataset_dict["mask_file"])
            self._check(mask.shape, dataset_dict, "mask of", dataset_dict["file_name"])
            result["mask"] = torch.from_numpy(mask)
        return result

    def _tensor(self, grey: np.ndarray) -> torch.Tensor:
        """(H, W) -> (C, H, W), the grey values repeated."""
        return torch.from_numpy(np.ascontiguousarray(np.broadcast_to(grey, (self.channels, *grey.shape))))

    @staticmethod
    def _check(shape: tuple[int, ...], dataset_dict: dict, what: str, file_name: str) -> None:
        if shape != (dataset_dict["height"], dataset_dict["width"]):
            raise SizeMismatch(
                f"{what} {file_name} has shape {shape}, but the data set says "
                f"{dataset_dict['height']}x{dataset_dict['width']} (height x width)."
            )
