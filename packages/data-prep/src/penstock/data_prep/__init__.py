"""From text to tokens on disk: corpora, exact deduplication, byte-level BPE, token shards and their order.

Everything is imported from its module (`from penstock.data_prep.prepare import prepare`); this package imports nothing.
"""
