"""Parameter sharing: several names, one tensor, stored once.

`tied.TiedEmbeddings` decides what is shared; `plan` carries a decision out on a model and on its stored state.
"""
