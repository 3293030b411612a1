"""`*.penstock`: a trained model in one file, with its packed weights, config and tokenizer; imports no torch.

`docs/artifact.md` describes every byte. `formats` says what bytes a tensor of a format has, `header` what a header may
say, `reader` and `writer` do what they are called.
"""

from penstock.quant158.artifact.header import Identity
from penstock.quant158.artifact.reader import Artifact
from penstock.quant158.artifact.writer import Content, write_artifact

__all__ = ["Artifact", "Content", "Identity", "write_artifact"]
