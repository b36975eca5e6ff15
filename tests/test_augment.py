"""The augmentation does what it says, and both of its makers do the same."""

import albumentations as A
import albumentations.augmentations.geometric.functional as geometric
import numpy as np
import pytest
import torch
from runs import run_python
from scipy.stats import ks_2samp

import data
from inputs import augment
from recipe import AUGMENTERS, Augmentation

SIZE = 32
MEAN = (0.2, 0.4, 0.6)
FILL = (51, 102, 153)
NOTHING = augment.Draws(
    flip=np.zeros(1, bool),
    rotation=np.zeros(1),
    scale=np.ones((1, 2)),
    shift=np.zeros((1, 2)),
    hole=np.full((1, 2), SIZE),
)


def noise(count: int) -> np.ndarray:
    """The hardest images to interpolate: uint8 (count, 32, 32, 3), neighbours unrelated."""
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def on_device(images: np.ndarray, draws: augment.Draws) -> np.ndarray:
    """`augment.augment_batch` on uint8 (N, 32, 32, 3)."""
    return (
        augment.augment_batch(
            data.as_tensor(images),
            torch.from_numpy(augment.sampling_matrices(draws, images.shape[1])),
            torch.from_numpy(draws.hole),
            Augmentation().hole_size,
            torch.tensor(augment.hole_fill(MEAN)),
        )
        .permute(0, 2, 3, 1)
        .numpy()
    )


def by_albumentations(image: np.ndarray, draws: augment.Draws, index: int) -> np.ndarray:
    """One image under the draws of that index, by Albumentations' own transforms."""
    flip, affine, hole = augment.build_pipeline(Augmentation(), MEAN).transforms
    kinds = A.HorizontalFlip, A.ShiftScaleRotate, A.CoarseDropout
    assert (type(flip), type(affine), type(hole)) == kinds  # the assignment's
    if draws.flip[index]:
        image = flip.apply(image)
    image = affine.apply(image, matrix_of(draws, index), output_shape=(SIZE, SIZE))
    x, y = draws.hole[index]
    if x < SIZE:
        side = Augmentation().hole_size
        image = hole.apply(image, np.array([[x, y, x + side, y + side]]), seed=0)
    return image


def matrix_of(draws: augment.Draws, index: int) -> np.ndarray:
    shift, scale = (
        dict(zip("xy", pair[index], strict=True)) for pair in (draws.shift, draws.scale)
    )
    centre = geometric.center((SIZE, SIZE))
    return geometric.create_affine_transformation_matrix(
        shift, {"x": 0, "y": 0}, scale, draws.rotation[index], centre
    )


def test_flips_and_holes_are_albumentations_to_the_pixel():
    images = noise(64)
    rng = np.random.default_rng(1)
    still = {
        name: np.repeat(getattr(NOTHING, name), 64, 0) for name in ("rotation", "scale", "shift")
    }
    draws = augment.draw(Augmentation(), rng, 64, SIZE)._replace(**still)
    assert 0 < draws.flip.sum() < 64
    assert 0 < (draws.hole[:, 0] < SIZE).sum() < 64
    expected = np.stack([by_albumentations(images[i], draws, i) for i in range(64)])
    np.testing.assert_array_equal(on_device(images, draws), expected)


def test_all_three_together_are_albumentations_within_a_grey_level():
    images = noise(512)
    draws = augment.draw(Augmentation(), np.random.default_rng(2), 512, SIZE)
    expected = np.stack([by_albumentations(images[i], draws, i) for i in range(512)])
    difference = np.abs(on_device(images, draws).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


def albumentations_draws(count: int) -> augment.Draws:
    """What Albumentations itself draws, in our words."""
    pipeline = augment.build_pipeline(Augmentation(), MEAN)
    pipeline.set_random_seed(3)
    _, affine, hole = pipeline.transforms
    shape = {"shape": (SIZE, SIZE, 3)}
    moves = [affine.get_params_dependent_on_data(shape, {}) for _ in range(count)]
    holes = [hole.get_params_dependent_on_data(shape, {})["holes"][0] for _ in range(count)]
    rotation = np.array([move["rotate"] for move in moves])
    scale = np.array([(move["scale"]["x"], move["scale"]["y"]) for move in moves])
    unshifted = augment.Draws(None, rotation, scale, np.zeros((count, 2)), None)
    centred = np.array([matrix_of(unshifted, index)[:2, 2] for index in range(count)])
    shift = np.array([move["matrix"][:2, 2] for move in moves]) - centred
    return augment.Draws(None, rotation, scale, shift.round(9), np.array(holes)[:, :2])


def test_draws_are_distributed_as_albumentations_own():
    ours, theirs = (
        augment.draw(Augmentation(), np.random.default_rng(4), 8000, SIZE),
        albumentations_draws(4000),
    )
    moved, pierced = ours.rotation != 0, ours.hole[:, 0] < SIZE
    pairs = [(ours.rotation[moved], theirs.rotation)]
    for axis in (0, 1):
        pairs += [(ours.scale[moved, axis], theirs.scale[:, axis])]
        pairs += [(ours.shift[moved, axis], theirs.shift[:, axis])]
        pairs += [(ours.hole[pierced, axis], theirs.hole[:, axis])]
    for one, other in pairs:
        assert one.min() == pytest.approx(other.min(), abs=0.1)
        assert one.max() == pytest.approx(other.max(), abs=0.1)
        assert ks_2samp(one, other).pvalue > 0.001
    for happened, probability in ((ours.flip, "flip_p"), (moved, "affine_p"), (pierced, "hole_p")):
        assert happened.mean() == pytest.approx(getattr(Augmentation(), probability), abs=0.03)
    # and each is drawn apart from the others
    motion = [ours.rotation[moved], *ours.scale[moved].T, *ours.shift[moved].T]
    for drawn in ([ours.flip, moved, pierced], motion, ours.hole[pierced].T):
        assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.07


@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_one_definition_feeds_both(augmenter):
    """With certain flips and no other change, both flip every image."""
    flips = Augmentation(flip_p=1.0, affine_p=0.0, hole_p=0.0)
    images = noise(8)
    augmented = augment.augment_images(images, flips, MEAN, augmenter, seed=0)
    np.testing.assert_array_equal(augmented, images[:, :, ::-1])


def test_one_hole_filled_with_the_training_mean():
    """Those that the device draws are the same, by the tests above."""
    grey = np.full((32, 32, 3), 200, np.uint8)  # flips and shifts leave it as it is
    pipeline, size = augment.build_pipeline(Augmentation(), MEAN), Augmentation().hole_size
    pipeline.set_random_seed(0)
    drawn = [pipeline(image=grey)["image"] for _ in range(200)]
    pierced = [image for image in drawn if (image != 200).any()]
    assert 75 < len(pierced) < 125
    for image in pierced:
        hole = np.argwhere((image != 200).any(2))
        assert len(hole) == size * size
        assert np.ptp(hole, 0).tolist() == [size - 1, size - 1]
        assert (image[tuple(hole.T)] == FILL).all()


@pytest.mark.slow
def test_no_warning_and_no_update_check_on_the_users_screen():
    """In a process in which any look-up on the network ends it."""
    code = (
        "import socket, os; os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None); "
        "socket.getaddrinfo = lambda *_, **__: os._exit(7); "
        "from inputs import augment; from recipe import Augmentation; "
        "augment.build_pipeline(Augmentation(), (0.5, 0.5, 0.5))"
    )
    done = run_python("-c", code)
    assert (done.status, done.err) == (0, "")
