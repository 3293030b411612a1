"""Parameter sharing: several names, one tensor, stored once.

`tied.TiedEmbeddings` decides what is shared; `plan` applies the decision to a model and its stored state.
"""
