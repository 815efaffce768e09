//! What an administrator sets: what is applied, what is refused, and that a wrong value does no harm.
//!
//! ```text
//!   Services\penstock\Parameters ── FastPath, SendEngine, ... ──► alpha ═══════ beta
//!                                   7? "may be 0 to 1: 1 applies"
//! ```

use crate::machines;
use crate::machines::accounting::Ledger;
use crate::machines::with_policy;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::Pair;
use sim::nt::machine::Options;

/// Machines with this one value set, whatever else the environment says.
fn only(policy: Policy, value: u32) -> Options {
    let mut options = with_policy(policy, value);
    options.parameters.retain(|name, _| name == policy.name());
    options
}

/// How often alpha's log says this.
fn said(pair: &Pair, text: &str) -> usize {
    let lines = pair.alpha.computer().machine().prints();
    lines.iter().filter(|line| line.contains(text)).count()
}

/// Absorbed, and injected, after some pings.
fn ways(pair: &Pair) -> [u64; 2] {
    for _ in 0..10 {
        machines::ping(&pair.alpha, &pair.beta);
        machines::ping(&pair.beta, &pair.alpha);
    }
    let ledger = Ledger::of(&pair.alpha);
    [Counter::Absorbed, Counter::InjectedOut].map(|counter| ledger.counter(counter))
}

#[test]
fn each_way_is_taken_when_it_is_chosen_and_only_then() {
    for (policy, value, absorbs, injects) in [
        (Policy::FastPath, 1, true, false),
        (Policy::FastPath, 0, false, false),
        (Policy::SendEngine, 0, true, false),
        (Policy::SendEngine, 1, true, true),
        (Policy::SendEngine, 2, true, true),
        (Policy::HeldPerCpu, 0, false, false),
        (Policy::HeldPerPeer, 0, false, false),
    ] {
        machines::with_pair_of(1, &only(policy, value), |pair| {
            let [absorbed, injected] = ways(pair);
            let name = policy.name();
            assert_eq!((absorbed > 0, injected > 0), (absorbs, injects), "{name} = {value}");
            assert_eq!(said(pair, "policy "), 0, "{name} = {value}: nothing to say");
        });
    }
}

#[test]
fn a_value_out_of_bounds_is_the_default_and_the_log_says_so() {
    for policy in Policy::ALL {
        let (range, default) = (policy.range(), policy.default());
        let wrong = range.end() + 1;
        machines::with_pair_of(2, &only(*policy, wrong), |pair| {
            let name = policy.name();
            let line = format!(
                "policy {name} is {wrong}, and may be {} to {}: {default} applies",
                range.start(),
                range.end()
            );
            assert_eq!(said(pair, &line), 1, "{:?}", pair.alpha.computer().machine().prints());
            let [absorbed, injected] = ways(pair);
            assert!(
                absorbed > 0 && injected == 0,
                "{name}: {absorbed} absorbed, {injected} injected"
            );
        });
    }
}

/// Whatever an administrator chooses in the Group Policy template, the driver takes it.
#[test]
fn what_group_policy_can_write_is_taken() {
    let settings = inf::templates::settings().unwrap();
    let rounds = settings.iter().map(|setting| setting.numbers().len()).max().unwrap();
    for round in 0..rounds {
        let mut options = machines::verified("machine");
        for setting in &settings {
            let numbers = setting.numbers();
            let Some(number) = numbers.get(round).or(numbers.last()) else { continue };
            options.parameters.insert(setting.value.clone(), *number);
        }
        machines::with_pair_of(4, &options, |pair| {
            let log = pair.alpha.computer().machine().prints();
            let refused: Vec<_> = log.iter().filter(|line| line.contains(" applies")).collect();
            // A CPU that this machine has not may be named all the same.
            let absent =
                |line: &&&String| line.contains("no CPU from there on may be used: 0 applies");
            assert_eq!(refused.iter().filter(absent).count(), refused.len(), "{refused:?}");
            machines::ping(&pair.alpha, &pair.beta);
            machines::ping(&pair.beta, &pair.alpha);
        });
    }
}

/// The stack of a classify is what the network adapter, NDIS and TCP/IP have left; ours stays under 4 KiB.
#[test]
fn the_callouts_take_at_most_4_kib_of_stack() {
    for engine in 0..3 {
        machines::with_pair_of(3, &only(Policy::SendEngine, engine), |pair| {
            let [absorbed, _] = ways(pair);
            assert!(absorbed > 0);
            let used = pair.alpha.computer().machine().stack_use();
            let classify = used["classifyFn"];
            assert!((1..=4096).contains(&classify), "{classify} bytes");
        });
    }
}
