"""How good a language model is, and how fast: bits per byte and perplexity with the convention in the metric's name,
n-gram and compressor baselines on the same bytes, latency, throughput and memory.

Import from the submodules: `penstock.eval_suite.likelihood`, `metrics`, `baselines`, `tasks`, `performance`.
"""
