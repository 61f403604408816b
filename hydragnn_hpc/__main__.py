"""``python -m hydragnn_hpc``: the same as ``hydragnn-hpc``."""

from hydragnn_hpc.cli.main import main

if __name__ == "__main__":
    main()
