"""A checkpoint as an ONNX graph: built from its tensors, checked by what will run it."""
