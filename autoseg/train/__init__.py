"""One network per configuration and fold."""
