"""Turning texts into vectors fast: tokenising, batching, attention, backends, output.

Everything here but the modules named after torch works without torch, transformers and sentence-transformers.
"""
