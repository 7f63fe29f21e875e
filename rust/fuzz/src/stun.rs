//! Arbitrary datagrams to STUN: only requests are answered, and never with more than the longest answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay::sim::is_answered_by_stun;

fuzz_target!(|data: &[u8]| {
    let (strict, any) = (is_answered_by_stun(data, false), is_answered_by_stun(data, true));
    assert!(any || !strict, "who answers everybody answers Tailscale's clients");
    assert!(!any || (data.len() >= 20 && data[..2] == [0, 1]), "only requests are answered");
});
