"""Rules that turn a fingerprint and a budget into a plan: arithmetic, no files of images, no torch."""
