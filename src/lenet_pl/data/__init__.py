"""From files on disk to batches of pixels on the training device."""
