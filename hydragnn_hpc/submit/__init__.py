"""Job scripts: what a campaign needs on a machine, the script that requests it, and chains of jobs."""
