"""Job scripts: what a campaign needs of a machine, the script that asks for it, and how it goes on by itself."""
