"""The generic U-Net and its weights on disk."""
