"""Every augmentation has a picture, a cost and a test of its distribution, all on docs/augmentation.md."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from imgcls.config.sections import AugmentConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "augmentation.md").read_text()
#: settings of images that draw nothing: sizes, values and normalisation, and the one that switches others on
FIXED = {"resize", "val_resize", "fill_value", "rgb_mean", "rgb_std", "mean_image", "use_imagenet_data_augmentation"}
#: those of `RegularizationConfig` and `TrainConfig` that change images
OTHERS = {"mixup", "cutmix", "aug_repeats", "progressive_scale", "progressive_epochs"}
AUGMENTATIONS = ({field.name for field in dataclasses.fields(AugmentConfig)} - FIXED) | OTHERS


@pytest.fixture(scope="module")
def command() -> ModuleType:
    """The command that the page names."""
    assert "`python scripts/augmentation_pictures.py docs/pictures`" in PAGE
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "scripts" / "augmentation_pictures.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["pictures"] = module
    spec.loader.exec_module(module)
    return module


def test_every_setting_that_changes_images_has_a_picture_on_the_page(command: ModuleType) -> None:
    drawn = {name for settings in command.STRIPS.values() for name in settings}
    assert drawn == AUGMENTATIONS
    rows = dict(re.findall(r"\| (.*) \| !\[.*\]\(pictures/augmentation-(.*)\.jpg\) \|\n", PAGE))
    assert list(rows.values()) == list(command.STRIPS)
    for row, name in rows.items():
        assert name == "none" or any(f"--{setting.replace('_', '-')} " in row for setting in command.STRIPS[name]), row


def test_the_pictures_are_those_of_the_command(command: ModuleType) -> None:
    for name, settings in command.STRIPS.items():
        picture = cv2.imread(str(ROOT / "docs" / "pictures" / f"augmentation-{name}.jpg"))
        assert picture is not None, name
        is_encoded, data = cv2.imencode(".jpg", command.strip(settings)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
        made = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert is_encoded
        assert made is not None
        # another version of OpenCV may round otherwise
        assert np.abs(picture.astype(int) - made).mean() < 1, f"{name}: run the command that the page names"


def test_every_picture_has_a_cost_and_a_test_of_its_distribution(command: ModuleType) -> None:
    rows = {name: (cost, path, test) for name, cost, path, test in re.findall(
        r"^\| ([\w-]+) \| ([\d.]+) \| [\d.]* \| `(tests/test_\w+\.py)`: `(test_\w+)` \|$", PAGE, re.MULTILINE)}
    assert rows.keys() == command.STRIPS.keys() - {"none"}
    for name, (_cost, path, test) in rows.items():
        assert f"def {test}(" in (ROOT / path).read_text(), name
