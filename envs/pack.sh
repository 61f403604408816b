#!/usr/bin/env bash
# Packs an environment, virtual or conda, into one archive that works wherever it is unpacked: for
# 'hydragnn-hpc submit --packed ARCHIVE', which unpacks it on every node of a job.
#
#   bash envs/pack.sh FOLDER ARCHIVE.tar
set -euo pipefail

if (($# != 2)) || [[ $2 != *.tar ]]; then
  echo "usage: bash envs/pack.sh FOLDER ARCHIVE.tar" >&2
  exit 2
fi
environment=$1 archive=$2
# The environment's own package (-P), even where there is one in the current folder.
where='import hydragnn_hpc, pathlib; print(pathlib.Path(hydragnn_hpc.__file__).parents[1])'
if ! root=$("$environment/bin/python" -P -c "$where" 2>/dev/null); then
  echo "envs/pack.sh: error: $environment is not an environment with hydragnn_hpc installed; give its folder" >&2
  exit 2
fi
# Compiled modules are packed beside the sources, or each rank would compile them again. In an environment of another
# user they cannot be.
"$environment/bin/python" -m compileall -q "$root/hydragnn_hpc" || true
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
packages=${packages#"$(cd "$environment" && pwd -P)"/}
packages=${packages#"$(cd "$environment" && pwd)"/}
trap 'rm -f "$archive.part"' EXIT
tar -cf "$archive.part" -C "$environment" .
# The package itself may be installed in editable form; its copy is found ahead of the checkout.
tar -rf "$archive.part" -C "$root" --transform "s,^hydragnn_hpc,./$packages/hydragnn_hpc," hydragnn_hpc
mv "$archive.part" "$archive"
echo "$archive: $(du -h "$archive" | cut -f1)"
