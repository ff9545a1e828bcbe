"""The rendezvous of the agents: torch's own, with a state that is JSON in the store and never a pickle.

torch keeps the state of a rendezvous pickled in its store, and unpickles what it finds there: whoever can
write to the store could run code. Here the store holds JSON; it is checked, and torch is given a pickle of
our own making. A single host's agent has no others to meet: its store is in memory, and nothing listens.
`elastic` uses the handler; what we use of torch here is in `tests/test_elastic_internals.py`.
"""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousStateError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    RendezvousBackend,
    _NodeDesc,
    _RendezvousState,
    create_handler,
)

from imgcls.distributed.addresses import split_endpoint
from imgcls.distributed.stores import open_tcp_store, within
from imgcls.launch.launch_spec import LaunchSpec

#: a longer state is not one of ours: a host takes some 200 bytes of it
MAX_STATE_BYTES = 1 << 22
#: what the store holds while there is no state yet: to read a key that is not there would wait for it
_NOTHING = "none"
#: numbers above this are no process ids and no ranks
_MAX_NUMBER = 1 << 31
_MAX_ADDRESS_LENGTH = 255
#: seconds between two requests that check whether the store still answers
_ASK_S = 3.0


def make_handler(spec: LaunchSpec) -> Any:
    """Return torch's rendezvous handler for the agents of this job.

    RendezvousConnectionError where the store cannot be served or does not answer.
    """
    timeout_s = max(int(spec.timeout_s), 1)
    run_id = spec.job or "none"
    store = _open_store(spec)
    parameters = RendezvousParameters(
        backend="imgcls", endpoint=spec.endpoint, run_id=run_id, min_nodes=spec.min_hosts,
        max_nodes=spec.max_hosts, local_addr=spec.address, join_timeout=timeout_s,
        # how long to wait for more hosts once the least number is there
        last_call_timeout=max(1, min(5, int(spec.timeout_s / 6))),
        keep_alive_interval=3, keep_alive_max_attempt=4)  # a host counts as lost after 12 s
    return create_handler(store, CheckedBackend(store, run_id), parameters)


def _open_store(spec: LaunchSpec) -> Any:
    if not spec.has_several_hosts:
        return dist.HashStore()  # no port is open, so no one else on the machine can write to it
    host, port = split_endpoint(spec.endpoint)
    try:
        return open_tcp_store(host, port, spec.timeout_s, serves=spec.is_rendezvous_host)
    except (OSError, RuntimeError, ValueError) as error:
        raise RendezvousConnectionError(f"no store at {spec.endpoint}") from error


def watch_store(spec: LaunchSpec, on_silence: Callable[[], None]) -> None:
    """Call `on_silence`, in a thread, once the host where all meet has not answered for `timeout_s`.

    torch waits for that host without a limit, in this process's main thread too.
    """
    if not spec.has_several_hosts or spec.is_rendezvous_host:
        return
    host, port = split_endpoint(spec.endpoint)

    def watch() -> None:
        try:
            # A connection of its own: the main thread's may be waiting in torch for minutes.
            store = open_tcp_store(host, port, spec.timeout_s)
            while True:
                time.sleep(_ASK_S)
                within(spec.timeout_s, lambda: store.add("imgcls/answers", 0))
        except TimeoutError:
            on_silence()
        except (OSError, RuntimeError):
            return  # closed, which the main thread sees as well

    threading.Thread(target=watch, daemon=True).start()  # must not keep an agent that is done


class CheckedBackend(RendezvousBackend):
    """Keeps the state of a rendezvous in a store, as JSON; a failure is one of torch's RendezvousErrors."""

    def __init__(self, store: Any, run_id: str) -> None:
        self._store = store
        self._key = f"imgcls/rendezvous/{run_id}"
        self._call("compare_set", self._key, "", _NOTHING)

    @property
    def name(self) -> str:
        """The name of this kind of store, for torch."""
        return "imgcls"

    def get_state(self) -> tuple[bytes, Any] | None:
        """Return the state, as torch wants it, and its text in the store; None where there is none yet."""
        text = self._call("get", self._key)
        return None if text == _NOTHING else (to_pickle(text), text)

    def set_state(self, state: bytes, token: Any = None) -> tuple[bytes, Any, bool] | None:
        """Write a state in place of the one that `token` came with; return (state, token, is it this one).

        Where another host was quicker that one's state is returned; None where the store has none.

        `state` comes from torch in this process, and nowhere else.
        """
        # Safe: these bytes were pickled a moment ago by torch in this process, and never were in the store.
        own = encode_state(pickle.loads(state))
        text = self._call("compare_set", self._key, token or _NOTHING, own)
        return None if text == _NOTHING else (to_pickle(text), text, text == own)

    def _call(self, operation: str, *arguments: str) -> str:
        try:
            content = getattr(self._store, operation)(*arguments)
        except (ValueError, RuntimeError, TimeoutError) as error:
            raise RendezvousConnectionError("the store does not answer") from error
        # Before it is parsed: whoever reaches the port could make every agent parse gigabytes.
        if len(content) > MAX_STATE_BYTES:
            raise RendezvousStateError(f"the store holds {len(content)} bytes where the state of the "
                                       "rendezvous was expected")
        # What is no UTF-8 is no JSON of ours either, and is refused where that is parsed.
        return content.decode("utf-8", errors="replace")


def to_pickle(text: str) -> bytes:
    """Return the state that `text` describes as torch reads it: a pickle that was made here."""
    return pickle.dumps(decode_state(text))


def encode_state(state: _RendezvousState) -> str:
    """Return the state as JSON, the same text for the same state."""
    deadline = state.deadline.isoformat() if state.deadline else None
    return json.dumps({
        "round": state.round, "complete": state.complete, "deadline": deadline, "closed": state.closed,
        "participants": [[*_node_fields(node), rank] for node, rank in sorted(state.participants.items())],
        "wait_list": [_node_fields(node) for node in sorted(state.wait_list)],
        "redundancy_list": [_node_fields(node) for node in sorted(state.redundancy_list)],
        "last_heartbeats": [[*_node_fields(node), when.isoformat()]
                            for node, when in sorted(state.last_heartbeats.items())]})


def decode_state(text: str) -> _RendezvousState:
    """Return the state that `encode_state` wrote; RendezvousStateError for anything else.

    The text came from the network. Every value is made here of checked numbers and short texts.
    """
    try:
        fields = json.loads(text)
        state = _RendezvousState()
        state.round = _number(fields["round"])
        state.complete, state.closed = _flag(fields["complete"]), _flag(fields["closed"])
        state.deadline = None if fields["deadline"] is None else _moment(fields["deadline"])
        state.participants = {_node(*node): _number(rank) for *node, rank in fields["participants"]}
        state.wait_list = {_node(*node) for node in fields["wait_list"]}
        state.redundancy_list = {_node(*node) for node in fields["redundancy_list"]}
        state.last_heartbeats = {_node(*node): _moment(when) for *node, when in fields["last_heartbeats"]}
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise RendezvousStateError("the state of the rendezvous is damaged, or none of imgcls: does another "
                                   "program use this address?") from error
    return state


def _node_fields(node: _NodeDesc) -> list[Any]:
    return [node.addr, node.pid, node.local_id]


def _node(address: Any, process: Any, number: Any) -> _NodeDesc:
    # Addresses are shown in messages: control characters would write over the terminal of their reader.
    if not isinstance(address, str) or len(address) > _MAX_ADDRESS_LENGTH or not address.isprintable():
        raise ValueError(address)
    return _NodeDesc(address, _number(process), _number(number))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:  # True is an int for isinstance
        raise ValueError(value)
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    # torch compares with the time in UTC, which a time without a zone cannot be compared with
    if moment.tzinfo is None:
        raise ValueError(value)
    return moment.astimezone(timezone.utc)
