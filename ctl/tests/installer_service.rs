//! What the MSI registers is the manager that `penstock install-manager` installs.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use ctl::service::definition::manager;
use inf::installer::{TEMPLATE, read};

#[test]
fn the_msi_registers_the_manager() {
    let tables = read(TEMPLATE).unwrap();
    let services = &tables["ServiceInstall"];
    let [row] = services.rows().collect::<Vec<_>>()[..] else { panic!("one service") };
    let manager = manager(r"C:\penstock.exe").unwrap();
    assert_eq!(row.get("Name"), manager.name);
    assert_eq!(row.get("DisplayName"), manager.display);
    assert_eq!(row.get("Description"), manager.description);
    assert_eq!(row.get("Dependencies"), manager.dependencies.join("[~]"));
    assert_eq!(format!(r#""C:\penstock.exe" {}"#, row.get("Arguments")), manager.command_line);
    let program = row.get("Component_");
    assert_eq!(
        tables["Component"].rows().find(|row| row.name() == program).unwrap().get("KeyPath"),
        "penstock.exe"
    );
}
