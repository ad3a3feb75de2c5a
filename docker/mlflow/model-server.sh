#!/usr/bin/env bash
# `mlflow models serve` of one version of the model `iris`, with the demo model server's options.
set -euo pipefail

version='' port=''
while [ $# -gt 0 ]; do
  case "$1" in
    --model-version) version=$2 ;;
    --port) port=$2 ;;
    *) echo "model-server.sh: no such option: $1" >&2; exit 2 ;;
  esac
  shift 2
done
# The tracking server registers the versions when it has started.
until python - "$version" <<'END'
import os, sys, urllib.request
query = f"/api/2.0/mlflow/model-versions/get?name=iris&version={sys.argv[1]}"
try:
    urllib.request.urlopen(os.environ["MLFLOW_TRACKING_URI"] + query, timeout=2)
except OSError as error:
    sys.exit(f"waiting for version {sys.argv[1]}: {error}")
END
do
  sleep 1
done
exec mlflow models serve --model-uri "models:/iris/$version" --host 0.0.0.0 --port "$port" --env-manager local
