"""`monitor` N: the size of every tensor, every N batches, as MXNet's Monitor prints it.

Size means the Euclidean norm divided by the root of the count: tensors of all shapes can be compared by it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from imgcls.layers import Layer


class Monitor:
    """Measures one training step: `begin` before it, `end` after the backward pass gives the lines."""

    def __init__(self, model: nn.Module, names: dict[str, str]) -> None:
        """`names` maps the keys of the model's state_dict to MXNet's parameter names."""
        self._model = model
        self._names = names
        self._outputs: list[tuple[str, Tensor]] = []
        self._hooks: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Collect every layer's output, and the gradient that reaches it, in the coming step."""
        self._outputs = []
        # Hooks for this one step only: at all other steps the monitor costs nothing.
        for path, module in self._model.named_modules():
            if isinstance(module, Layer):
                name = path.replace(".", "_")
                self._hooks.append(module.register_forward_hook(self._make_hook(f"{name}_output")).remove)

    def end(self, update: int) -> list[str]:
        """Return the lines of the step: outputs and their gradients in order, then parameters and theirs."""
        for remove in self._hooks:
            remove()
        self._hooks = []
        # MXNet's names: fc1_output and fc1_backward_output, fc1_weight and fc1_weight_grad
        tensors = list(self._outputs)
        for name, output in self._outputs:
            if output.grad is not None:
                layer, _, number = name.rpartition("_output")
                tensors.append((f"{layer}_backward_output{number}", output.grad))
        for key, parameter in self._model.named_parameters():
            name = self._names.get(key, key)
            tensors.append((name, parameter))
            if parameter.grad is not None:
                tensors.append((f"{name}_grad", parameter.grad))
        return [f"Batch: {update:7d} {name:30s} {_size(tensor):.8g}\t" for name, tensor in tensors]

    def _make_hook(self, name: str) -> Callable[[nn.Module, object, Tensor | tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            # MXNet numbers the outputs of an operator that has several
            named = ([(f"{name}{number}", tensor) for number, tensor in enumerate(output)]
                     if isinstance(output, tuple) else [(name, output)])
            for _, tensor in named:
                if tensor.requires_grad:
                    tensor.retain_grad()  # torch keeps the gradients of parameters only
            self._outputs += named
        return hook


def _size(tensor: Tensor) -> float:
    values = tensor.detach().float()
    return float(values.norm() / max(values.numel(), 1) ** 0.5)
