//! The driver is loaded and unloaded a hundred times on one machine, now and then with traffic: nothing is ever left.
//!
//! ```text
//!   ┌───────┐            ┌──────┐
//!   │ alpha │ ─ ping ──► │ beta │     beta's driver stays; alpha's is loaded, used, unloaded ⟳ 100
//!   └───────┘            └──────┘
//! ```

use crate::machines;
use sim::host::computer::Computer;
use sim::host::memory::Network;
use sim::host::memory::pair::Station;

#[test]
fn a_hundred_times_with_a_device() {
    machines::on_virtual_time(7, |world, driver| {
        let network = Network::new(world);
        let host =
            network.plug_in(&[[192, 0, 2, 1].into(), [0x2001, 0xDB8, 0, 0, 0, 0, 0, 1].into()]);
        let computer = Computer::boot(world, machines::verified("alpha"), host, driver).unwrap();
        for round in 0..100 {
            if round % 2 == 0 {
                let tunnel = computer.add_tunnel().unwrap();
                tunnel.set_state(abi::ioctl::AdapterState::Up).unwrap();
                tunnel.remove().unwrap();
            }
            machines::nothing_left(&computer.unload().unwrap());
            let left = computer.machine().pool_use();
            assert_eq!(left.blocks, 0, "round {round}: {left:?}");
            computer.load(driver).unwrap();
        }
        machines::nothing_left(&computer.unload().unwrap());
    });
}

#[test]
fn with_traffic_in_between() {
    machines::on_virtual_time(8, |world, driver| {
        let network = Network::new(world);
        let boot = |name: &str, number| {
            Station::boot(world, &network, number, machines::verified(name), driver).unwrap()
        };
        let (mut alpha, beta) = (boot("alpha", 1), boot("beta", 2));
        for _ in 0..10 {
            machines::join(&alpha, &beta);
            machines::ping(&alpha, &beta);
            machines::ping(&beta, &alpha);
            let (next, leaks) = alpha.restart(driver).unwrap();
            machines::nothing_left(&leaks);
            alpha = next;
        }
        for station in [alpha, beta] {
            machines::nothing_left(&station.shut_down().unwrap());
        }
    });
}

/// Thousands of machines live in one process, one after the other.
#[test]
fn a_machine_that_is_switched_off_is_freed() {
    let mut machine = std::sync::Weak::new();
    machines::with_pair(9, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        machine = std::sync::Arc::downgrade(pair.alpha.computer().machine());
    });
    // In virtual time its threads hand the baton on before they end.
    for _ in 0..1000 {
        if machine.strong_count() == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("somebody has it still: {}", machine.strong_count());
}
