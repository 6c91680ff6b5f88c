"""Running an ONNX export: checks of its files, the session, the KV buffers, sampling and text.

No torch, and onnxruntime in one module alone (`session.py`), so that it starts in a moment.
"""
