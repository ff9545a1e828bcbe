"""Small sets of pictures for benchmarks/finetune.py, as folders of links.

    python benchmarks/finetune_sets.py CIFAR10 SAMPLES OUT

CIFAR10 holds train/ and test/ with a folder of pictures for each of its classes; SAMPLES are ImageNet
photographs called <wnid>_<name>.JPEG, one for each of some classes, which make sets of groups of classes. OUT
gets a folder for each set, with train/ and val/, and two to train on first (`six-a`, `six-b`): six classes
of CIFAR-10 each, none of which is among the four of `cifar-a` or `cifar-b`.

`places` and `cifar-b` are for checking: settings were chosen on the others.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

#: group -> ranges of wnids, first and last; WordNet's numbers go by the order of its files of meanings
ANIMALS = {
    "dogs": [("n02085782", "n02113799")],
    "birds": [("n01514668", "n01614925"), ("n01795545", "n01860187"), ("n02002556", "n02056570")],
    "mammals": [("n01872401", "n01882714"), ("n02066245", "n02077923"), ("n02114548", "n02134418"),
                ("n02325366", "n02509815")],
    "reptiles": [("n01629819", "n01755581")],
    "sea": [("n01440764", "n01496331"), ("n01910747", "n01986214"), ("n02317335", "n02317335"),
            ("n02526121", "n02655020")],
}
INSECTS = [("n01770081", "n01775062"), ("n02165105", "n02281406")]
#: group -> names
THINGS = {
    "devices": "cash_machine cassette_player CD_player cellular_telephone desktop_computer digital_clock "
               "hand-held_computer hard_disc iPod laptop loudspeaker microphone modem odometer pay-phone "
               "Polaroid_camera printer projector slot space_bar screen magnetic_compass refrigerator stove "
               "washer electric_fan espresso_maker wall_clock",
    "clothes": "academic_gown bikini bonnet bow_tie bulletproof_vest chain_mail cowboy_hat feather_boa "
               "football_helmet gasmask jersey knee_pad lab_coat Loafer military_uniform miniskirt "
               "mortarboard pajama pickelhaube poncho running_shoe sarong sunglasses swimming_trunks "
               "vestment holster",
    "tools": "ashcan barrel beer_bottle coffeepot goblet measuring_cup pill_bottle pitcher pop_bottle "
             "wine_bottle Petri_dish thimble bathtub mailbox hair_spray broom corkscrew hammer power_drill "
             "shovel binoculars syringe nail hook safety_pin torch wooden_spoon swab scabbard whistle "
             "combination_lock padlock",
}
PLACES = {
    "vehicles": "airship ambulance balloon bobsled canoe container_ship dogsled electric_locomotive "
                "fire_engine freight_car golfcart harvester jinrikisha lifeboat limousine moped "
                "motor_scooter moving_van oxcart passenger_car pickup plow recreational_vehicle schooner "
                "snowmobile space_shuttle sports_car steam_locomotive tank trailer_truck tricycle "
                "unicycle warplane missile",
    "buildings": "apiary bakery barn beacon bell_cote breakwater butcher_shop church cliff_dwelling dam "
                 "drilling_platform fountain greenhouse grocery_store mobile_home obelisk planetarium "
                 "restaurant stone_wall stupa tobacco_shop toyshop water_tower worm_fence yurt flagpole "
                 "mountain_tent maypole solar_dish radio_telescope",
}
FOOD = [("n07584110", "n07920052")]
#: everything that lives, and everything that was made
ALIVE, MADE = [("n01440764", "n02655020")], [("n02669723", "n04613696")]
#: classes of CIFAR-10 to fine-tune on; the other six are for the training before
CIFAR = {"a": ("bird", "dog", "horse", "ship"), "b": ("airplane", "automobile", "cat", "frog")}
#: part of a group that is learned from; pictures of CIFAR-10 for learning and for validation, of each class
TRAIN_SHARE, CIFAR_TRAIN, CIFAR_VAL = 0.6, 60, 150


def main() -> int:
    """Write all sets."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path, help="folder of CIFAR-10's pictures: train/ and test/")
    parser.add_argument("samples", type=Path, help="folder of ImageNet's photographs")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    photos = sorted(args.samples.glob("n*.JPEG"))
    groups: dict[str, dict[str, list[Path]]] = {
        "animals": {name: between(photos, ranges) for name, ranges in ANIMALS.items()},
        "things": {name: named(photos, words) for name, words in THINGS.items()},
        "places": {name: named(photos, words) for name, words in PLACES.items()} | {
            "food": between(photos, FOOD), "insects": between(photos, INSECTS)},
        "alive": {"animal": between(photos, ALIVE), "thing": between(photos, MADE)}}
    for set_name, classes in groups.items():
        write_split(args.out / set_name, classes)
    for letter, classes in CIFAR.items():
        write_cifar(args.out / f"cifar-{letter}", args.cifar, classes)
        write_rest(args.out / f"six-{letter}", args.cifar, classes)
    return 0


def between(photos: Iterable[Path], ranges: Iterable[tuple[str, str]]) -> list[Path]:
    """Return the photographs of the classes in these ranges of wnids, both ends included."""
    return [photo for photo in photos if any(first <= photo.name[:9] <= last for first, last in ranges)]


def named(photos: Iterable[Path], words: str) -> list[Path]:
    """Return the photographs of the classes of these names that there are."""
    return [photo for photo in photos if photo.stem.partition("_")[2] in words.split()]


def write_split(folder: Path, classes: Mapping[str, list[Path]]) -> None:
    """Link some photographs of each class for learning and the rest for validation."""
    for name, photos in classes.items():
        # By the name of set and class: a set stays as it is when another one is added.
        drawn = random.Random(f"{folder.name} {name}").sample(photos, len(photos))
        num_train = round(TRAIN_SHARE * len(drawn))
        link(drawn[:num_train], folder / "train" / name)
        link(drawn[num_train:], folder / "val" / name)


def write_cifar(folder: Path, cifar: Path, classes: Iterable[str]) -> None:
    """Link some pictures of these classes."""
    for name in classes:
        for split, source, count in (("train", "train", CIFAR_TRAIN), ("val", "test", CIFAR_VAL)):
            pictures = sorted((cifar / source / name).iterdir())
            link(random.Random(f"{folder.name} {name} {split}").sample(pictures, count),
                 folder / split / name)


def write_rest(folder: Path, cifar: Path, classes: Iterable[str]) -> None:
    """Link all pictures of the classes that are not these."""
    for split, source in (("train", "train"), ("val", "test")):
        for pictures in sorted((cifar / source).iterdir()):
            # A network must not have seen what it is fine-tuned on.
            if pictures.name not in classes:
                (folder / split).mkdir(parents=True, exist_ok=True)
                (folder / split / pictures.name).symlink_to(pictures.resolve())


def link(files: Iterable[Path], folder: Path) -> None:
    """Make a folder of links to these files."""
    folder.mkdir(parents=True)
    for file in files:
        # absolute: the sets may be moved, the pictures stay
        (folder / file.name).symlink_to(file.resolve())


if __name__ == "__main__":
    sys.exit(main())
