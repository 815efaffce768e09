//! Each tier of the AEAD, forced by policy: traffic flows, and every register is as the machine left it. And each again
//! where the machine only pretends to save them, so that one sees the verifier see it.
//!
//! ```text
//!   Parameters\SimdCap = tier ──► alpha ══════ beta ◄── the same
//!                         registers hold canaries around every callback
//! ```
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use crate::machines;
use sim::host::computer;
use sim::host::memory::pair::Pair;
use sim::nt::machine::Options;

/// A tier: its number in the policy, whether this host has it, and what is spoiled where nobody saves the registers.
fn tiers() -> [(u32, bool, &'static [&'static str]); 5] {
    let avx2 = is_x86_feature_detected!("avx2");
    let avx512 =
        avx2 && is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq");
    let ifma =
        avx512 && is_x86_feature_detected!("avx512ifma") && is_x86_feature_detected!("avx512vbmi2");
    [
        (0, true, &[]),
        (1, true, &[]),
        (2, avx2, &["YMM upper"]),
        (3, avx512, &["YMM upper", "ZMM16+"]),
        (4, ifma, &["YMM upper", "ZMM16+"]),
    ]
}

fn options(tier: u32, keeps_extended_state: bool) -> Options {
    let parameters = [("SimdCap".to_owned(), tier)].into();
    Options { parameters, keeps_extended_state, ..machines::verified("machine") }
}

/// Single packets of several lengths, and a file, whose packets come in batches.
fn exchange(pair: &Pair) {
    machines::ping(&pair.alpha, &pair.beta);
    for to in pair.beta.inner() {
        for size in [300, 1000, 1300] {
            assert!(
                pair.alpha.endpoint().ping(to, size, machines::PATIENCE).is_some(),
                "{to}: {size}"
            );
        }
    }
    let file: Vec<u8> = (0..100_000_u32).map(|at| ((at * 31) >> 5) as u8).collect();
    let [to, _] = pair.beta.inner();
    assert!(pair.alpha.endpoint().send_file(to, &file, Duration::from_secs(300)).is_some());
    assert_eq!(pair.beta.endpoint().take_file(pair.alpha.inner()[0]), Some(file));
}

#[test]
fn every_tier_carries_traffic_and_keeps_the_registers() {
    for (tier, here, _) in tiers() {
        if !here {
            eprintln!("SKIPPED: this host has no tier {tier}");
            continue;
        }
        machines::on_virtual_time(11, |world, driver| {
            let pair = Pair::boot(world, &options(tier, true), driver).unwrap();
            exchange(&pair);
            let Pair { alpha, beta, network, .. } = pair;
            machines::finish(vec![alpha, beta], &network);
        });
    }
}

#[test]
fn registers_that_nobody_saved_are_found_spoiled() {
    for (tier, here, spoiled) in tiers() {
        if !here || spoiled.is_empty() {
            continue;
        }
        machines::on_virtual_time(12, |world, driver| {
            let pair = Pair::boot(world, &options(tier, false), driver).unwrap();
            let [to, _] = pair.beta.inner();
            let answered = pair.alpha.endpoint().ping(to, 1000, Duration::from_secs(1));
            assert!(answered.is_none(), "tier {tier} was not stopped");
            // Whoever does it in a callback first: what waits for the handshake leaves from a thread of the driver.
            let report = [&pair.alpha, &pair.beta]
                .map(|station| computer::report(station.computer().machine()))
                .concat();
            assert!(report.contains("EXTENDED STATE CORRUPTED"), "tier {tier}: {report}");
            for group in spoiled {
                assert!(report.contains(group), "tier {tier} did not spoil {group}: {report}");
            }
            assert_eq!(
                report.contains("ZMM16+"),
                spoiled.contains(&"ZMM16+"),
                "tier {tier}: {report}"
            );
        });
    }
}

#[test]
fn the_tiers_below_avx_save_nothing() {
    for tier in [0, 1] {
        machines::on_virtual_time(13, |world, driver| {
            // Where saving does nothing, only a driver that needs none gets through.
            let pair = Pair::boot(world, &options(tier, false), driver).unwrap();
            exchange(&pair);
            let Pair { alpha, beta, network, .. } = pair;
            machines::finish(vec![alpha, beta], &network);
        });
    }
}
