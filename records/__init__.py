"""What a run leaves: file names, columns, checkpoint keys, and how they are written and read."""
