"""The public data sets, one file each: where it comes from, how it lies on disk, how many images it has."""
