"""Several trainings: one by one, in processes beside each other, on a cluster."""
