#!/usr/bin/env bash
# fuzz/run.sh SECONDS [TARGET…]  tries to break the laws of each target for so long, all of them by default
# fuzz/run.sh corpus [TARGET…]   keeps the fewest inputs that reach all code that was reached: fuzz/corpus
#
# New inputs and inputs that break a law are in target/fuzz. One that did belongs into fuzz/crashes/TARGET, with a name
# that says what was wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=${1-}
if [[ ! $what =~ ^([1-9][0-9]*|corpus)$ ]]; then
  echo "fuzz/run.sh: '$what' is neither a whole number of seconds, at least 1, nor 'corpus'" >&2
  exit 2
fi
shift
if (($# > 0)); then
  targets=("$@")
else
  mapfile -t targets < <(basename -s .rs fuzz/targets/*.rs)
fi

# libFuzzer needs an instrumented program, which the stable compiler can make: a counter for each edge, and a table that
# tells its address. A target of its own keeps build scripts and procedural macros as they are.
host=$(rustc -vV | awk '/^host:/ {print $2}')
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table; do
  coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
RUSTFLAGS="--cfg fuzzing $coverage" "${CARGO:-cargo}" build --quiet --locked --release --target "$host" \
  --manifest-path fuzz/Cargo.toml --target-dir target/fuzz
programs=target/fuzz/$host/release

# Every program in Rust ignores it, but libFuzzer has a `main` in C++.
trap '' PIPE

dictionary() {
  case $1 in
    audit | cluster | review) echo fuzz/dictionaries/kubernetes.dict ;;
    config) echo fuzz/dictionaries/config.dict ;;
    connection) echo fuzz/dictionaries/http.dict ;;
    *) echo fuzz/dictionaries/texts.dict ;;
  esac
}

# The folders with inputs of a target.
inputs() {
  local folder
  for folder in "target/fuzz/corpus/$1" "fuzz/corpus/$1" "fuzz/crashes/$1"; do
    if [[ -d $folder ]]; then echo "$folder"; fi
  done
}

# libFuzzer's options for a target: how long an input may be, because what is longer only takes longer. A world reaches so
# many edges that counting them takes most of the time.
options() {
  case $1 in
    times | cidrs) echo -max_len=128 ;;
    decide) printf '%s\n' -max_len=1024 -use_counters=0 ;;
    *) echo -max_len=16384 ;;
  esac
}

fuzz() {
  local target=$1 log=target/fuzz/$1.log folders options
  mkdir -p "target/fuzz/corpus/$target" "target/fuzz/crashes/$target"
  mapfile -t folders < <(inputs "$target")
  mapfile -t options < <(options "$target")
  echo "fuzzing $target for $what seconds, as $log tells"
  if ! "$programs/$target" "${folders[@]}" -max_total_time="$what" -timeout=30 \
    -rss_limit_mb=2048 "${options[@]}" -dict="$(dictionary "$target")" -print_final_stats=1 \
    -artifact_prefix="target/fuzz/crashes/$target/" >"$log" 2>&1; then
    grep -a -E -A 5 'panicked at|^==[0-9]+== ERROR|Test unit written to' "$log" | cut -c 1-500
    exit 1
  fi
  awk '/^Done/ {print "  " $2 " executions in " $5 " seconds"}' "$log"
}

# The most bytes of an input that is kept: the corpora are a part of the repository. A line of the audit log fails in a
# different place for each of its fields.
longest() {
  if [[ $1 == audit ]]; then echo 700; else echo 1500; fi
}

corpus() {
  local target=$1 short=target/fuzz/short/$1 merged=target/fuzz/merged/$1 folders
  rm -rf "$short" "$merged"
  mkdir -p "$short" "$merged"
  mapfile -t folders < <(inputs "$target")
  find "${folders[@]}" -type f -size "-$(longest "$target")c" -exec cp -t "$short" {} +
  "$programs/$target" -set_cover_merge=1 -use_counters=0 "$merged" "$short" 2>"target/fuzz/$target.log"
  rm -rf "fuzz/corpus/$target"
  mkdir -p fuzz/corpus
  mv "$merged" "fuzz/corpus/$target"
  echo "$target: $(find "fuzz/corpus/$target" -type f | wc -l) inputs, $(du -sk "fuzz/corpus/$target" | cut -f 1) KiB"
}

for target in "${targets[@]}"; do
  if [[ $what == corpus ]]; then corpus "$target"; else fuzz "$target"; fi
done
