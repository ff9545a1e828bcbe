"""Describe an unexpected error in one line, and keep its traceback in a file that only the user can read.

Called where a process or a thread ends: by `cli._run` for the commands, and by the processes that are started
without a command of their own. The line is a `RunError`. Lack of memory, a library that is not installed and
a failing disk have lines of their own; everything else is called a bug of ours, with a request to report it.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Mapping

from imgcls.errors import ImgclsError, RunError, first_line

#: environment variable that has tracebacks printed at once, for developers
VARIABLE = "IMGCLS_TRACEBACK"
#: what the libraries say where no memory is left and the exception's class does not show it
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "insufficient memory")
#: what torch's own batch normalisation says of a batch of one image whose feature map is a single pixel
_SINGLE_VALUE = "expected more than 1 value per channel"
#: what pip calls a library that has another name
_PACKAGES = {"cv2": "opencv-python-headless", "yaml": "PyYAML"}
#: settings that decide how much memory a network takes, for the commands that have one
_NEEDS_LESS = "; a smaller `batch_size`, `image_shape` or `network` needs less"


def as_told(error: BaseException, environment: Mapping[str, str] = os.environ) -> ImgclsError:
    """Return the error to show to a user for an unexpected exception; its traceback is kept or printed.

    An ImgclsError is returned as it is. `environment` is where IMGCLS_TRACEBACK is looked up.
    """
    if isinstance(error, ImgclsError):
        return error
    is_shown = environment.get(VARIABLE, "").strip().lower() not in ("", "0", "no", "off", "false")
    text = _describe(error)
    if is_shown:
        traceback.print_exception(error)
    if is_out_of_memory(error):
        needs_less = _NEEDS_LESS if "imgcls.networks" in sys.modules else ""
        return RunError(f"not enough memory ({text}){needs_less}")
    if isinstance(error, ModuleNotFoundError) and _library_of(error) not in ("", "imgcls"):
        library = _library_of(error)
        return RunError(f"{library} is not installed for {sys.executable}: pip install "
                        f"{_PACKAGES.get(library, library)}, or call the Python of the environment that has "
                        "it")
    if isinstance(error, ValueError) and _SINGLE_VALUE in str(error).lower():
        return RunError("batch normalisation learns nothing from one image whose map is a single pixel: take "
                        "a `batch_size` that leaves no batch of one image over, or a larger `image_shape`")
    where = "the traceback is above" if is_shown else _keep(error)
    if isinstance(error, RecursionError):
        return RunError(f"what is to be read is nested too deeply ({text}); {where}")
    if isinstance(error, OSError):  # a disk or a network that fails is no fault of the program
        return RunError(f"{text}; {where}")
    return RunError(f"a bug in imgcls: {text}; {where}, please report it with the command and this line")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python, numpy, torch or OpenCV means that memory was lacking."""
    if isinstance(error, MemoryError):
        return True
    # torch and OpenCV have one class for all their errors; they are not imported to compare with it
    is_library = type(error).__name__ in ("RuntimeError", "OutOfMemoryError", "AcceleratorError", "error")
    return is_library and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def _library_of(error: ModuleNotFoundError) -> str:
    return (error.name or "").partition(".")[0]


def _describe(error: BaseException) -> str:
    """Return the class and the first line of an exception, an OSError's with its file."""
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror.lower()}"
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def _keep(error: BaseException) -> str:
    """Write the traceback to a file that only this user can read; return where it is, for a message.

    Where no file can be written it is printed: it must not be lost.
    """
    try:
        handle, path = tempfile.mkstemp(prefix="imgcls-traceback-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            print(f"command: {sys.argv}\nversions: {_versions()}\n", file=stream)
            traceback.print_exception(error, file=stream)
    except (OSError, ValueError):  # a full disk, no folder for such files, or a closed standard stream
        traceback.print_exception(error)
        return "the traceback is above"
    return f"the traceback is in {path}"


def _versions() -> str:
    """Return the versions that a report of a bug needs; of libraries only those that were loaded."""
    versions = {"python": platform.python_version(), "system": platform.platform()}
    for name in ("imgcls", "torch", "numpy", "cv2"):
        if (version := getattr(sys.modules.get(name), "__version__", None)) is not None:
            versions[name] = str(version)
    return ", ".join(f"{name} {version}" for name, version in versions.items())
