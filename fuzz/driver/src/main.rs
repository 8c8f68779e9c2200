//! libFuzzer around the target that `QUORATE_FUZZ_TARGET` names.

#![no_main]

use std::sync::LazyLock;

use quorate_fuzz::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("QUORATE_FUZZ_TARGET").expect("fuzz/run names a target");
    quorate_fuzz::target(&name).expect("fuzz/run names one that exists")
});

libfuzzer_sys::fuzz_target!(
    init: {
        // The hook of libFuzzer ends the process at any panic, and this puts another in its place: a panic that our code catches is no
        // crash, and every other one ends the process all the same.
        TARGET.prepare();
    },
    |bytes: &[u8]| TARGET.judge(bytes)
);
