"""scikit-learn's handwritten digits, which come with the package."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from inputs.image_data import ImageData
from inputs.image_files import to_network_size


def load(_dataset: str, _data_dir: Path) -> ImageData:
    """scikit-learn's 1,797 handwritten 8x8 digits, enlarged; a fixed stratified 80/20 split."""
    digits = load_digits()
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    images = np.stack([to_network_size(Image.fromarray(image)) for image in grey])
    train, test = train_test_split(
        np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0
    )
    labels = digits.target.astype(np.int64)
    names = tuple(str(name) for name in digits.target_names)
    return ImageData("digits", images[train], labels[train], images[test], labels[test], names)
