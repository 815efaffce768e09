//! Each rule is broken by a change of a real script, all of which are whole without it.

use std::fs;

use super::{Problem, Rule, check};
use crate::breaches;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts");
/// That of which the examples are changes.
const TUNING: &str = include_str!("../../../scripts/deploy/Set-PenstockTuning.ps1");

#[test]
fn the_scripts_are_right() {
    let mut judged = Vec::new();
    let mut wrong = String::new();
    for folder in ["", "/deploy"] {
        for entry in fs::read_dir(format!("{SCRIPTS}{folder}")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !(name.ends_with(".ps1") || name.ends_with(".psm1")) {
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            for problem in check(&name, &source) {
                wrong += &format!("{name}: {problem}\n");
            }
            judged.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(judged.len(), 9, "{judged:?}");
}

fn changed(from: &str, to: &str) -> Vec<Problem> {
    assert!(TUNING.contains(from), "there is no `{from}`");
    check("Set-PenstockTuning.ps1", &TUNING.replacen(from, to, 1))
}

/// The rule, what is changed, and into what. Only that rule may be broken.
const BREACHES: &[breaches::Breach<Rule>] = &[
    (Rule::Syntax, "$before = @{}", "$before = @{"),
    (Rule::Syntax, "$changed = $false\n", "$changed = $false && $true\n"),
    (Rule::Ascii, "are as asked;", "are \u{201c}as asked\u{201d};"),
    (Rule::Version, "#Requires -Version 5.1\n", ""),
    (Rule::Help, ".SYNOPSIS", "SYNOPSIS"),
    (Rule::Help, ".PARAMETER Remove", ".PARAMETER Removed"),
    (
        Rule::Help,
        ".EXAMPLE\n    .\\Set-PenstockTuning.ps1 -Value @{ ReceiveQueues = 8; ScalingNode = 0 }\n.EXAMPLE\n",
        "",
    ),
    (Rule::Strict, "Set-StrictMode -Version 3.0\n", ""),
    (Rule::Strict, "'Stop'", "'Continue'"),
    (Rule::Typed, "[hashtable] $Value", "$Value"),
    (Rule::Typed, "[CmdletBinding(SupportsShouldProcess = $true)]\n", "# SupportsShouldProcess\n"),
    (Rule::Asks, "if ($PSCmdlet.ShouldProcess($name, \"Set to $data\")) {", "if ($data) {"),
    (
        Rule::Asks,
        "elseif ($Value.Count -gt 0 -and $PSCmdlet.ShouldProcess($key, 'Make the key'))",
        "elseif ($Value.Count -gt 0)",
    ),
    (Rule::Supports, "SupportsShouldProcess = $true", "PositionalBinding = $false"),
    (Rule::Alias, "Get-Item -LiteralPath $key", "gi -LiteralPath $key"),
    (Rule::Named, "Get-Item -LiteralPath $key", "Get-Item $key $name"),
    (Rule::Known, "Get-Item -LiteralPath $key", "Get-Item -LiteralPaths $key"),
    (Rule::Known, "exit 0", "Get-Everything\nexit 0"),
    (Rule::Known, "-Path $program -Argument", "-Path $program -Arguments"),
    (Rule::WriteHost, "exit 0", "Write-Host -Object 'set'\nexit 0"),
    (Rule::Expression, "exit 0", "Invoke-Expression -Command $key\nexit 0"),
    (
        Rule::Verb,
        "$settings = @(",
        "function Apply-Value {\n    <#\n    .SYNOPSIS\n    x\n    .DESCRIPTION\n    x\n    .EXAMPLE\n    x\n    #>\n    param()\n    $null\n}\n$settings = @(",
    ),
    (Rule::ExitCode, "exit 0", "pnputil.exe /scan-devices\nexit 0"),
    (Rule::ExitCode, "exit 0", "& $program policy apply\nexit 0"),
    (
        Rule::Secret,
        "[hashtable] $Value = @{},",
        "[hashtable] $Value = @{},\n    [string] $Password,",
    ),
    (Rule::Secret, "-Argument 'policy', 'apply'", "-Argument 'policy', $PrivateKey"),
];

#[test]
fn each_rule_is_broken_by_its_examples_alone() {
    // What cannot be parsed has nothing in its place, and a new parameter no help.
    let follows = |rule| matches!(rule, Rule::Syntax | Rule::Secret);
    breaches::each_is_told_of_alone(BREACHES, changed, |problem| problem.rule, follows);
    breaches::each_rule_has_one(Rule::ALL, BREACHES);
}
