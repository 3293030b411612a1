"""Servers of other projects, as components of kind `server`, and how their processes are run.

`model` says what a path holds, `profiles` what a profile means, `environment` where a server is installed. A module a
server: `vllm`, `sglang`, `llama_cpp` and `transformers`. `running` starts a process and `guard` ends it, with all that
it started. Nothing here imports torch, and no server is imported: each is a process of an environment of its own.
"""
