"""Serve a network on this machine: a page to drop a photograph on, and an address that answers in JSON."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imgcls.cli._run import loading_torch, run_main
from imgcls.config import resolve as configuration
from imgcls.config.flags import flag
from imgcls.config.sections import PREPROCESSING, InferenceConfig
from imgcls.config.sections.bounds import MAX_SIDE
from imgcls.errors import RunError, UsageError, reason, spell_settings, tell, verbatim

NAME = "imgcls-serve"
EXAMPLES = """examples:
  imgcls-serve --model model/pets                    a page at http://127.0.0.1:8000/
  imgcls-serve --model model/pets --port 0           at a port that is free
  curl --data-binary @cat.jpg http://127.0.0.1:8000/predict      the same for programs, in JSON
  imgcls-serve --model torchvision:resnet50 --host 0.0.0.0       for every host that can reach this one
"""
#: the flags of training that make sense here, beside those of `ServeConfig`
USED = ("dataset", "gpus", "dtype", "num_threads")
#: the settings that -h shows
COMMON = ("model", "top", "crops", "flip", "host", "port", "gpus", "dtype")
#: connections at a time; requests on more are refused at once
_MAX_CONNECTIONS = 256


@dataclass(frozen=True)
class ServeConfig(InferenceConfig):
    __doc__ = InferenceConfig.__doc__

    top: int = flag(5, "classes to answer with", metavar="K", minimum=1, maximum=10**7, aliases=("--top-k",))
    crops: int = flag(1, "views of which the mean is taken: the centre, with the corners, with all of them "
                      "mirrored", choices=(1, 5, 10), minimum=1, maximum=10)
    flip: bool = flag(False, "take the mean of each view and its mirror image", takes="none")
    shift: int = flag(0, "also average views shifted by N pixels up left and down right, with half the "
                      "weight; with --flip and 1: the six views of airbench's paper", metavar="PIXELS",
                      minimum=0, maximum=MAX_SIDE)
    host: str = flag("127.0.0.1", "address to listen on; the default is reached from this machine only",
                     metavar="ADDRESS")
    port: int = flag(8000, "port to listen on; 0 for any that is free", metavar="N", minimum=0, maximum=65535)
    max_mb: int = flag(20, "the largest image that is taken, in 10^6 bytes", metavar="N", minimum=1,
                       maximum=1000)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until it is interrupted; the address goes to stdout, everything else to stderr."""
    return run_main(_start, argv, NAME, ServeConfig)


def _start(argv: Sequence[str]) -> int:
    config = configuration.parse(argv, prog=NAME, examples=EXAMPLES, own=ServeConfig, used=USED,
                                 common=COMMON)
    own: ServeConfig = config.own
    if not own.model:
        raise UsageError("--model is missing: give the prefix of a checkpoint, such as --model model/mnist")
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f"needs {' and '.join(missing)}: pip install 'imgcls[serve]'")
    # before the network is loaded: a port that is taken is reported at once
    with _listen(own.host, own.port) as listener:
        with loading_torch():
            from imgcls.distributed.topology import make_worker
            from imgcls.inference.predictor import Predictor
            from imgcls.inference.server import is_loopback, make_app

        given = {name: config.values()[name] for name in (*PREPROCESSING, "dataset")
                 if config.is_explicit(name)}
        predictor = Predictor(own.model, own.load_epoch, top=own.top, synset=own.synset, crops=own.crops,
                              flip=own.flip, shift=own.shift, device=str(make_worker(config.device).device),
                              dtype=config.device.dtype, **given)
        for note in predictor.notes:
            tell(spell_settings(note, config.spelling))
        is_private = is_loopback(listener.getsockname()[0])  # of the socket: a name may mean any address
        app = make_app(predictor, is_loopback=is_private, max_bytes=own.max_mb * 10**6)
        if not is_private:
            tell(f"note: listening on {own.host}: every host that reaches this machine can use it")
        # Printed once the socket listens: a script that waits for this line can send requests at once.
        tell(_address(listener), sys.stdout)
        _serve(app, listener)
    return 0


def _serve(app: Any, listener: socket.socket) -> None:
    """Answer requests until a signal ends it."""
    import uvicorn

    from imgcls.inference.server_protocol import BoundedProtocol

    # no log of requests, which would hold people's addresses, nor of errors, which the application reports
    server = uvicorn.Server(uvicorn.Config(
        app, http=BoundedProtocol, log_level="critical", access_log=False,
        limit_concurrency=_MAX_CONNECTIONS, timeout_keep_alive=5, timeout_graceful_shutdown=5,
        server_header=False, lifespan="off", ws="none", proxy_headers=False))
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; UsageError for an address that is none, RunError for a port in use."""
    try:
        # an empty name would be every address of this machine, which no one should get by mistake
        infos = socket.getaddrinfo(host or "127.0.0.1", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"`host` {verbatim(host)}: is no address of this machine") from None
    family, kind, protocol, _, address = infos[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Else the port of a server that has just ended is taken for a minute (TIME_WAIT).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise RunError(f"cannot listen on {verbatim(host)} port {port}: {reason(error)}") from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
