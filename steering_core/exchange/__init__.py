"""Steering vectors in files of other tools, one module for each; ``formats`` knows them all.

Importing ``formats`` loads neither torch nor gguf.
"""
