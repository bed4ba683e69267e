"""Translation: parallel text, and small encoder-decoders trained on it from random weights."""
