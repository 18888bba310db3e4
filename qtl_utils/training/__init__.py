"""From settings to trained heads and networks, many seeds at once, and the tables of a run."""
