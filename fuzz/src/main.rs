//! Gives libFuzzer one of the targets of `tests/fuzz/targets.rs`: that which `URD_FUZZ_TARGET` names.

#![no_main]

#[path = "../../tests/fuzz/targets.rs"]
mod targets;

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("URD_FUZZ_TARGET").expect("URD_FUZZ_TARGET names the target");
    let found = targets::TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("{wanted} is none of {:?}", targets::TARGETS.map(|(name, _)| name))).1
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET(input));
