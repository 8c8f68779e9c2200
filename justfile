# What is done often. `just` lists it.

default:
    @just --list

# Everything that must hold before a change lands. Only reads; this is what CI runs.
verify:
    .ci/run

# Format, and what clippy can repair by itself. Writes.
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all

# Live through seeds in the simulator.
seeds count="1000" from="0" driver="local":
    cargo run --release -p quorate-sim -- --driver {{driver}} --seeds {{count}} --from {{from}}

# Replay one seed and tell what happens.
seed number driver="local":
    cargo run --release -p quorate-sim -- --driver {{driver}} --seed {{number}} --trace

# Fuzz one target, or list them.
fuzz target="" seconds="60":
    fuzz/run {{target}} {{ if target == "" { "" } else { seconds } }}

# Look for each planted bug, and write the table of docs/testing.md anew.
planted:
    RUSTFLAGS="--cfg quorate_planted" cargo run --release --target-dir target/planted -p quorate-sim -- --planted --jobs 2 --table docs/testing.md

# Every benchmark, or those whose id contains `only`.
bench only="":
    cargo bench --workspace --benches -- {{only}}
