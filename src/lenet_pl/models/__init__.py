"""Networks: plain ``nn.Module`` classes that map float images to logits."""
