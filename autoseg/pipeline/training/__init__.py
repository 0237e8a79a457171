"""One fold: proved on its device, trained, resumed; how far the trainings of a workspace are."""
