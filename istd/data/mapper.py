"""Mapping of data set dicts to the network's inputs: crops for training, whole images for testing."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.config import configurable

from istd.data.images import SizeMismatch, read_infrared, read_mask
from istd.data.polarity import check_polarity, orient
from istd.data.sensor import RANGES, parse_range
from istd.data.view import View


class ISTDMapper:
    """Maps one dict of `load_sirst`.

    In training the result has file_name, image_id, height and width of the image, and
        image: (C, S, S) float32 tensor, gray values 0..255, not normalized; beyond the image's border it is `fill`, the
            mean, which becomes 0 by normalization
        pseudo_mask: (S, S) float32 tensor in [0, 1], the label of the crop
        points: [x, y] in the crop's pixels, if the dict has points
        view: the crop's `View`, which also applies to other maps of the image (a newer mask, cached features)
        cluster: int, if clusters are given
    In testing the result is a copy of the dict with
        image: (C, H, W) float32 tensor, the whole image
        mask: (H, W) uint8 tensor of 0 and 1, if the dict has a mask_file

    Random numbers are from np.random's global generator, which the loader seeds for each sample.

    Args:
        is_train: return crops with labels instead of whole images.
        channels: number of channels, each of which is the gray image.
        crop, target_share: side of the crop in pixels, and probability that it is placed on a target (`View.draw`).
        views, seed: number and seed of an image's crops in all epochs (`View.of_set`); 0 draws new ones each time.
        fill: gray value beyond the border.
        value_range: range of raw values, see `read_infrared`.
        polarity: polarity of the targets; images with dark targets are inverted, see `istd.data.polarity`.
        pseudo_masks: lookup image id -> (H, W) soft mask, for example `PseudoMasks`; a dict's own "pseudo_mask" takes
            precedence.
        use_masks: labels are the true masks of mask_file (full supervision).
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
        views: int = 0,
        seed: int = 0,
        fill: float = 0.0,
        value_range: str = RANGES[0],
        polarity: str = "bright",
        pseudo_masks: Mapping[str, np.ndarray] | None = None,
        use_masks: bool = False,
        clusters: Mapping[str, int] | None = None,
    ):
        if channels not in (1, 3):
            raise ValueError(f"ISTD.INPUT.CHANNELS must be 1 or 3, not {channels}.")
        if is_train and crop < 1:
            raise ValueError(f"ISTD.INPUT.CROP must be at least 1 pixel, not {crop}.")
        parse_range(value_range)
        self.is_train = is_train
        self.channels = channels
        self.crop = crop
        self.target_share = target_share
        self.views = views
        self.seed = seed
        self.fill = fill
        self.value_range = value_range
        self.polarity = check_polarity(polarity)
        self.pseudo_masks = pseudo_masks
        self.use_masks = use_masks
        self.clusters = clusters

    @classmethod
    def from_config(cls, cfg, is_train: bool, **lookups) -> dict:
        """Read ISTD.INPUT and SEED; `lookups` are pseudo_masks, use_masks and clusters."""
        options = cfg.ISTD.INPUT
        return {
            "is_train": is_train,
            "channels": options.CHANNELS,
            "crop": options.CROP,
            "target_share": options.TARGET_CROP,
            "views": options.VIEWS,
            "seed": max(cfg.SEED, 0),
            "fill": options.MEAN,
            "value_range": options.RANGE,
            "polarity": options.POLARITY,
            **lookups,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        image = orient(read_infrared(dataset_dict["file_name"], self.value_range), self.polarity)
        self._check(image.shape, dataset_dict, "image", dataset_dict["file_name"])
        return self._train(image, dataset_dict) if self.is_train else self._test(image, dataset_dict)

    def label(self, dataset_dict: dict) -> np.ndarray:
        """Return the (H, W) float32 label of the whole image; ValueError names the file if there is none."""
        file_name = dataset_dict["file_name"]
        if dataset_dict.get("pseudo_mask") is not None:
            label = dataset_dict["pseudo_mask"]
        elif self.use_masks:
            if "mask_file" not in dataset_dict:
                raise ValueError(f"{file_name} has no mask, and full supervision needs one.")
            label = read_mask(dataset_dict["mask_file"])
        elif self.pseudo_masks is not None:
            label = self.pseudo_masks[dataset_dict["image_id"]]
        else:
            raise ValueError(f"{file_name} has no label: the mapper has neither pseudo-masks nor use_masks.")
        label = np.asarray(label, np.float32)
        self._check(label.shape, dataset_dict, "mask of", file_name)
        return label

    def _train(self, image: np.ndarray, dataset_dict: dict) -> dict:
        label = self.label(dataset_dict)
        points = dataset_dict.get("points")
        targets = points if points else np.argwhere(label > 0.5)[:, ::-1]
        options = {"targets": targets, "target_share": self.target_share}
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

    def _tensor(self, gray: np.ndarray) -> torch.Tensor:
        """Repeat (H, W) gray values to (C, H, W)."""
        return torch.from_numpy(np.ascontiguousarray(np.broadcast_to(gray, (self.channels, *gray.shape))))

    @staticmethod
    def _check(shape: tuple[int, ...], dataset_dict: dict, array_name: str, file_name: str) -> None:
        if shape != (dataset_dict["height"], dataset_dict["width"]):
            raise SizeMismatch(
                f"{array_name} {file_name} has shape {shape}, but the data set says "
                f"{dataset_dict['height']}x{dataset_dict['width']} (height x width)."
            )
