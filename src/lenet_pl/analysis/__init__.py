"""From logits to numbers and pictures."""
