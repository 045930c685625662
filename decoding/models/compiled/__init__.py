"""Passes compiled by ONNX Runtime; imported where both it and `onnx` are installed."""
