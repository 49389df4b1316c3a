"""Augmentation on the device: `(key, image, *, options) -> image`, one float32 image each."""
