"""Write one picture for each prediction: the network's input, and the Grad-CAM heat map over it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch

from imgcls.data.opencv import cv2
from imgcls.errors import UsageError, verbatim
from imgcls.inference.explain import grad_cam, overlaid
from imgcls.inference.export.exported_network import require_layers
from imgcls.inference.predictor import Prediction, Predictor
from imgcls.report import pictures
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_local_path

#: pictures are drawn at least this large, so that those of digits can be seen
_MIN_EDGE = 224
_CAPTION_HEIGHT, _LETTER_WIDTH = 24, 8
#: characters and bytes of a file's name; file systems allow 255 bytes, with what a temporary name adds
_MAX_NAME, _MAX_NAME_BYTES = 100, 200


class ExplanationWriter:
    """Writes one picture for each prediction into a folder: the input, and its heat map."""

    def __init__(self, predictor: Predictor, folder: str) -> None:
        require_layers(predictor.model, "explain")
        self._predictor = predictor
        self._folder = Path(to_local_path(folder, "`explain`"))
        if os.path.lexists(self._folder) and not self._folder.is_dir():
            raise UsageError(f"`explain` {verbatim(folder)}: is no folder")
        self._names: set[str] = set()
        #: name -> the last number that was added to it
        self._numbers: dict[str, int] = {}

    def __call__(self, prediction: Prediction) -> Path:
        """Draw the heat map of the likeliest class; return the path of the PNG."""
        predictor = self._predictor
        images = predictor.images_of(prediction.seen[None, None])
        likeliest = torch.tensor(prediction.classes[:1], device=predictor.device)
        heat = grad_cam(predictor.model, images, likeliest)
        assert heat is not None  # images have places
        name, probability = prediction.ranking[0]
        picture = draw(prediction.seen, heat[0].cpu().numpy(), f"{name} ({probability:.4f})")
        path = self._folder / f"{self._file_name(prediction.image)}.png"
        write_bytes(path, pictures.encoded(picture, ".png"))
        return path

    def _file_name(self, image: str) -> str:
        """Return a file name for the picture of an image, without suffix, that no other picture has."""
        stem = os.path.splitext(os.path.basename(image.partition("?")[0].rstrip("/")))[0]
        # An image's name may come from a list or a URL: no slash, no `..` and no line break gets into a path.
        stem = re.sub(r"[^\w.-]+", "-", stem).strip(".-")[:_MAX_NAME] or "image"
        stem = stem.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
        name, key = stem, stem.lower()  # some disks take a and A for one name
        # from the last number on: the records of a file share one stem
        number = self._numbers.get(key, 1)
        while name.lower() in self._names:
            number += 1
            name = f"{stem}-{number}"
        self._numbers[key] = number
        self._names.add(name.lower())
        return name


def draw(pixels: np.ndarray, heat: np.ndarray, caption: str) -> np.ndarray:
    """Return BGR pixels: an image uint8 (H, W, C) in RGB, beside it the same under its heat, and a caption.

    `heat` is float (H, W), 0 to 1. Both pictures are enlarged by a whole factor.
    """
    scale = max(1, -(-_MIN_EDGE // min(pixels.shape[:2])))  # whole, so that all pixels are of one size
    height, width = pixels.shape[0] * scale, pixels.shape[1] * scale
    sheet = np.full((height + _CAPTION_HEIGHT, 2 * width + 4, 3), 255, np.uint8)
    for image, left in ((pixels, 0), (overlaid(pixels, heat), width + 4)):
        # pixels of small pictures keep their edges
        sheet[:height, left:left + width] = cv2.resize(pictures.bgr(image), (width, height),
                                                       interpolation=cv2.INTER_NEAREST)
    pictures.write(sheet, caption[:sheet.shape[1] // _LETTER_WIDTH], 4, height + 17, 0.45)
    return sheet
