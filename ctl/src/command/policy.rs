//! `policy`: the values that an administrator may set, and whether what he is about to set is one of them.

use abi::policy::{TextPolicy, rows};
use clap::Subcommand;
use ctl::config::key_names::nearest_of;
use ctl::policy::tunnel::{self, PolicyTunnel};
use ctl::{config, policy as effective};

use super::{Failure, Outcome, print};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the values: range, default, unit, and what each is.
    Show {
        /// Only this one.
        name: Option<String>,
    },
    /// Say whether values are what the driver takes. It reads what is none as the default.
    Check {
        /// Values, as the registry's.
        #[arg(value_name = "NAME=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Hand the driver what policy says on this machine now. The manager service does so by itself whenever it changes.
    #[cfg(windows)]
    Apply,
}

/// Where values are.
#[cfg(windows)]
pub(super) const REGISTRY: ctl::windows::registry::LocalMachine =
    ctl::windows::registry::LocalMachine;
/// See there: nothing is set.
#[cfg(not(windows))]
pub(super) const REGISTRY: effective::NoRegistry = effective::NoRegistry;

/// What is written of the tunnels of policy.
const TUNNELS_ARE: &str = "a text for each tunnel, as `Address = 10.0.0.2/32; PublicKey = KEY; Endpoint = HOST:PORT; AllowedIPs = 10.0.0.0/8`; \
                           no private or preshared key. The manager brings them up, with keys of its own.";

impl Command {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Show { name } => show(name.as_deref()),
            Self::Check { settings } => check(&settings),
            #[cfg(windows)]
            Self::Apply => apply(),
        }
    }
}

/// Writes the driver's key, has the driver read it, and says what was refused and who could not be told.
#[cfg(windows)]
fn apply() -> Outcome {
    use ctl::policy::engine;
    use ctl::words::said;

    let key = |error: std::io::Error| Failure::new(engine::PARAMETERS, said(&error));
    let applied = engine::Engine::default().apply(&REGISTRY).map_err(key)?;
    let changed = applied.changed.iter().map(|name| format!("changed: {name}\n"));
    print(&changed.collect::<String>())?;
    let mut wrong: Vec<_> = applied.refused.iter().map(|it| format!("refused: {it}")).collect();
    match engine::tell(&super::reach::driver()) {
        Ok(failed) => wrong.extend(failed.iter().map(|(name, why)| format!("{name}: {why}"))),
        // Where the driver is not there, it will read its key when it comes.
        Err(error) => super::note(format_args!("no adapter was told: {}", said(&error))),
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Told(wrong.join("\n"))) }
}

fn show(name: Option<&str>) -> Outcome {
    print(&shown(name)?)
}

/// What all values come to, or one.
pub(super) fn shown(name: Option<&str>) -> Result<String, Failure> {
    let mut text = String::new();
    let mut row = |name: &str, range: &str, about: &str, set_to: &str| {
        text += &format!("{name}\n  {range}\n  {about}\n{set_to}");
    };
    let is_asked = |other: &str| name.is_none_or(|name| name.eq_ignore_ascii_case(other));
    for policy in rows().filter(|row| is_asked(row.name)) {
        let (range, default) = (&policy.range, policy.default);
        let (least, most, unit) = (range.start(), range.end(), policy.unit);
        let range = format!("{least} to {most}, default {default} ({unit})");
        row(
            policy.name,
            &range,
            policy.description,
            &set_to(|| effective::number(&policy, &REGISTRY)),
        );
    }
    for policy in TextPolicy::ALL.iter().filter(|policy| is_asked(policy.name())) {
        let form = format!("{}; default {}", policy.form(), policy.default());
        let set_to = set_to(|| effective::text(*policy, &REGISTRY));
        row(policy.name(), &form, policy.description(), &set_to);
    }
    if name.is_none_or(|name| name.eq_ignore_ascii_case(tunnel::KEY)) {
        text += &format!("{}\n  {TUNNELS_ARE}\n", tunnel::KEY);
        let tunnels = tunnel::tunnels(&REGISTRY);
        let tunnels =
            tunnels.map_err(|error| Failure::new(tunnel::KEY, ctl::words::said(&error)))?;
        tunnels.iter().for_each(|tunnel| text += &of_tunnel(tunnel));
    }
    match name {
        Some(name) if text.is_empty() => Err(Failure::Told(unknown(name))),
        _ => Ok(text),
    }
}

/// A tunnel by policy, as a file would have it: it has no secrets.
fn of_tunnel(tunnel: &PolicyTunnel) -> String {
    let mut text = format!("  {}\n", tunnel.name);
    if let Some((config, from)) = &tunnel.config {
        text += &format!("    here: (from {from})\n");
        let file = config::print::print(config);
        let lines = file.lines().filter(|line| !line.is_empty());
        lines.for_each(|line| text += &format!("      {line}\n"));
    }
    for (from, why) in &tunnel.refused {
        text += &format!("    refused: {why} (from {from})\n");
    }
    text
}

/// The line of what this machine sets a value to, and the lines of what was refused.
#[cfg(windows)]
fn set_to<V: std::fmt::Display>(read: impl FnOnce() -> effective::Effective<V>) -> String {
    read().to_string()
}

/// Where there is no registry, nothing is set.
#[cfg(not(windows))]
fn set_to<V>(_: impl FnOnce() -> V) -> String {
    String::new()
}

fn check(settings: &[String]) -> Outcome {
    let wrong: Vec<_> = settings.iter().filter_map(|setting| checked(setting).err()).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Told(wrong.join("\n"))) }
}

fn checked(setting: &str) -> Result<(), String> {
    let (name, value) =
        setting.split_once('=').ok_or_else(|| format!("{setting}: it is written NAME=VALUE"))?;
    let tunnel = name.split_once('\\').filter(|(key, _)| key.eq_ignore_ascii_case(tunnel::KEY));
    if let Some((_, tunnel)) = tunnel {
        return tunnel::tunnel_of(tunnel, value).map(drop).map_err(|why| format!("{name}: {why}"));
    }
    let text = TextPolicy::ALL.iter().find(|text| text.name().eq_ignore_ascii_case(name));
    if let Some(text) = text {
        let checked = effective::check_text(*text, value);
        return checked.map_err(|why| format!("{}: {why}", text.name()));
    }
    let known = rows().find(|row| row.name.eq_ignore_ascii_case(name));
    let known = known.ok_or_else(|| unknown(name))?;
    let (range, name) = (&known.range, known.name);
    let (least, most) = (range.start(), range.end());
    match value.parse() {
        Ok(number) if range.contains(&number) => Ok(()),
        _ => Err(format!("{name}: this is no number from {least} to {most} ({})", known.unit)),
    }
}

fn unknown(name: &str) -> String {
    let texts = TextPolicy::ALL.iter().map(|text| text.name());
    let names = rows().map(|row| row.name).chain(texts).chain([tunnel::KEY]);
    let hint = nearest_of(name, names);
    let hint = hint.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"));
    format!("there is no policy `{name}`{hint}")
}
