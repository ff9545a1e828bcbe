"""Classify pictures, with a checkpoint's own class names and preprocessing."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from imgcls.cli._predictions import FORMATS, Text
from imgcls.cli._run import loading_torch, run_main
from imgcls.config import resolve as configuration
from imgcls.config.flags import flag, positional
from imgcls.config.resolve import Config
from imgcls.config.sections import PREPROCESSING, InferenceConfig
from imgcls.config.sections.bounds import MAX_SIDE
from imgcls.errors import ImgclsError, RunError, UsageError, reason, spell_settings, tell, verbatim
from imgcls.report.lines import bounded_lines
from imgcls.storage.atomic import atomic_write, check_outputs, check_writable
from imgcls.storage.paths import to_path

if TYPE_CHECKING:
    import numpy as np

    from imgcls.inference.images import Image
    from imgcls.inference.predictor import Prediction, Predictor

NAME = "imgcls-predict"
EXAMPLES = """examples:
  imgcls-predict --model model/mnist seven.png            the five likeliest classes
  imgcls-predict --model model/mnist --top 1 *.png        one line a picture
  imgcls-predict --model model/mnist --load-epoch 8 a.jpg  an older epoch
  imgcls-predict --model model/pets --format csv -o pets.csv photos/   a folder, and those inside it
  find . -name '*.jpg' | imgcls-predict --model model/pets --top 1 -   a list on stdin
  imgcls-predict --model model/pets --explain looked/ photos/          and where the network looked
  imgcls-predict --model model/pets --layer flatten0_output photos/    a layer's output, as features.npz
  imgcls-predict --model torchvision:resnet50 cat.jpg     a network of torchvision's, ImageNet's names
  imgcls-predict --model old/resnet --rgb-mean 123.68,116.779,103.939 --synset synset.txt cat.jpg
                                                          an MXNet checkpoint, which says nothing of these
"""
#: the flags of training that make sense here, beside those of `PredictConfig`
USED = ("dataset", "data_nthreads", "gpus", "dtype", "num_threads")
#: the settings that -h shows
COMMON = ("model", "top", "format", "output", "explain", "crops", "batch_size", "gpus", "dtype")
#: what --layer writes where no file is named
FEATURES = "features.npz"
#: up to so many images are counted first, so that the bar can show the time left
_MAX_COUNTED = 100_000


@dataclass(frozen=True)
class PredictConfig(InferenceConfig):
    __doc__ = InferenceConfig.__doc__

    images: tuple[str, ...] = positional(
        "pictures: files, folders, patterns, URLs, .rec files; - is a list of them on stdin",
        metavar="IMAGE", default=(), takes="several")
    top: int = flag(5, "classes to show", metavar="K", minimum=1, maximum=10**7, aliases=("--top-k",))
    format: str = flag("text", "text and table to read, the others for programs; lst is what imgcls-im2rec "
                       "packs, with the likeliest class as label", choices=tuple(FORMATS))
    crops: int = flag(1, "views of which the mean is taken: the centre, with the corners, with all of them "
                      "mirrored", choices=(1, 5, 10), minimum=1, maximum=10)
    flip: bool = flag(False, "take the mean of each view and its mirror image", takes="none")
    shift: int = flag(0, "also average views shifted by N pixels up left and down right, with half the "
                      "weight; with --flip and 1: the six views of airbench's paper", metavar="PIXELS",
                      minimum=0, maximum=MAX_SIDE)
    layer: str = flag("", "write the output of this layer, by MXNet's name (flatten0_output), to an .npz "
                      "file with the arrays features and images", metavar="NAME")
    explain: str = flag("", "draw where the network looked (Grad-CAM), a picture for each image in this "
                        "folder", metavar="DIR")
    output: str = flag("", f"file to write; - is stdout (of --layer: {FEATURES})", metavar="FILE", short="-o")
    batch_size: int = flag(32, "batch size of the network", metavar="N", minimum=1,
                           maximum=65536)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    It prints one line a class, `name (score = 0.98765)`, as people know it from classify_image.py; what was
    done to the pictures goes to stderr.
    """
    return run_main(_start, argv, NAME, PredictConfig)


def _start(argv: Sequence[str]) -> int:
    config = configuration.parse(argv, prog=NAME, examples=EXAMPLES, own=PredictConfig, used=USED,
                                 common=COMMON)
    own: PredictConfig = config.own
    missing = [name for name, value in (("--model", own.model), ("IMAGE", own.images)) if not value]
    if missing:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}")
    if own.layer and (config.is_explicit("format") or own.output == "-"):
        raise UsageError("`layer`: writes an .npz file: leave `format` out, and name a file as `output`")
    _check_output(own)
    # after the flags: --help and a mistake in a flag answer without torch
    with loading_torch():
        from imgcls.distributed.topology import make_worker
        from imgcls.inference.predictor import Predictor

    # Once for all pictures: loading the network takes far longer than one of them.
    given = {name: config.values()[name] for name in (*PREPROCESSING, "dataset") if config.is_explicit(name)}
    predictor = Predictor(own.model, own.load_epoch, top=own.top, synset=own.synset, crops=own.crops,
                          flip=own.flip, shift=own.shift, device=str(make_worker(config.device).device),
                          dtype=config.device.dtype, **given)
    run = _Run(config, predictor)
    with _writer(own) as write:
        run.predict(write)
    return run.end()


def _check_output(own: PredictConfig) -> None:
    """Raise the error of an output that cannot be written: after hours of predictions it would lose them."""
    output = own.output or (FEATURES if own.layer else "-")
    if output != "-":
        # a word may be a pattern or a URL, which no output replaces
        check_outputs([output], [word for word in own.images if os.path.isfile(word)])
        check_writable(output, "`output`")


class _Run:
    """The predictions of one command: shown, written, explained, and what could not be read counted."""

    def __init__(self, config: Config, predictor: Predictor) -> None:
        self._config = config
        self._own: PredictConfig = config.own
        self._predictor = predictor
        self._num_told = 0
        self._num_images = 0
        self._num_failed = 0
        self._explain = None
        if self._own.explain:
            from imgcls.inference.explanation_writer import ExplanationWriter

            self._explain = ExplanationWriter(predictor, self._own.explain)

    def predict(self, write: Callable[[Prediction], None]) -> None:
        """Predict all images, in order, and pass each prediction to `write`."""
        from imgcls.inference.images import find_images

        self._tell_notes()
        images = find_images(self._own.images, _stdin())
        threads = self._config.data.data_nthreads
        with _progress(images) as (images, bar):
            for prediction in self._predictor.predict(images, batch_size=self._own.batch_size,
                                                      threads=threads, layer=self._own.layer):
                self._num_images += 1
                with _above(bar):
                    if isinstance(prediction, ImgclsError):
                        self._fail(prediction)
                    else:
                        self._take(prediction, write)
                bar.update()

    def end(self) -> int:
        """Print how many images could not be read; return the exit status, 1 if there are any."""
        if self._num_failed and self._num_images > 1:
            tell(f"{NAME}: {self._num_failed} of {self._num_images} images could not be read")
        return 1 if self._num_failed else 0

    def _take(self, prediction: Prediction, write: Callable[[Prediction], None]) -> None:
        self._tell_notes()
        if self._explain:
            self._explain(prediction)
        # the line of one image may fail: a .lst cannot hold every name
        try:
            write(prediction)
        except ImgclsError as error:
            self._fail(error)

    def _fail(self, error: ImgclsError) -> None:
        # A bad picture among many must not end the command; the exit status shows it.
        self._num_failed += 1
        tell(f"{NAME}: error: {error.spelled(self._config.spelling)}")

    def _tell_notes(self) -> None:
        """Print new notes on stderr with settings as flags."""
        for note in self._predictor.notes[self._num_told:]:
            tell(spell_settings(note, self._config.spelling))
        self._num_told = len(self._predictor.notes)


def _stdin() -> Iterable[bytes]:
    """Yield the lines of stdin, which is read only where they are needed."""
    if sys.stdin is not None:  # it was closed: nothing is listed
        yield from bounded_lines(sys.stdin.buffer)


@contextlib.contextmanager
def _writer(own: PredictConfig) -> Iterator[Callable[[Prediction], None]]:
    """Yield a function that writes one prediction; at the end write what is left."""
    if own.layer:
        with _features_writer(own.output or FEATURES, own.layer) as write:
            yield write
        return
    # Decided before the first image: names would otherwise begin to appear in the middle of the output.
    several = len(own.images) > 1 or not all(map(_is_one_image, own.images))
    lines = FORMATS[own.format](several, own.top)
    if own.output and own.output != "-":
        with _file_writer(own.output, lines) as write:
            yield write
        return
    yield lambda prediction: _print(lines.add(prediction))
    _print(lines.end())


@contextlib.contextmanager
def _file_writer(path: str, lines: Text) -> Iterator[Callable[[Prediction], None]]:
    """Yield a function that writes a prediction into the file, which appears when all are in it.

    After an error or Ctrl-C those made so far, perhaps of hours, are in PATH.partial.
    """
    count = 0
    partial = f"{to_path(path, '`output`')}.partial"
    try:
        with atomic_write(path, partial=partial) as stream:
            def write(prediction: Prediction) -> None:
                nonlocal count
                _write_bytes(stream, lines.add(prediction))
                count += 1

            try:
                yield write
            except BaseException:
                if count:  # rows of a table that wait for others
                    _write_bytes(stream, lines.end())
                raise
            _write_bytes(stream, lines.end())
    except BaseException:
        if count and os.path.isfile(partial):
            tell(f"{NAME}: {count:,} prediction{'s' * (count != 1)} made so far: {partial}")
        raise


def _is_one_image(word: str) -> bool:
    """Return whether an argument can mean one image only; its name is then not printed with its classes."""
    import glob
    is_named = os.path.lexists(word) or word.startswith(("http://", "https://"))
    if os.path.isdir(word) or word.lower().endswith(".rec"):
        return False
    return is_named or (word != "-" and not glob.has_magic(word))


def _write_bytes(stream: Any, text: str) -> None:
    # a name that is no UTF-8 is written as the bytes it has on the disk
    stream.write(text.encode("utf-8", "surrogateescape"))


def _print(text: str) -> None:
    if not text:
        return
    sys.stdout.write(text)
    sys.stdout.flush()  # a program that reads our output gets each image at once


@contextlib.contextmanager
def _features_writer(path: str, layer: str) -> Iterator[Callable[[Prediction], None]]:
    """Yield a function that keeps a prediction's features on the disk; at the end write one .npz with all.

    Its arrays: features float32 (N, ...), images (N,) and layer.
    """
    import numpy as np

    names: list[str] = []
    shapes: list[tuple[int, ...]] = []  # all the same: images come in one shape
    with _kept_features() as kept:
        def take(prediction: Prediction) -> None:
            assert prediction.features is not None
            shapes[:] = [prediction.features.shape]
            # On the disk: a million images of 2048 features are 8 GB.
            kept.write(np.ascontiguousarray(prediction.features, np.float32).tobytes())
            names.append(prediction.image)

        yield take
        kept.flush()
        # read from the disk while the .npz is written: there may be more features than memory holds
        features: np.ndarray = np.zeros((0,), np.float32)
        if names:
            features = np.memmap(kept, np.float32, "r", shape=(len(names), *shapes[0]))
        with atomic_write(path) as stream:
            np.savez(stream, features=features, images=np.array(names, str), layer=np.array(layer))
    tell(path, sys.stdout)


@contextlib.contextmanager
def _kept_features() -> Iterator[Any]:
    """Yield a temporary file without a name; RunError where it cannot be written: a full disk."""
    try:
        with tempfile.TemporaryFile(prefix="imgcls-features-") as kept:
            yield kept
    except BrokenPipeError:
        raise  # the reader of our output has exited, which is no error of this file
    except OSError as error:
        raise RunError(f"cannot keep the features of `layer` in {verbatim(tempfile.gettempdir())}: "
                       f"{reason(error)}") from error


@contextlib.contextmanager
def _progress(images: Iterator[Image | ImgclsError]) -> Iterator[tuple[Iterator[Image | ImgclsError], Any]]:
    """Show a bar on a terminal where there are several images; yield the images and the bar."""
    from tqdm import tqdm

    counted: list[Image | ImgclsError] = []
    total = None
    if sys.stderr.isatty():
        # known before the first prediction; of more than these a count without an end is shown
        counted = list(islice(images, _MAX_COUNTED))
        total = len(counted) if len(counted) < _MAX_COUNTED else None
    with tqdm(total=total, unit="img", disable=True if total == 1 else None, leave=False,
              file=sys.stderr) as bar:
        yield chain(counted, images), bar


def _above(bar: Any) -> contextlib.AbstractContextManager[object]:
    """Return a context in which lines are printed above a bar that is shown."""
    return contextlib.nullcontext() if bar.disable else bar.external_write_mode(file=sys.stderr)
