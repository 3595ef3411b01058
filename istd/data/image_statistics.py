"""Statistics that describe a whole infrared image, by which `istd.data.clusters` compares images."""

import cv2
import numpy as np
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.filters import threshold_otsu
from skimage.measure import block_reduce

LONGEST_SIDE = 512  # Larger images are first shrunk by area average, which saves time and makes statistics comparable.
GLCM_LEVELS = 32
GLCM_DISTANCES = (1, 2, 4)
ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
MAD_TO_SIGMA = 1.4826
TINY = 1e-12


def image_statistics(image: np.ndarray) -> dict[str, float]:
    """Describe one image by about 80 numbers.

    Args:
        image: (H, W) gray values 0..255.

    Returns:
        a finite number for each name; every image has the same names in the same order.
    """
    gray = _at_most(np.asarray(image, np.float32), LONGEST_SIDE)
    byte = np.clip(np.rint(gray), 0, 255).astype(np.uint8)
    features = {
        **_histogram(gray, byte),
        **_edges(gray, byte),
        **_cooccurrence(byte),
        **_scales(gray),
        **_spectrum(gray),
        **_binary_patterns(byte),
        **_gabor(gray),
        **_natural_scene(gray),
    }
    return {name: float(value) if np.isfinite(value) else 0.0 for name, value in features.items()}


def _at_most(gray: np.ndarray, side: int) -> np.ndarray:
    height, width = gray.shape
    scale = side / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(gray)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA)


def _entropy(weights: np.ndarray) -> float:
    """Return the entropy in bits of non-negative weights, which need not sum to 1."""
    p = weights[weights > 0] / max(weights.sum(), TINY)
    return float(-(p * np.log2(p)).sum())


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Return skewness and excess kurtosis, which are 0 for constant values."""
    centered = values - values.mean()
    std = centered.std()
    if std < 1e-6:
        return 0.0, 0.0
    z = centered / std
    square = z * z
    return float((square * z).mean()), float((square * square).mean() - 3)


def _histogram(gray: np.ndarray, byte: np.ndarray) -> dict[str, float]:
    counts = np.bincount(byte.ravel(), minlength=256).astype(float)
    levels = (1, 5, 10, 25, 50, 75, 90, 95, 99)
    percentiles = dict(zip(levels, np.percentile(gray, levels), strict=True))
    ordered = np.repeat(np.arange(256.0), counts.astype(int))
    ranks = np.arange(1, ordered.size + 1)
    gini = 2 * (ranks * ordered).sum() / (ordered.size * max(ordered.sum(), TINY)) - (ordered.size + 1) / ordered.size
    skewness, kurtosis = _moments(gray)
    otsu = float(threshold_otsu(byte)) if byte.min() < byte.max() else float(byte.flat[0])
    above = gray > otsu
    share = float(above.mean())
    gap = float(gray[above].mean() - gray[~above].mean()) if 0 < share < 1 else 0.0
    return {
        "entropy": _entropy(counts),
        "mean": gray.mean(),
        "std": gray.std(),
        "range": gray.max() - gray.min(),
        **{f"percentile_{level}": value for level, value in percentiles.items()},
        "spread_5_95": percentiles[95] - percentiles[5],
        "spread_10_90": percentiles[90] - percentiles[10],
        "spread_25_75": percentiles[75] - percentiles[25],
        "mad": np.median(np.abs(gray - percentiles[50])) * MAD_TO_SIGMA,
        "skewness": skewness,
        "kurtosis": kurtosis,
        "gini": gini,
        "otsu": otsu,
        "otsu_share": share,
        "otsu_separability": share * (1 - share) * gap**2 / max(float(gray.var()), TINY),
    }


def _edges(gray: np.ndarray, byte: np.ndarray) -> dict[str, float]:
    median = float(np.median(byte))
    edges = cv2.Canny(byte, 0.67 * median, min(255.0, 1.33 * median)) > 0
    gx, gy = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    xx, yy, xy = float((gx * gx).mean()), float((gy * gy).mean()), float((gx * gy).mean())
    magnitude = np.hypot(gx, gy)
    return {
        "edge_density": edges.mean(),
        "edge_fractal_dimension": _box_dimension(edges),
        "gradient_mean": magnitude.mean(),
        "gradient_std": magnitude.std(),
        # The structure tensor's anisotropy is 0 if edges run in all directions, and 1 if they run in one.
        "edge_anisotropy": np.sqrt((xx - yy) ** 2 + 4 * xy * xy) / (xx + yy + TINY),
    }


def _box_dimension(edges: np.ndarray) -> float:
    """Return the slope of log(number of boxes with an edge) over log(1 / box side), or 0 without edges."""
    if not edges.any():
        return 0.0
    sides = (1, 2, 4, 8, 16, 32)
    counts = [block_reduce(edges, side, np.max).sum() for side in sides]
    return float(-np.polyfit(np.log(sides), np.log(counts), 1)[0])


def _cooccurrence(byte: np.ndarray) -> dict[str, float]:
    quantized = byte // (256 // GLCM_LEVELS)
    matrix = graycomatrix(quantized, GLCM_DISTANCES, ANGLES, GLCM_LEVELS, symmetric=True, normed=True)
    features = {}
    for name in ("contrast", "homogeneity", "energy", "correlation"):
        for distance, row in zip(GLCM_DISTANCES, graycoprops(matrix, name), strict=True):
            features[f"glcm_{name}_{distance}"] = row.mean()
    for index, distance in enumerate(GLCM_DISTANCES):
        features[f"glcm_entropy_{distance}"] = np.mean([_entropy(matrix[:, :, index, a]) for a in range(len(ANGLES))])
    return features


def _scales(gray: np.ndarray) -> dict[str, float]:
    dog = cv2.GaussianBlur(gray, (0, 0), 1.5) - cv2.GaussianBlur(gray, (0, 0), 7.0)
    residual = gray - cv2.GaussianBlur(gray, (0, 0), 1.2)
    light = cv2.GaussianBlur(gray, (0, 0), 21.0)
    variances = [float(cv2.GaussianBlur(gray, (0, 0), sigma).var()) for sigma in (1, 2, 4, 8, 16)]
    trend = np.polyfit(np.log((1, 2, 4, 8, 16)), np.log(np.array(variances) + 1e-3), 1)[0]
    return {
        "local_contrast_mean": np.abs(dog).mean(),
        "local_contrast_std": dog.std(),
        "local_contrast_max": dog.max(),
        "noise_sigma": np.median(np.abs(residual - np.median(residual))) * MAD_TO_SIGMA,
        "illumination_nonuniformity": light.std() / (light.mean() + 1.0),
        "variance_trend": trend,
    }


def _spectrum(gray: np.ndarray) -> dict[str, float]:
    """Describe the radial power spectrum of the windowed image; frequencies are in cycles per pixel."""
    height, width = gray.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    power = np.abs(np.fft.rfft2((gray - gray.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    bins = 32
    index = np.minimum((radius / 0.5 * bins).astype(int), bins)  # Corners beyond 0.5 share the last bin.
    count = np.bincount(index.ravel(), minlength=bins + 1)[:bins]
    total = np.bincount(index.ravel(), weights=power.ravel(), minlength=bins + 1)[:bins]
    profile = total / np.maximum(count, 1)
    frequency = (np.arange(bins) + 0.5) / bins * 0.5
    energy = total.sum() + TINY
    centroid = (frequency * total).sum() / energy
    used = count > 0
    slope = np.polyfit(np.log(frequency[used]), np.log(profile[used] + 1e-6), 1)[0] if used.sum() > 1 else 0.0
    flatness = np.exp(np.log(profile[used] + 1e-6).mean()) / (profile[used].mean() + 1e-6)
    return {
        "spectrum_slope": slope,
        "spectrum_centroid": centroid,
        "spectrum_bandwidth": np.sqrt(((frequency - centroid) ** 2 * total).sum() / energy),
        "spectrum_flatness": flatness,
        "high_frequency_ratio": total[frequency > 0.25].sum() / energy,
    }


def _binary_patterns(byte: np.ndarray) -> dict[str, float]:
    codes = local_binary_pattern(byte, 8, 1, method="uniform").astype(int)
    shares = np.bincount(codes.ravel(), minlength=10)[:10] / codes.size
    return {**{f"lbp_{code}": share for code, share in enumerate(shares)}, "lbp_entropy": _entropy(shares)}


def _gabor(gray: np.ndarray) -> dict[str, float]:
    features = {}
    centered = gray - gray.mean()
    for wavelength in (4.0, 8.0):
        for index, angle in enumerate(ANGLES):
            kernel = cv2.getGaborKernel((15, 15), wavelength / 2, angle, wavelength, 1.0, 0.0, cv2.CV_32F)
            kernel -= kernel.mean()
            response = cv2.filter2D(centered, cv2.CV_32F, kernel / np.abs(kernel).sum())
            features[f"gabor_{wavelength:.0f}_{index * 45}"] = np.log1p(float((response * response).mean()))
    return features


def _natural_scene(gray: np.ndarray) -> dict[str, float]:
    """Describe the mean-subtracted, contrast-normalized (MSCN) values and the products of neighbors."""
    mean = cv2.GaussianBlur(gray, (7, 7), 7 / 6)
    std = np.sqrt(np.maximum(cv2.GaussianBlur(gray * gray, (7, 7), 7 / 6) - mean * mean, 0))
    mscn = (gray - mean) / (std + 1.0)
    skewness, kurtosis = _moments(mscn)
    return {
        "mscn_mean": mscn.mean(),
        "mscn_var": mscn.var(),
        "mscn_skewness": skewness,
        "mscn_kurtosis": kurtosis,
        "mscn_horizontal": (mscn[:, 1:] * mscn[:, :-1]).sum() / mscn.size,
        "mscn_vertical": (mscn[1:] * mscn[:-1]).sum() / mscn.size,
    }
