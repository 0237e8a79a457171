"""One fold: proved on its device, trained, resumed; why it has failed."""
