#!/usr/bin/env bash
# Every test of Solo: unit and component tests with the race detector, then the whole system as
# real processes, then coverage of both together. Ends with what was not run, in capitals, if
# anything was not.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
GOCACHE=$(go env GOCACHE) # services in Go are built with the warm cache
export GOCACHE
floor=${COVERAGE_FLOOR:-70}
rm -rf cover && mkdir -p cover/unit cover/e2e cover/bin
packages=$(go list work | grep -v -e /test/e2e -e /test/attack -e /test/cmd)
pkgs=$(go list work | grep -v -e '/solo/v1$' -e '/node/v1$' -e '/kernel/v1$' -e '/test/' -e '/examples/' -e bustest | paste -sd,)

echo "== unit and component tests, race detector on"
CGO_ENABLED=1 go test -race -count=1 -timeout 12m -cover -covermode=atomic $packages -args -test.gocoverdir="$PWD/cover/unit" | grep -v -e 'no test files' -e 'coverage: 0.0%'

echo "== floods, measured: alone on the machine and without the race detector"
CGO_ENABLED=0 go test -count=1 -timeout 10m -v -run TestFloods ./bus/door | grep -E '^ *(---|FAIL|ok|panic)|limit o|flood_test'

echo "== the whole system, as real processes"
CGO_ENABLED=0 go build -trimpath -cover -covermode=atomic -coverpkg="$pkgs" -o cover/bin/ work
SOLO_TEST_BIN="$PWD/cover/bin" GOCOVERDIR="$PWD/cover/e2e" go test -count=1 -timeout 12m ./test/e2e/... ./test/attack/...

go tool covdata textfmt -i=cover/unit,cover/e2e -o cover/all.txt
go tool cover -func=cover/all.txt > cover/func.txt
total=$(awk '/^total:/ {sub("%","",$3); print $3}' cover/func.txt)
echo "statement coverage: $total% (floor $floor%), $((SECONDS - start)) s in all"
awk -v t="$total" -v f="$floor" 'BEGIN { exit !(t >= f) }' || { echo "coverage is below $floor%"; exit 1; }
