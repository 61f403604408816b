"""From raw files to the shared data set, and from one data set to another."""
