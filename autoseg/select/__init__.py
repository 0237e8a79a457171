"""What held-out predictions decide: configuration or ensemble, postprocessing."""
