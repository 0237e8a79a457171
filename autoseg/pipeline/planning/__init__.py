"""Check, fingerprint, plan, preprocessed cases; how fast a device computes a plan."""
