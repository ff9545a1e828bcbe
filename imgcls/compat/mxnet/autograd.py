"""`mx.autograd`: gradients of what is computed on arrays inside `with autograd.record():`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgcls.compat.mxnet import _tape
from imgcls.compat.mxnet._ndarray import NDArray
from imgcls.compat.mxnet._registration import missing


def is_recording() -> bool:
    """Return whether operators are recorded now, in this thread."""
    return _tape.state.is_recording


def is_training() -> bool:
    """Return whether dropout and batch normalisation now work as in training, in this thread."""
    return _tape.state.is_training


def set_recording(is_record: bool) -> bool:
    """Switch recording on or off; return the old value."""
    # as in MXNet: callers restore it with a second call
    before, _tape.state.is_recording = _tape.state.is_recording, bool(is_record)
    return before


def set_training(train_mode: bool) -> bool:
    """Switch between training and inference; return the old value."""
    before, _tape.state.is_training = _tape.state.is_training, bool(train_mode)
    return before


# None leaves a state as it is.
class _Scope:
    """Sets both states inside of a `with`, and restores the old ones."""

    def __init__(self, recording: bool | None, training: bool | None) -> None:
        self._wanted = recording, training
        # a stack: one scope object may be entered again inside of itself
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        # of this thread only: other threads, such as a loader's, do not begin to record
        state = _tape.state
        self._before.append((state.is_recording, state.is_training))
        recording, training = self._wanted
        if recording is not None:
            state.is_recording = recording
        if training is not None:
            state.is_training = training

    def __exit__(self, *exception: Any) -> None:
        _tape.state.is_recording, _tape.state.is_training = self._before.pop()


def record(train_mode: bool = True) -> _Scope:
    """Record what is computed inside of the `with`, as in training."""
    return _Scope(True, train_mode)


def pause(train_mode: bool = False) -> _Scope:
    """Record nothing inside of the `with`."""
    return _Scope(False, train_mode)


def train_mode() -> _Scope:
    """Compute as in training inside of the `with`; recording stays as it is."""
    return _Scope(None, True)


def predict_mode() -> _Scope:
    """Compute as in inference inside of the `with`; recording stays as it is."""
    return _Scope(None, False)


def mark_variables(variables: Any, gradients: Any, grad_reqs: str | Sequence[str] = "write") -> None:
    """Set the arrays to which the gradients of `variables` are written."""
    arrays, grads = _listed(variables), _listed(gradients)
    # one `grad_req` for all, or one for each
    requests = [grad_reqs] * len(arrays) if isinstance(grad_reqs, str) else grad_reqs
    for array, gradient, request in zip(arrays, grads, requests, strict=True):
        array._mark(gradient, request)


def backward(heads: Any, head_grads: Any = None, retain_graph: bool = False, train_mode: bool = True) -> None:
    """Compute the gradients of the heads, whose own gradients are 1 or `head_grads`."""
    _tape.backward(_listed(heads), None if head_grads is None else _listed(head_grads), retain_graph)


def grad(heads: Any, variables: Any, head_grads: Any = None, retain_graph: bool | None = None,
         create_graph: bool = False, train_mode: bool = True) -> list[NDArray]:
    """Return the gradients of the heads by these arrays; with `create_graph` they are recorded as well."""
    # A list also for a single array, as in MXNet 1.9.1.
    return _tape.gradients_of(_listed(heads), _listed(variables),
                              None if head_grads is None else _listed(head_grads),
                              create_graph if retain_graph is None else retain_graph, create_graph)


# torch calls it as one of its own functions, with arrays around the tensors.
class Function:
    """A user-defined function with its gradient: define `forward(*arrays)` and `backward(*gradients)`."""

    def __init__(self) -> None:
        self._saved: tuple[Any, ...] = ()

    def save_for_backward(self, *args: Any) -> None:
        """Keep arrays for `backward`."""
        self._saved = args

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The arrays that `save_for_backward` kept."""
        return self._saved

    def forward(self, *inputs: NDArray) -> Any:
        """Return the result; nothing inside is recorded."""
        raise NotImplementedError("a function of your own must say what it computes")

    def backward(self, *output_grads: NDArray) -> Any:
        """Return the gradient of each input from those of the results."""
        raise NotImplementedError("a function of your own must say its gradient")

    def __call__(self, *inputs: NDArray) -> Any:
        if not _tape.any_tracked(inputs):
            with pause(is_training()):
                return self.forward(*inputs)
        return self._recorded(inputs)

    def _recorded(self, inputs: Sequence[NDArray]) -> Any:
        import torch

        # the number in a list, so that `forward` below can set it; 0 stands for a single array
        # instead of a list
        function, num_results = self, [1]

        class Recorded(torch.autograd.Function):
            @staticmethod
            def forward(context: Any, *tensors: Any) -> Any:
                with pause(is_training()):
                    result = function.forward(*[_tape.wrap(tensor.detach(), None) for tensor in tensors])
                results = result if isinstance(result, (list, tuple)) else [result]
                num_results[0] = len(results) if isinstance(result, (list, tuple)) else 0
                # a copy: torch refuses a function that returns its own input, or memory that others
                # may change
                return tuple(torch.from_numpy(_tape.writable(array._data)).clone() for array in results)

            @staticmethod
            def backward(context: Any, *gradients: Any) -> Any:
                with pause():
                    found = function.backward(*[_tape.wrap(gradient, None) for gradient in gradients])
                return tuple(torch.from_numpy(_tape.writable(array._data)) for array in _listed(found))

        with torch.enable_grad():
            tensors: Any = Recorded.apply(*[_tape.tensor(array) for array in inputs])
        arrays = [_tape.wrap(tensor, inputs[0]._context) for tensor in tensors]
        return arrays if num_results[0] else arrays[0]


def get_symbol(x: NDArray) -> Any:
    """Raise an AttributeError: recorded graphs have no symbol here."""
    raise missing("mxnet.autograd", "get_symbol", ())


def _listed(arrays: Any) -> list[Any]:
    return [arrays] if isinstance(arrays, NDArray) else list(arrays)
