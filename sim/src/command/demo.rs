//! `penstock-sim demo`: two machines, one tunnel, on virtual time, and a report worth reading.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use sha2::{Digest, Sha256};
use sim::host::memory::link::Link;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;
use sim::verifier::dump::Dump;
use sim::verifier::schedule::{Mode, World};

use super::{DriverFile, Policies};
use super::{Failure, Outcome, print_statistics};

/// How long one step of the demonstration may take, on its own clock.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `demo`.
#[derive(Args)]
pub(crate) struct Demo {
    /// Two machines in this process; the only kind this command knows (scripts/demo.sh has the other).
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    driver: DriverFile,
    #[command(flatten)]
    policies: Policies,
    /// Start of the random choices: the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Pings each over IPv4 and IPv6.
    #[arg(long, default_value_t = 20)]
    pings: u32,
    /// KiB of the file that is copied.
    #[arg(long, default_value_t = 1024)]
    file_kib: usize,
    /// Milliseconds a datagram takes one way.
    #[arg(long, default_value_t = 5)]
    delay_ms: u64,
    /// Datagrams lost, of 1,000.
    #[arg(long, default_value_t = 0)]
    loss: u16,
    /// Check only what costs nothing, for speed.
    #[arg(long)]
    fast: bool,
    /// Write the first machine's memory to FILE at the end, before its adapter goes down: what scripts/windbg/simulated.js reads.
    ///
    /// The driver's callbacks say what is in it: its keys are not.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Show what the drivers print.
    #[arg(long)]
    log: bool,
}

impl Demo {
    /// Runs the demonstration.
    pub(crate) fn run(self) -> Outcome {
        let path = self.driver.find()?;
        let image = std::fs::read(&path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        println!("driver      {} ({} bytes)", path.display(), image.len());
        println!("sha256      {}", hex(&Sha256::digest(&image)));
        println!("simulator   {}, seed {}", sim::nt::guesses(), self.seed);
        let real = Instant::now();
        let world = World::new(Mode::Virtual { seed: self.seed });
        let _main = world.enter("main");
        let options = Options {
            cpus: 2,
            verified: !self.fast,
            print: self.log,
            parameters: self.policies.numbers(),
            texts: self.policies.texts(),
            ..Options::default()
        };
        let pair = Pair::boot(&world, &options, &path)?;
        let delay = Duration::from_millis(self.delay_ms);
        pair.network.set_weather(Link { delay, loss_per_mille: self.loss, ..Link::default() });
        let shown = self.show(&pair);
        let report = self.report(&pair);
        if let Some(file) = &self.dump {
            let dump = Dump::of(pair.alpha.computer().machine());
            dump.write(file).map_err(|error| {
                Failure::new(format!("{} cannot be written: {error}", file.display()))
            })?;
        }
        for station in [&pair.alpha, &pair.beta] {
            if station.computer().machine().is_dead() {
                let report = sim::host::computer::report(station.computer().machine());
                return Err(Failure {
                    message: format!("the driver stopped the machine:\n{report}"),
                    code: 3,
                });
            }
        }
        if shown.is_err() {
            eprintln!("who waits:\n  {}", world.waiting().join("\n  "));
        }
        shown?;
        report?;
        let virtual_time = world.now();
        let leaks = pair.shut_down()?;
        println!("unloaded    {} things left behind", leaks.len());
        println!(
            "time        {:.3} s there, {:.3} s here",
            virtual_time.as_secs_f64() - 60.0,
            real.elapsed().as_secs_f64()
        );
        Ok(leaks)
    }

    fn show(&self, pair: &Pair) -> Result<(), Failure> {
        let to = pair.beta.inner();
        let first = ping(pair, to[0])
            .ok_or_else(|| Failure::new("no answer to the first ping: no handshake"))?;
        let warm = ping(pair, to[0]).ok_or_else(|| Failure::new("no answer to the second ping"))?;
        println!(
            "handshake   {} (first ping {}, a warm one {})",
            show(first.saturating_sub(warm)),
            show(first),
            show(warm)
        );
        for address in to {
            self.show_pings(pair, address);
        }
        let file: Vec<u8> =
            (0..self.file_kib * 1024).map(|at| ((at * 31) >> 5) as u8 ^ at as u8).collect();
        for (from, at) in [(&pair.alpha, &pair.beta), (&pair.beta, &pair.alpha)] {
            show_file(from, at, &file)?;
        }
        Ok(())
    }

    fn show_pings(&self, pair: &Pair, to: IpAddr) {
        let mut times: Vec<Duration> = (0..self.pings).filter_map(|_| ping(pair, to)).collect();
        times.sort_unstable();
        let at = |share: usize| {
            times.get((times.len().saturating_sub(1)) * share / 100).copied().unwrap_or_default()
        };
        let lost = self.pings as usize - times.len();
        println!(
            "ping        {to}: {} of {} answered, {lost} lost, median {}, 99 % {}",
            times.len(),
            self.pings,
            show(at(50)),
            show(at(99))
        );
    }

    /// Packets, bytes and discards of both drivers.
    fn report(&self, pair: &Pair) -> Result<(), Failure> {
        for station in [&pair.alpha, &pair.beta] {
            println!("{}", station.computer().machine().name());
            print_statistics(station.tunnel())?;
        }
        let carried = pair.network.carried();
        println!(
            "network     {} datagrams, {} bytes, {} lost, {} refused",
            carried.sent, carried.bytes, carried.lost, carried.refused
        );
        Ok(())
    }
}

fn show_file(from: &Station, at: &Station, file: &[u8]) -> Result<(), Failure> {
    let [source, _] = from.inner();
    let [destination, _] = at.inner();
    let took = from.endpoint().send_file(destination, file, PATIENCE);
    let took = took.ok_or_else(|| Failure::new("the file did not get through"))?;
    let got = at.endpoint().take_file(source).unwrap_or_default();
    if got != file {
        return Err(Failure::new("the file that arrived is not the file that was sent"));
    }
    let rate = file.len() as f64 * 8.0 / took.as_secs_f64().max(1e-9) / 1e6;
    println!(
        "file        {source} to {destination}: {} bytes, same sha256 {}, {rate:.1} Mbit/s",
        file.len(),
        &hex(&Sha256::digest(&got))[..16]
    );
    Ok(())
}

fn ping(pair: &Pair, to: IpAddr) -> Option<Duration> {
    pair.alpha.endpoint().ping(to, 56, Duration::from_secs(10))
}

fn show(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
