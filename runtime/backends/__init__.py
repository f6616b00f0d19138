"""Engines that compute logits: protocol.py says what is asked of them."""
