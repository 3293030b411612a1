"""Stages that clean a corpus, and the folder that holds what they decided."""
