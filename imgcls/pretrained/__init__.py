"""Networks that someone trained before: found by name, downloaded, read, and given a new head.

`locate` says what a name means, `read` reads the files it means, `build` makes the network that was trained;
`transfer` replaces the head for fine-tuning. The commands' --model and --pretrained-model come here, and so
do `imgcls.load_model` and `imgcls.Predictor`. Nothing in this room trains.
"""

# Without `transfer`, `freezing` and `finetuning`, which only a fine-tuning run needs.
from imgcls.pretrained.locating import locate
from imgcls.pretrained.reading import build, read
from imgcls.pretrained.reference import Pretrained, PretrainedRef

__all__ = ["Pretrained", "PretrainedRef", "build", "locate", "read"]
