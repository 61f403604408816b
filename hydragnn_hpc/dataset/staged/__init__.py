"""Node-local copies of a data set, and what a campaign needs from them."""
