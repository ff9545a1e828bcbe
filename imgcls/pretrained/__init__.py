"""Pretrained networks: found by name, downloaded, read, and given a new head.

`locate` finds the files of a name, `read` reads them, `build` makes the network that was trained; `transfer`
replaces the head for fine-tuning. The commands' --model and --pretrained-model, `imgcls.load_model` and
`imgcls.Predictor` use them. Nothing in this package trains.
"""

# Without `transfer`, `freezing` and `finetuning`, which only a fine-tuning run needs.
from imgcls.pretrained.locating import locate
from imgcls.pretrained.reading import build, read
from imgcls.pretrained.reference import Pretrained, PretrainedRef

__all__ = ["Pretrained", "PretrainedRef", "build", "locate", "read"]
