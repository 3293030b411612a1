"""Exports models in layouts that other software reads.

`huggingface.HuggingFaceExporter` writes what transformers loads; `weights` and `folders` are its parts:
tensors to verified safetensors shards, and a folder that is complete or absent.
"""
