"""Test of ADIOS2: ``python -m hydragnn_hpc.dataset.store.probe FOLDER`` writes, reads back, and prints JSON.

It is a child process of ``doctor``, because a broken installation may crash or hang.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from hydragnn_hpc.dataset.imports import import_adios2
from hydragnn_hpc.records.doctor import Adios2Answer


def main() -> None:
    """Write two arrays to ``FOLDER/probe.bp``, read them back, compare."""
    adios2 = import_adios2()
    path = str(Path(sys.argv[1]) / "probe.bp")
    arrays: dict[str, np.ndarray] = {"numbers": np.linspace(0.0, 1.0, 1000).reshape(250, 4)}
    arrays["bytes"] = np.arange(256, dtype=np.uint8)
    with adios2.Stream(path, "w") as stream:
        stream.begin_step()
        for name, array in arrays.items():
            stream.write(name, array, list(array.shape), [0] * array.ndim, list(array.shape))
        stream.end_step()
    with adios2.FileReader(path) as reader:
        for name, array in arrays.items():
            read = reader.read(name)
            if read.dtype != array.dtype or not np.array_equal(read, array):
                raise SystemExit(f"'{name}' was written and read back differently")
    print(json.dumps(Adios2Answer(version=adios2.__version__).model_dump()))


if __name__ == "__main__":
    main()
