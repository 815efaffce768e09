//! What a service is installed with: its name, its command line, what it depends on, and the few privileges it keeps.

use std::fmt;

/// What the names of tunnels' services begin with.
pub const TUNNEL_PREFIX: &str = "PenstockTunnel$";
/// The manager's name.
pub const MANAGER: &str = "PenstockManager";
/// Whoever runs as the system may walk through folders; the account has it on every Windows.
const WALK: &str = "SeChangeNotifyPrivilege";
/// Making an adapter loads the driver.
const LOAD_DRIVER: &str = "SeLoadDriverPrivilege";

/// A service that is to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// What people are shown.
    pub display: String,
    /// What it does.
    pub description: &'static str,
    /// What is run: a quoted path, and arguments, none of which is a secret.
    pub command_line: String,
    /// Services that run before it.
    pub dependencies: &'static [&'static str],
    /// Privileges that it keeps; all others are taken away.
    pub privileges: &'static [&'static str],
}

/// What cannot be part of a command line.
#[derive(Debug, PartialEq, Eq)]
pub struct NotQuotable;

impl fmt::Display for NotQuotable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path with a quotation mark, or a backslash at its end, is no file's")
    }
}

impl std::error::Error for NotQuotable {}

/// The privileges of a tunnel's service.
pub const TUNNEL_PRIVILEGES: &[&str] = &[LOAD_DRIVER, WALK];
/// The privileges of the manager.
pub const MANAGER_PRIVILEGES: &[&str] = &[WALK];

/// The service of the tunnel `name`, whose file is `file`; `program` is penstock.exe.
///
/// # Errors
///
/// [`NotQuotable`].
pub fn tunnel(name: &str, program: &str, file: &str) -> Result<Definition, NotQuotable> {
    Ok(Definition {
        name: format!("{TUNNEL_PREFIX}{name}"),
        display: format!("Penstock tunnel: {name}"),
        description: "Keeps a tunnel up from before anybody logs on until it is stopped.",
        command_line: format!("{} service tunnel {}", quoted(program)?, quoted(file)?),
        // The network store and the stack, and what the kill switch is made in.
        dependencies: &["Nsi", "TcpIp", "BFE"],
        privileges: TUNNEL_PRIVILEGES,
    })
}

/// The service that watches the folder of tunnels' files.
///
/// # Errors
///
/// [`NotQuotable`].
pub fn manager(program: &str) -> Result<Definition, NotQuotable> {
    Ok(Definition {
        name: MANAGER.to_owned(),
        display: "Penstock manager".to_owned(),
        description: "Encrypts the files of tunnels that are put into its folder, and keeps a service for each.",
        command_line: format!("{} service manager", quoted(program)?),
        dependencies: &[],
        privileges: MANAGER_PRIVILEGES,
    })
}

/// The file in the command line of a tunnel's service.
#[must_use]
pub fn file_of(command_line: &str) -> Option<&str> {
    let (_, file) = command_line.split_once("\" service tunnel \"")?;
    file.strip_suffix('"')
}

/// As `CommandLineToArgvW` reads it. Without quotation marks a space would end the program's path.
fn quoted(path: &str) -> Result<String, NotQuotable> {
    if path.contains('"') || path.ends_with('\\') {
        return Err(NotQuotable);
    }
    Ok(format!("\"{path}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_quoted_and_say_which_file() {
        let program = r"C:\Program Files\Penstock\penstock.exe";
        let file = r"C:\Program Files\Penstock\Data\Configurations\office.conf.dpapi";
        let made = tunnel("office", program, file).unwrap();
        assert_eq!(made.name, "PenstockTunnel$office");
        assert_eq!(made.command_line, format!("\"{program}\" service tunnel \"{file}\""));
        assert_eq!(file_of(&made.command_line), Some(file));
        let manager = manager(program).unwrap();
        assert_eq!(manager.command_line, format!("\"{program}\" service manager"));
        assert_eq!(file_of(&manager.command_line), None);
        for wrong in [r#"C:\a" b"#, r"C:\a\"] {
            assert_eq!(tunnel("office", program, wrong), Err(NotQuotable));
            assert_eq!(super::manager(wrong), Err(NotQuotable));
        }
    }
}
