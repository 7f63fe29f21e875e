#!/bin/sh
# Fuzzes the parsers of network input, starting from the recorded vectors.
#
#   tools/fuzz.sh 30                  30 seconds in all, shared by the targets
#   tools/fuzz.sh 3600 frames tls     an hour for these two
#
# libFuzzer is guided by coverage. No sanitizer is used, because there is no unsafe code. Failing inputs are stored in
# target/fuzz/found; to repeat one, pass the file to the target's program in target/fuzz.
set -eu

seconds=$1
shift
[ $# -gt 0 ] || set -- heads frames tls records websocket stun
host=$(rustc -vV | sed -n 's/^host: //p')
work=${CARGO_TARGET_DIR:-target}/fuzz
flags='-Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4'
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares"

# With --target, cargo does not apply the flags to build scripts, which are not linked to libFuzzer.
RUSTFLAGS="$flags" cargo build --quiet --locked --release --manifest-path rust/fuzz/Cargo.toml --target "$host" \
    --target-dir "$work"
"${PYTHON:-python3}" tools/fuzz_seeds.py "$work/corpus"
mkdir -p "$work/found"
for target in "$@"; do
    mkdir -p "$work/corpus/$target"
    # libFuzzer's default lengths are shorter than input from a socket.
    "$work/$host/release/$target" -max_total_time="$((seconds / $#))" -max_len=70000 -len_control=1000 -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -artifact_prefix="$work/found/$target-" \
        "$work/corpus/$target" 2>"$work/$target.log" || { tail -40 "$work/$target.log" >&2; exit 1; }
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log")
    echo "$target: $runs inputs, nothing found"
done
