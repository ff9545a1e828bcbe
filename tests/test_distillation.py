"""Knowledge distillation: the loss of the paper, the teacher's own images and classes, and whole runs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_digits
from torch import Tensor, nn

import imgcls
from imgcls.config import resolve
from imgcls.config.resolve import Config
from imgcls.config.sections import DistillationConfig
from imgcls.data.loaders.batch import Batch
from imgcls.datasets import digits
from imgcls.errors import UsageError
from imgcls.pretrained.teacher import _order, make_teacher
from imgcls.training.distillation import Teacher
from imgcls.training.loss import Loss
from imgcls.training.precision import Precision

CPU = torch.device("cpu")


class Looks(nn.Module):
    """A teacher that keeps what it is given and answers with the means of its quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return F.adaptive_avg_pool2d(images, 2).mean(1).flatten(1)


def teacher_of(model: nn.Module, **changes: object) -> Teacher:
    settings = {"scale": torch.ones(3, 1, 1), "shift": torch.zeros(3, 1, 1), "size": None, "order": None} | changes
    return Teacher(model, DistillationConfig(teacher="x", distillation_alpha=0.3, distillation_temperature=4.0),
                   Precision("float32", CPU), **settings)  # type: ignore[arg-type]


def test_the_loss_is_the_papers_and_parts_add_up() -> None:
    torch.manual_seed(0)
    images, labels, logits = torch.rand(6, 3, 8, 8), torch.randint(4, (6,)), torch.randn(6, 4, requires_grad=True)
    loss = Loss(teacher=teacher_of(Looks()))
    answers = Looks()(images)
    soft = -(F.softmax(answers / 4, 1) * (F.log_softmax(logits / 4, 1) - F.log_softmax(answers / 4, 1))).sum(1).mean()
    expected = 0.7 * F.cross_entropy(logits, labels) + 0.3 * 16 * soft
    batch = Batch(images, labels, 6, 6)
    torch.testing.assert_close(loss(logits, batch), expected)
    parts = list(batch.micro_batches(2))
    torch.testing.assert_close(loss(logits[:3], parts[0]) + loss(logits[3:], parts[1]), expected)


def test_the_teacher_is_given_its_own_images_and_asked_in_the_order_of_the_data() -> None:
    model = Looks()
    images = torch.rand(2, 3, 8, 8)
    order = torch.tensor([2, 0, 3, 1])
    teacher = teacher_of(model, scale=torch.full((3, 1, 1), 2.0), shift=torch.ones(3, 1, 1), size=(4, 4), order=order)
    value = teacher.divergence(torch.zeros(2, 4), images)
    expected = F.interpolate(2 * images + 1, (4, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(model.seen, expected)
    answers = F.log_softmax(Looks()(expected)[:, order] / 4, 1)
    torch.testing.assert_close(value, 16 * (answers.exp() * (answers - np.log(1 / 4))).sum())


def test_the_order_of_many_classes_is_found_quickly() -> None:
    order = _order("teacher", ["b", "a", "b"], ["a", "b", "b"], CPU)
    assert order is not None
    assert order.tolist() == [1, 0, 1]
    names = [f"n{number:08d}" for number in range(100_000)]
    began = time.process_time()
    order = _order("teacher", names[::-1], names, CPU)
    assert time.process_time() - began < 20  # looked up in a list, it takes minutes
    assert order is not None
    assert torch.equal(order, torch.arange(100_000).flip(0))


def test_images_that_begin_smaller_are_the_teachers_size_all_the_same(trained: Path) -> None:
    """lenet takes one size only, and its student begins at half of it."""
    from imgcls.cli import train

    assert train.main(["--data-dir", str(trained.parent), "--network", "resnet", "--num-layers", "8", "--num-epochs",
                       "1", "--batch-size", "128", "--progressive-scale", "0.5", "--progressive-epochs", "1,1",
                       "--teacher", str(trained)]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from imgcls.cli import train

    folder = tmp_path_factory.mktemp("teacher")
    write_digits(folder)
    assert train.main(["--data-dir", str(folder), "--network", "lenet", "--num-epochs", "1", "--batch-size", "32",
                       "--model-prefix", str(folder / "net")]) == 0
    return folder / "net"


def test_a_run_with_a_teacher_learns_from_it(trained: Path) -> None:
    images, labels = digits.draw(320, 1)
    learned = imgcls.fit((images, np.zeros_like(labels)), network="mlp", teacher=str(trained), num_classes=10,
                         distillation_alpha=1.0, num_epochs=3, batch_size=32, lr=0.1, image_shape="1,28,28")
    own = imgcls.load_model(trained)
    pixels = torch.from_numpy(images).float() / 255
    with torch.no_grad():
        agreement = (learned.model(pixels).argmax(1) == own(pixels).argmax(1)).float().mean()
    assert agreement > 0.5, "all labels were 0: what it knows, it has from the teacher"


def test_teachers_of_other_classes_and_images_are_refused(trained: Path) -> None:
    def config_of(**settings: object) -> Config:
        return resolve.build({"image_shape": (1, 28, 28), "rgb_std": (255.0,)},
                             {"network": "lenet", "teacher": str(trained), "dtype": "float32", **settings})

    names = [str(number) for number in range(10)]
    teacher = make_teacher(config_of(rgb_std="1"), (), CPU)
    assert teacher is not None
    assert float(teacher._scale.squeeze()) == pytest.approx(1 / 255), "the run's own scale is its own affair"
    assert make_teacher(dataclasses.replace(config_of(), distillation=DistillationConfig()), names, CPU) is None
    for settings, message in (({"num_classes": 3}, "has 10 classes, the data 3"),
                              ({"image_shape": "3,28,28"}, "takes images of 1,28,28"),
                              ({"mean_image": "x.bin"}, "not with a mean image"),
                              ({"teacher": "nothing-there"}, "nothing-there")):
        with pytest.raises(UsageError, match=message):
            make_teacher(config_of(**settings), (), CPU)
