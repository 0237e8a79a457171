"""What a run trains in its time, what is set aside for what follows, and what each training may take."""
