#!/usr/bin/env bash
# MLflow's tracking server; on its first start it gets versions 1 and 2 of the model `iris`.
set -euo pipefail

mlflow server --host 0.0.0.0 --port 5000 --workers 1 --allowed-hosts 'mlflow:5000,localhost:*,127.0.0.1:*' \
  --backend-store-uri sqlite:////mlflow/mlflow.db --artifacts-destination /mlflow/artifacts &
server=$!
MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python /opt/bluegreen/register.py &
registration=$!
trap 'kill "$server" "$registration" 2>/dev/null' TERM INT
# Whichever ends first: nothing can be registered with a server that is gone.
wait -n "$server" "$registration"
wait "$server"
