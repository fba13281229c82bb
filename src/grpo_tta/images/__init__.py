"""Images in: read, cut into views, restored, and the random numbers that belong to each."""
