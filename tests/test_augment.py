import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from classify.augment import Augmentation, augment, rotation, to_gray, warp
from curate.errors import CurateError

SOFT = np.random.default_rng(0).integers(90, 160, (4, 24, 24, 3), dtype=np.uint8)  # no colour is cut at 0 or 255
NUMBERS = [10, 11, 12, 13]


def test_augmentation_depends_on_seed_epoch_and_image_only():
    chosen = Augmentation(0.5, 0.3, 0.5)
    whole = augment(SOFT, NUMBERS, seed=1, epoch=2, chosen=chosen)
    np.testing.assert_array_equal(whole[2], augment(SOFT[2:3], [12], seed=1, epoch=2, chosen=chosen)[0])
    assert (whole != augment(SOFT, NUMBERS, seed=1, epoch=3, chosen=chosen)).any()
    assert (whole != augment(SOFT, NUMBERS, seed=2, epoch=2, chosen=chosen)).any()


def test_every_image_of_a_batch_gets_its_own_angle():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 14:18] = 255
    out = augment(np.stack([image] * 12), list(range(12)), seed=0, epoch=0)
    assert len({picture.tobytes() for picture in out}) == 12


def test_rotation_turns_counter_clockwise_about_the_centre_and_fills_black():
    image = np.zeros((5, 5, 3), np.uint8)
    image[2, 4] = 200  # right of the centre
    assert warp(image, rotation(5, 90))[0, 2].tolist() == [200, 200, 200]  # above it
    assert warp(np.full((21, 21, 3), 200, np.uint8), rotation(21, 45))[0, 0].tolist() == [0, 0, 0]


def test_grey_is_torchvisions():
    theirs = functional.rgb_to_grayscale(torch.from_numpy(SOFT).permute(0, 3, 1, 2), num_output_channels=3)
    assert np.abs(to_gray(SOFT).astype(int) - theirs.permute(0, 2, 3, 1).numpy()).max() <= 1


@pytest.mark.parametrize(("share", "fewest", "most"), [(1.0, 40, 40), (0.5, 10, 30)])
def test_images_lose_their_colours_with_the_given_probability(share, fewest, most):
    out = augment(np.repeat(SOFT, 10, 0), list(range(40)), seed=0, epoch=0, chosen=Augmentation(grayscale=share))
    spread = (out.max(3).astype(int) - out.min(3)).reshape(40, -1).max(1)
    assert fewest <= (spread <= 1).sum() <= most


def test_colours_change_as_torchvisions_colour_jitter_does():
    """Of an image under flips and a turn alone the same three factors give the same colours."""
    turned = augment(SOFT[:1], [7], seed=3, epoch=1)
    found = augment(SOFT[:1], [7], seed=3, epoch=1, chosen=Augmentation(colour_jitter=0.2))
    rng = np.random.default_rng((3, 1, 7))
    rng.random(2), rng.uniform()
    brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3)
    theirs = torch.from_numpy(turned).permute(0, 3, 1, 2).float() / 255
    theirs = functional.adjust_contrast(functional.adjust_brightness(theirs, brightness), contrast)
    theirs = functional.adjust_saturation(theirs, saturation).permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(found - theirs).max() <= 2, "the corners that were black are cut at 0 by both"


def test_a_crop_fills_the_square_with_a_window_of_the_image():
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0], image[..., 1] = np.meshgrid(np.arange(64) * 2, np.arange(64) * 2)
    turned = augment(np.stack([image] * 20), list(range(20)), seed=0, epoch=0)
    out = augment(np.stack([image] * 20), list(range(20)), seed=0, epoch=0, chosen=Augmentation(smallest_crop=0.25))
    reach = [np.ptp(picture[16:48, 16:48, 0].astype(int)) for picture in (*turned, *out)]
    assert np.mean(reach[20:]) < 0.9 * np.mean(reach[:20]), "a window of less than all of it is seen larger"
    assert cv2.countNonZero(out[0][16:48, 16:48, 0]) > 900


@pytest.mark.parametrize("change", [{"grayscale": 1.1}, {"colour_jitter": 1}, {"smallest_crop": 0}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(CurateError, match=next(iter(change))):
        Augmentation(**change)
