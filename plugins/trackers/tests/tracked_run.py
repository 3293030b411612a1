"""A run of a second, for the tests of what follows it."""

CONFIG = """\
name: tiny
data:
  corpus: {use: text, paths: ["CORPUS"], pattern: "*.py"}
  tokenizer: {vocab_size: 400}
  sequence_length: 32
  heldout_share: 0.3
model:
  use: glm-moe
  router: {use: sigmoid-topk, k: 2}
  hidden_size: 32
  num_hidden_layers: 2
  num_attention_heads: 4
  num_key_value_heads: 2
  head_dim: 8
  intermediate_size: 48
  moe_intermediate_size: 16
  n_routed_experts: 4
train: {tokens: 1024, batch_size: 4, checkpoint_every: 2, trackers: [jsonl, LIBRARY]}
"""
