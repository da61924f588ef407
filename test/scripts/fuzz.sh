#!/usr/bin/env bash
# Runs every fuzz target of every module for a while: fuzz.sh [TIME].
set -euo pipefail
cd "$(dirname "$0")/../.."
time=${1:-20s}
for mod in $(git ls-files 'go.mod' '*/go.mod'); do
	(
		cd "$(dirname "$mod")"
		# A module without fuzz targets is no failure.
		{ git grep -l '^func Fuzz' -- '*_test.go' || true; } | xargs -rn1 dirname | sort -u | while read -r dir; do
			grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -c6- | sort -u | while read -r target; do
				echo "fuzz $dir $target"
				# Minimizing can eat the whole time; an interesting input is kept either way.
				go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x </dev/null | tail -n 2
			done
		done
	)
done
