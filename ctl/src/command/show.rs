//! `show`: once, or again every second.

use std::io::{self, IsTerminal};
use std::time::Duration;

use abi::ioctl::Set;
use abi::statistics::Statistics;
use clap::Args;
use ctl::driver::{self, Driver};
use ctl::show::fields::{self, Field};
use ctl::show::person::{self, Manner};
use ctl::show::style::Style;
use ctl::show::{Shown, json, now_s, prometheus};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::reach::{driver, names, no_access, told_by_service};
use super::{Failure, Outcome, print};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// To the first place of the screen, and all behind it empty.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Arguments of `show`.
#[derive(Args)]
pub(crate) struct Show {
    /// The interface, `all`, or `interfaces` for their names alone.
    #[arg(value_name = "NAME|all|interfaces", default_value = "all")]
    what: String,
    /// Only this, a line for each thing.
    #[arg(value_enum)]
    field: Option<Field>,
    /// As JSON.
    #[arg(long, conflicts_with = "field")]
    json: bool,
    /// As Prometheus' text format has numbers, for the textfile collector of node_exporter and others like it.
    ///
    /// Write it to another file first, and rename that: `penstock show --prometheus >F.new && mv F.new F.prom`.
    #[arg(long, conflicts_with_all = ["field", "json", "watch"])]
    prometheus: bool,
    /// Again every second, until it is stopped.
    #[arg(long)]
    watch: bool,
    /// With what the driver counted: packets, those that wait, and discards by reason.
    #[arg(long, conflicts_with = "field")]
    stats: bool,
}

impl Show {
    /// What is shown without a command.
    pub(crate) fn everything() -> Self {
        Self {
            what: "all".to_owned(),
            field: None,
            json: false,
            prometheus: false,
            watch: false,
            stats: false,
        }
    }

    /// Shows it.
    pub(crate) fn run(self) -> Outcome {
        loop {
            let shown = self.once();
            if !self.watch {
                return shown;
            }
            shown?;
            std::thread::sleep(WATCH_EVERY);
            if !self.json && io::stdout().is_terminal() {
                print(CLEAR)?;
            }
        }
    }

    fn once(&self) -> Outcome {
        let driver = driver();
        let names = || names(&driver);
        let (names, several) = match &*self.what {
            "interfaces" => return print(&(names()?.join(" ") + "\n")),
            "all" => (names()?, true),
            name => (vec![name.to_owned()], false),
        };
        if self.json {
            return self.as_json(&driver, &names);
        }
        if self.prometheus {
            return Self::as_prometheus(&driver, &names);
        }
        for (number, name) in names.iter().enumerate() {
            let answer = Answer::of(&driver, name, self.stats)?;
            let shown = answer.shown(name)?;
            let mut text = shown.room();
            match self.field {
                Some(field) => fields::write(&mut text, &shown, field, several),
                None => {
                    if number > 0 {
                        text.push('\n');
                    }
                    person::write(&mut text, &shown, &manner());
                }
            }
            print(&text)?;
        }
        Ok(())
    }

    fn as_json(&self, driver: &impl Driver, names: &[String]) -> Outcome {
        let mut object = Map::new();
        for name in names {
            let answer = Answer::of(driver, name, self.stats)?;
            let value = json::interface(&answer.shown(name)?, shows_secrets());
            object.insert(name.clone(), value);
        }
        let value = Value::Object(object);
        // A line each time is what can be read while it goes on.
        let text = if self.watch { value.to_string() } else { format!("{value:#}") };
        print(&(text + "\n"))
    }

    fn as_prometheus(driver: &impl Driver, names: &[String]) -> Outcome {
        let answers = names.iter().map(|name| Answer::of(driver, name, true));
        let answers = answers.collect::<Result<Vec<_>, _>>()?;
        let all = names.iter().zip(&answers).map(|(name, answer)| answer.shown(name));
        print(&prometheus::write(&all.collect::<Result<Vec<_>, _>>()?))
    }
}

/// All interfaces with what was counted, for a person and without secrets, whatever this program was told to show.
pub(super) fn without_secrets() -> Result<String, Failure> {
    let driver = driver();
    let names = names(&driver)?;
    let manner = Manner { style: Style { colours: false }, shows_secrets: false, now_s: now_s() };
    let mut texts = Vec::new();
    for name in &names {
        let answer = Answer::of(&driver, name, true)?;
        let shown = answer.shown(name)?;
        let mut text = shown.room();
        person::write(&mut text, &shown, &manner);
        texts.push(text.to_string());
    }
    Ok(texts.join("\n"))
}

/// What an interface's driver said.
struct Answer {
    configuration: Zeroizing<Vec<u8>>,
    statistics: Option<Vec<u8>>,
}

impl Answer {
    fn of(driver: &impl Driver, name: &str, stats: bool) -> Result<Self, Failure> {
        let asked = driver.open(name).and_then(|device| {
            let configuration = driver::get(&*device)?;
            let statistics = stats.then(|| driver::get_statistics(&*device)).transpose()?;
            Ok(Self { configuration, statistics })
        });
        match asked {
            // What is counted the driver alone tells.
            Err(failure) if failure.is_denied() && !stats => match told_by_service(name) {
                Some(told) => Ok(Self { configuration: Zeroizing::new(told), statistics: None }),
                None => Err(no_access(failure)),
            },
            asked => asked.map_err(no_access),
        }
    }

    fn shown<'a>(&'a self, name: &'a str) -> Result<Shown<'a>, Failure> {
        let set = Set::parse(&self.configuration);
        let set = set.map_err(|_| no_access(driver::Failure::Unknown))?;
        let statistics = self.statistics.as_deref().and_then(Statistics::parse);
        Ok(Shown { name, set, statistics })
    }
}

fn manner() -> Manner {
    let colours = match std::env::var("WG_COLOR_MODE").as_deref() {
        Ok("always") => true,
        Ok("never") => false,
        _ => io::stdout().is_terminal(),
    };
    Manner { style: Style { colours }, shows_secrets: shows_secrets(), now_s: now_s() }
}

/// Whether a person is shown keys that are secret, too.
fn shows_secrets() -> bool {
    std::env::var("WG_HIDE_KEYS").is_ok_and(|hide| hide == "never")
}
