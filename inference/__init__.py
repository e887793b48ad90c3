"""The language-model policy with constrained decoding, and the frozen text encoder.

Suffixes of tensor names give their shapes: B rows of a batch, P prompt tokens, L tokens, T answer tokens, F answer
tokens outside of markers, V vocabulary, K columns, D width.
"""
