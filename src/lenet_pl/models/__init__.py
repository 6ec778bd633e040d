"""Networks: plain ``nn.Module``s that take float images and return logits."""
