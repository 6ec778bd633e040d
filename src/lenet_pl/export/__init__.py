"""A trained network as ONNX, torch.export or a web page."""
