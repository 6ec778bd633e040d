"""Export of trained networks: ONNX, torch.export and a web page."""
