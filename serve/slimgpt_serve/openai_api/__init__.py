"""An OpenAI-compatible server of ONNX exports: small, in one process, with continuous batching."""
