"""From raw files to one shared, checked ADIOS2 data set, and from it to node-local arrays."""
