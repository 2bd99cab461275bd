#!/bin/bash
# docker run IMAGE reproduce ...: a command of the suite; docker run IMAGE lab: JupyterLab
set -euo pipefail
if [ "${1:-}" = lab ]; then
    shift
    exec jupyter lab --ip=0.0.0.0 --port=8888 --no-browser --notebook-dir=. \
        --LabApp.default_url=/lab/tree/nbs/00_tour.ipynb "$@"
fi
exec pointwssis "$@"
