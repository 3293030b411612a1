"""Decoding an artifact without torch: whole tokens by the compiled library."""

from penstock.quant158.decoder.model import Decoder, NotDecodableError, Text, decodable

__all__ = ["Decoder", "NotDecodableError", "Text", "decodable"]
