//! What the Group Policy template can be made to write is what `penstock policy check` takes, and no more.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::process::{Command, Output};

use inf::templates::{Choices, settings};

fn checked(name: &str, value: &str) -> Output {
    let mut penstock = Command::new(env!("CARGO_BIN_EXE_penstock"));
    penstock.args(["policy", "check", &format!("{name}={value}")]).output().unwrap()
}

#[test]
fn each_choice_is_taken_and_what_lies_beyond_is_not() {
    for setting in settings().unwrap() {
        let name = &setting.value;
        for number in setting.numbers() {
            let output = checked(name, &number.to_string());
            assert!(output.status.success(), "{name}={number}: {output:?}");
        }
        let beyond = match setting.choices {
            Choices::Text(longest) => "!".repeat(longest as usize),
            // What may be written is below the name, and `tunnel_of` judges it.
            Choices::List => "x".into(),
            _ => (setting.numbers().into_iter().max().unwrap() + 1).to_string(),
        };
        assert!(!checked(name, &beyond).status.success(), "{name}={beyond}");
    }
}
