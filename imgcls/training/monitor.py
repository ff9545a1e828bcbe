"""`--monitor N`: the size of every tensor, every N batches, as MXNet's Monitor prints it.

Size means the Euclidean norm over the root of the count, so that tensors of all shapes compare.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from imgcls.layers import Layer


class Monitor:
    """Watches one training step: `begin` before it, `end` after the backward pass gives the lines."""

    def __init__(self, model: nn.Module, names: dict[str, str]) -> None:
        """`names` maps the keys of the model's state_dict to MXNet's parameter names."""
        self._model, self._names = model, names
        self._outputs: list[tuple[str, Tensor]] = []
        self._hooks: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Take down every layer's output, and the gradient that reaches it, in the coming step."""
        self._outputs = []
        for path, module in self._model.named_modules():
            if isinstance(module, Layer):
                name = path.replace(".", "_")
                self._hooks.append(module.register_forward_hook(self._watch(f"{name}_output")).remove)

    def end(self, step: int) -> list[str]:
        """The lines of the step: outputs and their gradients in order, then parameters and theirs."""
        for remove in self._hooks:
            remove()
        self._hooks = []
        found = list(self._outputs)
        for name, output in self._outputs:
            if output.grad is not None:
                found.append((name.removesuffix("_output") + "_backward_output", output.grad))
        for key, parameter in self._model.named_parameters():
            found.append((self._names.get(key, key), parameter))
            if parameter.grad is not None:
                found.append((self._names.get(key, key) + "_grad", parameter.grad))
        return [f"Batch: {step:7d} {name:30s} {_size(tensor):.8g}\t" for name, tensor in found]

    def _watch(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if output.requires_grad:
                output.retain_grad()
            self._outputs.append((name, output))
        return hook


def _size(tensor: Tensor) -> float:
    values = tensor.detach().float()
    return float(values.norm() / max(values.numel(), 1) ** 0.5)
