#!/usr/bin/env bash
# go mod tidy ignores the workspace and would ask for siblings that are not published yet: so
# each module gets replaces for as long as it is tidied, and loses them again.
# usage: tidy.sh PREFIX VERSION MODULE...
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=$1 version=$2
shift 2
root=$PWD
drop() { for m in "$@"; do for s in "$@"; do (cd "$root/$m" && GOWORK=off go mod edit -dropreplace "$prefix/$s@$version") || true; done; done; }
trap 'drop "$@"' EXIT
for m in "$@"; do
  for s in "$@"; do [ "$s" = "$m" ] || (cd "$m" && GOWORK=off go mod edit -replace "$prefix/$s@$version=../$s"); done
done
for m in "$@"; do
  # A sibling that is imported but not required yet is required at the lock-step version.
  for s in $(cd "$m" && grep -rhoE --include='*.go' "\"$prefix/[a-z]+" . | tr -d '"' | sed "s,$prefix/,," | sort -u); do
    [ "$s" = "$m" ] || [ ! -f "$s/go.mod" ] || (cd "$m" && GOWORK=off go mod edit -require "$prefix/$s@$version")
  done
  (cd "$m" && GOWORK=off go mod tidy)
done
