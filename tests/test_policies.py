"""RandAugment, TrivialAugment, AugMix and random erasing: torchvision's operations, ranges and distributions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from imgcls.config.sections import AugmentConfig
from imgcls.data import erasing, operations, order
from imgcls.data.crops import CropSampler
from imgcls.data.loaders.make import make_loader
from imgcls.data.order import Draws
from imgcls.data.policies import Policy, PolicySampler
from imgcls.data.sampling import Sampling
from imgcls.data.sources import ArraySource
from imgcls.errors import UsageError

SIZE = (40, 56)
NAMES = {"shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX", "translate_y": "TranslateY",
         "rotate": "Rotate", "brightness": "Brightness", "color": "Color", "contrast": "Contrast",
         "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
         "autocontrast": "AutoContrast", "equalize": "Equalize", "identity": "Identity"}


def picture(channels: int = 3) -> np.ndarray:
    """Return smooth shapes with some noise: flat pictures would hide where a pixel was taken from."""
    y, x = np.mgrid[:SIZE[0], :SIZE[1]]
    waves = [110 + 60 * np.sin(x / (4 + c)) + 50 * np.cos(y / (3 + c)) for c in range(channels)]
    noise = np.random.default_rng(0).integers(-8, 8, (*SIZE, channels))
    return np.clip(np.stack(waves, 2) + noise, 30, 250).astype(np.uint8)


def transforms() -> object:
    return pytest.importorskip("torchvision.transforms.v2")


def torchvisions(image: np.ndarray, name: str, magnitude: float, mode: str = "nearest") -> np.ndarray:
    v2 = transforms()
    if name == "solarize":
        magnitude /= 255
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    changed: Tensor = v2.RandAugment()._apply_image_or_video_transform(  # type: ignore[attr-defined]
        tensor, NAMES[name], magnitude, interpolation=v2.InterpolationMode(mode), fill={})  # type: ignore[attr-defined]
    return changed.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", NAMES)
def test_operations_are_torchvisions(name: str, channels: int) -> None:
    image = picture(channels)
    magnitudes = {"posterize": (0, 3, 6, 8), "solarize": (0, 100, 255), "rotate": (-30, 20, 135),
                  "translate_x": (-7.9, 5), "translate_y": (-7.9, 5)}.get(name, (-0.9, -0.3, 0, 0.29, 0.9))
    for magnitude in magnitudes:
        ours = image.copy()
        operations.OPERATIONS[name](ours, magnitude, 0)
        theirs = torchvisions(image, name, magnitude)
        if name in ("shear_x", "shear_y", "rotate"):
            # where two pixels are equally near either may be taken
            assert (ours != theirs).mean() < 0.03, (name, magnitude)
        else:
            assert np.abs(ours.astype(int) - theirs).max() <= (name in ("contrast", "color")), (name, magnitude)


def test_equalize_of_few_values() -> None:
    for image in (np.full((4, 4, 1), 7, np.uint8), np.arange(16, dtype=np.uint8).reshape(4, 4, 1)):
        ours = image.copy()
        operations.OPERATIONS["equalize"](ours, 0, 0)
        np.testing.assert_array_equal(ours, torchvisions(image, "equalize", 0))


def drawn(policy: str, count: int = 6000, **settings: int) -> list[Policy]:
    sampler = PolicySampler(AugmentConfig(auto_augment=policy, **settings), SIZE)
    return [policy for policy in sampler.sample(Draws(1, 0, np.arange(count))) if policy]


def counted(policies: list[Policy]) -> Iterator[tuple[str, float]]:
    return (operation for policy in policies for chain in policy.chains for operation in chain.operations)


@pytest.mark.parametrize(("policy", "theirs", "bins"), [
    ("ra", "RandAugment", 31), ("ta_wide", "TrivialAugmentWide", 31), ("augmix", "AugMix", 10)])
def test_operations_and_magnitudes_are_drawn_as_torchvisions(policy: str, theirs: str, bins: int) -> None:
    space = getattr(transforms(), theirs)._AUGMENTATION_SPACE
    policies = drawn(policy, 16000 if policy == "ta_wide" else 6000)
    found: dict[str, Counter[float]] = {}
    for name, magnitude in counted(policies):
        found.setdefault(name, Counter())[magnitude] += 1
    assert {NAMES[name] for name in found} == set(space)
    total = sum(map(Counter.total, found.values()))
    for name, counts in found.items():
        # each as often as the others, within five standard deviations
        share = 1 / len(space)
        assert abs(counts.total() - share * total) < 5 * np.sqrt(total * share)
        values, is_signed = space[NAMES[name]][0](bins, *SIZE), space[NAMES[name]][1]
        expected = [0.0] if values is None else [float(value) for value in values]
        if name == "solarize":
            expected = [255 * value for value in expected]
        expected = {"ra": expected[9:10] or expected, "augmix": expected[:3]}.get(policy, expected)
        expected += [-value for value in expected if is_signed]
        assert all(min(abs(value - other) for other in expected) < 1e-3 for value in counts)
        assert all(min(abs(value - other) for other in counts) < 1e-3 for value in expected)
        if is_signed and policy != "ta_wide":
            assert 0.35 < sum(count for value, count in counts.items() if value < 0) / max(
                sum(count for value, count in counts.items() if value), 1) < 0.65


def test_augmix_mixes_as_the_paper() -> None:
    policies = drawn("augmix")
    depths = Counter(len(chain.operations) for policy in policies for chain in policy.chains)
    assert depths.keys() == {1, 2, 3}
    assert min(depths.values()) > 0.31 * depths.total()
    originals = np.array([policy.original for policy in policies])
    assert abs(np.quantile(originals, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.03  # Beta(1, 1)
    parts = np.array([[chain.weight for chain in policy.chains] for policy in policies]) / (1 - originals)[:, None]
    np.testing.assert_allclose(parts.sum(1), 1, rtol=1e-6)
    # Dirichlet(1, 1, 1): means of 1/3, variances of 1/18
    assert abs(parts.mean(0) - 1 / 3).max() < 0.02
    assert abs(parts.var(0) - 1 / 18).max() < 0.005
    image = picture()
    identity = Policy(0.25, tuple(chain._replace(weight=0.25, operations=(("identity", 0.0),))
                                  for chain in policies[0].chains), True)
    same = image.copy()
    operations.apply(same, identity)
    np.testing.assert_array_equal(same, image)
    changed = image.copy()
    operations.apply(changed, policies[1])
    expected = policies[1].original * image.astype(float)
    for chain in policies[1].chains:
        part = image.copy()
        for name, magnitude in chain.operations:
            operations.OPERATIONS[name](part, magnitude, 1)
        expected += chain.weight * part
    assert np.abs(changed - np.floor(expected)).max() <= 1


def test_boxes_are_torchvisions() -> None:
    v2 = transforms()
    ours = erasing.boxes(Draws(0, 0, np.arange(4000)), 0.5, SIZE)
    erased = ours[ours[:, 2] > 0]
    assert 0.45 < len(erased) / 4000 < 0.55
    torch.manual_seed(0)
    random_erasing = v2.RandomErasing(p=1.0)  # type: ignore[attr-defined]
    theirs = [random_erasing.make_params([torch.zeros(3, *SIZE)]) for _ in range(2000)]
    theirs = np.array([[p["i"], p["j"], p["i"] + p["h"], p["j"] + p["w"]] for p in theirs])
    for measure in (lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]), lambda b: b[:, 0], lambda b: b[:, 3],
                    lambda b: (b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1])):
        deciles = np.quantile(measure(theirs), np.linspace(0.1, 0.9, 9))
        parts = [(measure(erased) <= value).mean() - (measure(theirs) <= value).mean() for value in deciles]
        assert np.abs(parts).max() < 0.05
    images = torch.rand(4, 3, *SIZE)
    expected = images.clone()
    for index, (top, left, bottom, right) in enumerate(erased[:4]):
        expected[index, :, top:bottom, left:right] = 0
    on_meta_path = images.clone()
    erasing.erase(images, erased[:4])
    assert torch.equal(images, expected)
    assert not torch.equal(on_meta_path, expected)


SETTINGS = {"random_crop": True, "pad_size": 2, "random_mirror": True, "random_erase": 0.5}


@pytest.mark.parametrize("settings", [SETTINGS, {**SETTINGS, "auto_augment": "ra"},
                                      {**SETTINGS, "auto_augment": "augmix"}, {"auto_augment": "ta_wide"}])
def test_batches_do_not_depend_on_threads_processes_or_where_the_epoch_is_entered(settings: dict[str, object]) -> None:
    images = np.stack([np.roll(picture(), i, 1) for i in range(23)]).transpose(0, 3, 1, 2)
    source = ArraySource(np.ascontiguousarray(images), np.arange(23) % 5)

    def epoch(threads: int, world: int = 1, first_batch: int = 0, repeats: int = 2) -> Tensor:
        loaders = [make_loader(source, batch_size=8, image_shape=(3, 32, 32), train=True, seed=3, threads=threads,
                               augment_config=AugmentConfig(**settings), device=torch.device("cpu"),  # type: ignore[arg-type]
                               shard=order.Shard(rank, world), sampling=Sampling(True, repeats))
                   for rank in range(world)]
        parts = zip(*(loader.epoch(1, first_batch) for loader in loaders), strict=True)
        return torch.cat([batch.images[:batch.num_valid] for ranks in parts for batch in ranks])

    whole = epoch(0)
    assert torch.equal(epoch(3), whole)
    assert torch.equal(epoch(2, world=3), whole)
    assert torch.equal(epoch(0, first_batch=1), whole[8:])
    if settings == SETTINGS:
        is_erased = (whole == 0).all(1).flatten(1).sum(1) > 15
        assert 4 <= int(is_erased.sum()) <= 19


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="auto_augment ra: is for images of 1 or 3 channels"):
        CropSampler(AugmentConfig(auto_augment="ra"), (8, 8), 4, seed=0, train=True)
    assert CropSampler(AugmentConfig(auto_augment="ra", random_erase=1.0), (8, 8), 4, seed=0, train=False).is_simple
