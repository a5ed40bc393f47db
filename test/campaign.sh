#!/usr/bin/env bash
# What is too long for make test. FUZZ is the time for each fuzz target, CHECKS the number of
# cases for each property, HISTORY for how long many clients grant, use and revoke while components
# are killed, STORIES how often the whole story is told, with its kills.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzz=${FUZZ:-60s} checks=${CHECKS:-20000} stories=${STORIES:-10} history=${HISTORY:-10m}

echo "== properties, $checks cases each"
for dir in $(go list -f '{{.Dir}}' work); do
  grep -lsF '"pgregory.net/rapid"' "$dir"/*_test.go >/dev/null || continue
  (cd "$dir" && go test -count=1 -timeout 60m . -args -rapid.checks="$checks")
done

echo "== fuzzing, $fuzz each"
go list -f '{{.Dir}}' work | while read -r dir; do
  grep -lsE '^func Fuzz' "$dir"/*_test.go >/dev/null || continue
  for f in $(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/func //'); do
    echo "-- ${dir#"$PWD"/} $f"
    (cd "$dir" && go test -run '^$' -fuzz "^$f\$" -fuzztime "$fuzz" . | tail -2)
  done
done

echo "== a history of grants, uses and ends while components are killed, $history"
SOLO_HISTORY=$history SOLO_TEST_BIN=$PWD/bin go test -count=1 -v -timeout 24h -run 'TestAttack/any_history' ./test/attack | grep -E 'any history|^(---|FAIL|ok)'

echo "== the story, $stories times"
for i in $(seq "$stories"); do
  echo "-- $i"
  bin/solo-demo --bin bin | grep -E 'killed|revoked|answered|ready|That was Solo|FAILED'
done
