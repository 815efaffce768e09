//! The PowerShell scripts of `scripts/`, judged: no PowerShell runs here, so a parser of its language and rules of our own must do.
//!
//! The parser is that of tree-sitter, whose grammar is of PowerShell 5.1 and takes some that PowerShell would refuse: a script
//! that passes may be wrong, and one that does not is. Rules are those of PSScriptAnalyzer that can be judged by the text alone,
//! under its names in the comments, and our own.
//!
//! Source: <https://learn.microsoft.com/powershell/utility-modules/psscriptanalyzer/rules/readme>.

use std::fmt;

use tree_sitter::{Node, Parser, Tree};

mod commands;
mod tests;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// It is PowerShell, of version 5.1.
    Syntax,
    /// ASCII: 5.1 reads others by the machine's code page.
    Ascii,
    /// The version that is needed is said (`#Requires -Version 5.1`).
    Version,
    /// Comment-based help (PSProvideCommentHelp): of a script also a description, an example, and each parameter.
    Help,
    /// Strict mode, and errors that stop, before anything else.
    Strict,
    /// A parameter has a type, and a script `CmdletBinding`.
    Typed,
    /// What changes something asks `ShouldProcess` first (PSUseShouldProcessForStateChangingFunctions).
    Asks,
    /// A script that asks can be asked: it has `SupportsShouldProcess`, and who has it asks (PSShouldProcess).
    Supports,
    /// Commands by their names (PSAvoidUsingCmdletAliases).
    Alias,
    /// Parameters by their names (PSAvoidUsingPositionalParameters), one position excepted.
    Named,
    /// A command is one that is known to be there, and has the parameters that it is given (PSUseCompatibleCommands).
    Known,
    /// No Write-Host (PSAvoidUsingWriteHost).
    WriteHost,
    /// No text is run (PSAvoidUsingInvokeExpression).
    Expression,
    /// Verbs are approved ones (PSUseApprovedVerbs), and a script is called by one.
    Verb,
    /// Who runs a program looks at how it ended.
    ExitCode,
    /// No secret is a parameter, or an argument (PSAvoidUsingPlainTextForPassword).
    Secret,
}

impl Rule {
    const ALL: &[Self] = &[
        Self::Syntax,
        Self::Ascii,
        Self::Version,
        Self::Help,
        Self::Strict,
        Self::Typed,
        Self::Asks,
        Self::Supports,
        Self::Alias,
        Self::Named,
        Self::Known,
        Self::WriteHost,
        Self::Expression,
        Self::Verb,
        Self::ExitCode,
        Self::Secret,
    ];
}

/// Those approved that a script of ours could have.
///
/// Source: <https://learn.microsoft.com/powershell/scripting/developer/cmdlet/approved-verbs-for-windows-powershell-commands>.
const VERBS: &[&str] = &[
    "Add",
    "Clear",
    "Close",
    "Copy",
    "Enter",
    "Exit",
    "Find",
    "Get",
    "Hide",
    "Join",
    "Lock",
    "Move",
    "New",
    "Open",
    "Pop",
    "Push",
    "Redo",
    "Remove",
    "Rename",
    "Reset",
    "Search",
    "Select",
    "Set",
    "Show",
    "Skip",
    "Split",
    "Step",
    "Switch",
    "Undo",
    "Unlock",
    "Watch",
    "Backup",
    "Compare",
    "Convert",
    "ConvertFrom",
    "ConvertTo",
    "Export",
    "Import",
    "Initialize",
    "Limit",
    "Merge",
    "Mount",
    "Out",
    "Publish",
    "Restore",
    "Save",
    "Sync",
    "Update",
    "Measure",
    "Ping",
    "Repair",
    "Resolve",
    "Test",
    "Trace",
    "Disable",
    "Enable",
    "Install",
    "Invoke",
    "Register",
    "Request",
    "Restart",
    "Resume",
    "Start",
    "Stop",
    "Submit",
    "Suspend",
    "Uninstall",
    "Unregister",
    "Wait",
    "Write",
    "Read",
    "Receive",
    "Send",
    "Grant",
    "Revoke",
    "Protect",
    "Unprotect",
];
/// Verbs of commands that change something.
const CHANGING: &[&str] = &[
    "Add",
    "Clear",
    "Copy",
    "Disable",
    "Enable",
    "Install",
    "Move",
    "New",
    "Remove",
    "Rename",
    "Restart",
    "Set",
    "Start",
    "Stop",
    "Uninstall",
    "Update",
];
/// And those that do not, in spite of their verbs, or that run what was asked about.
const HARMLESS: &[&str] =
    &["New-Object", "Set-StrictMode", "Start-Sleep", "Start-Job", "Remove-Job"];
/// What is run to change something, though its verb says nothing of that.
const RUNNING: &[&str] = &["Invoke-PenstockInstaller"];
/// What the scripts share.
const MODULE: &str = include_str!("../../scripts/deploy/Penstock.psm1");
const SECRETS: &[&str] = &["password", "privatekey", "presharedkey", "secret", "passphrase"];

struct Problem {
    line: usize,
    rule: Rule,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, rule, text } = self;
        write!(f, "line {line}: {rule:?}: {text}")
    }
}

/// A script that is judged.
struct Report<'a> {
    source: &'a str,
    /// Functions that it can call, with their parameters.
    functions: Vec<(&'a str, Vec<&'a str>)>,
    problems: Vec<Problem>,
}

/// What is wrong with the script of this name.
fn check(name: &str, source: &str) -> Vec<Problem> {
    let tree = parse(source);
    let functions = [functions(source), functions(MODULE)].concat();
    let mut report = Report { source, functions, problems: Vec::new() };
    let root = tree.root_node();
    report.whole(name, root);
    for node in all(root) {
        match node.kind() {
            "command" => report.command(node),
            "function_statement" => report.function(node),
            "script_parameter" => report.parameter(node),
            "pipeline_chain_tail" => report.tell(node, Rule::Syntax, "5.1 knows no `&&` and `||`"),
            _ if node.is_error() || node.is_missing() => {
                report.tell(node, Rule::Syntax, "this is no PowerShell")
            }
            _ => {}
        }
    }
    let mut problems = report.problems;
    problems.sort_by_key(|problem| problem.line);
    problems
}

fn parse(source: &str) -> Tree {
    let mut parser = Parser::new();
    parser
        .set_language(&tree_sitter_powershell::LANGUAGE.into())
        .expect("the grammar is of this parser's version");
    parser.parse(source, None).expect("nothing stops the parser")
}

/// The functions of a script, with their parameters.
fn functions(source: &str) -> Vec<(&str, Vec<&str>)> {
    let tree = parse(source);
    let functions =
        all(tree.root_node()).into_iter().filter(|node| node.kind() == "function_statement");
    let text = |node: Node<'_>| source.get(node.byte_range()).unwrap_or_default();
    functions
        .map(|function| {
            let name = children(function, "function_name").next().map_or("", text);
            let parameters =
                all(function).into_iter().filter(|node| node.kind() == "script_parameter");
            (name, parameters.map(|node| parameter_name(source, node)).collect())
        })
        .collect()
}

/// A node and all below it.
fn all(root: Node<'_>) -> Vec<Node<'_>> {
    let mut nodes = vec![root];
    let mut at = 0;
    while let Some(node) = nodes.get(at).copied() {
        nodes.extend((0..node.child_count()).filter_map(|child| node.child(child)));
        at += 1;
    }
    nodes
}

impl<'a> Report<'a> {
    fn tell(&mut self, at: Node<'_>, rule: Rule, text: impl Into<String>) {
        self.problems.push(Problem { line: at.start_position().row + 1, rule, text: text.into() });
    }

    fn text(&self, node: Node<'_>) -> &'a str {
        self.source.get(node.byte_range()).unwrap_or_default()
    }

    fn whole(&mut self, name: &str, root: Node<'_>) {
        if let Some(letter) = self.source.chars().find(|letter| !letter.is_ascii()) {
            self.tell(root, Rule::Ascii, format!("`{letter}`"));
        }
        if !self.source.contains("\n#Requires -Version 5.1\n") {
            self.tell(root, Rule::Version, "it does not say `#Requires -Version 5.1`");
        }
        let parameters = children(root, "param_block").next();
        let help = children(root, "comment").next().map_or("", |comment| self.text(comment));
        self.help(root, help, parameters);
        for line in ["\nSet-StrictMode -Version 3.0\n", "\n$ErrorActionPreference = 'Stop'\n"] {
            if !self.source.contains(line) {
                self.tell(root, Rule::Strict, format!("there is no `{}`", line.trim()));
            }
        }
        let (file, is_module) =
            name.strip_suffix(".psm1").map_or((name, false), |name| (name, true));
        if !is_module {
            self.verb(root, file.trim_end_matches(".ps1"));
            if parameters.is_none() || !self.source.contains("\n[CmdletBinding(") {
                self.tell(root, Rule::Typed, "it has no `[CmdletBinding()]` and `param()`");
            }
        }
        let outer: Vec<_> = all(root)
            .into_iter()
            .filter(|node| enclosing(*node, "function_statement").is_none())
            .collect();
        let header = self.source.split("\nparam(").next().unwrap_or_default();
        self.supports(root, header.contains("SupportsShouldProcess"), &outer);
    }

    /// Whoever says that it can be asked must ask, and the other way round.
    fn supports(&mut self, at: Node<'_>, says: bool, within: &[Node<'_>]) {
        let asks = within.iter().any(|node| self.asks(*node));
        if says != asks {
            let text = if says {
                "it never asks `ShouldProcess`"
            } else {
                "it asks, without `SupportsShouldProcess`"
            };
            self.tell(at, Rule::Supports, text);
        }
    }

    fn asks(&self, node: Node<'_>) -> bool {
        node.kind() == "invokation_expression"
            && self.text(node).starts_with("$PSCmdlet.ShouldProcess(")
    }

    fn help(&mut self, root: Node<'_>, help: &str, parameters: Option<Node<'_>>) {
        for wanted in [".SYNOPSIS", ".DESCRIPTION", ".EXAMPLE"] {
            if !has_line(help, wanted) {
                self.tell(root, Rule::Help, format!("it has no {wanted}"));
            }
        }
        let parameters = parameters.map(all).unwrap_or_default();
        for parameter in parameters.iter().filter(|node| node.kind() == "script_parameter") {
            let name = parameter_name(self.source, *parameter);
            if !has_line(help, &format!(".PARAMETER {name}")) {
                self.tell(*parameter, Rule::Help, format!("nothing is said of {name}"));
            }
        }
    }

    fn parameter(&mut self, node: Node<'_>) {
        let name = parameter_name(self.source, node);
        let typed = all(node).into_iter().any(|node| {
            node.kind() == "attribute" && children(node, "type_literal").next().is_some()
        });
        if !typed {
            self.tell(node, Rule::Typed, format!("{name} has no type"));
        }
        let lower = name.to_ascii_lowercase();
        let is_switch = self.text(node).contains("[switch]");
        if !is_switch && SECRETS.iter().any(|secret| lower.contains(secret)) {
            self.tell(
                node,
                Rule::Secret,
                format!("{name}: whoever gives it leaves it in histories and logs"),
            );
        }
    }

    fn function(&mut self, node: Node<'_>) {
        let name = children(node, "function_name").next().map_or("", |name| self.text(name));
        self.verb(node, name);
        let inner = all(node);
        let help = inner.iter().find(|node| node.kind() == "comment");
        if !help.is_some_and(|help| has_line(self.text(*help), ".SYNOPSIS")) {
            self.tell(node, Rule::Help, format!("{name} has no .SYNOPSIS"));
        }
        let says = self.text(node).contains("SupportsShouldProcess");
        self.supports(node, says, &inner);
    }

    fn verb(&mut self, node: Node<'_>, name: &str) {
        let verb = name.split_once('-').map_or("", |(verb, _)| verb);
        if !VERBS.contains(&verb) {
            self.tell(node, Rule::Verb, format!("{name}: its verb is none of PowerShell's"));
        }
    }

    fn command(&mut self, node: Node<'_>) {
        let elements: Vec<_> = children(node, "command_elements")
            .flat_map(|elements| {
                (0..elements.child_count()).filter_map(move |at| elements.child(at))
            })
            .filter(|element| element.kind() != "command_argument_sep")
            .collect();
        let Some(name) = node.child_by_field_name("command_name") else { return };
        let command = self.text(name);
        let (verb, noun) = command.split_once('-').unwrap_or((command, ""));
        let is_program = children(node, "command_invokation_operator").next().is_some()
            || command.ends_with(".exe");
        if is_program {
            self.program(node, command);
            return;
        }
        if command.eq_ignore_ascii_case("Invoke-Expression") {
            self.tell(node, Rule::Expression, "a text is run as a script");
        } else if command == "Write-Host" {
            self.tell(node, Rule::WriteHost, "nobody can catch what it writes");
        } else if noun.is_empty() {
            self.tell(
                node,
                Rule::Alias,
                format!("`{command}`: a command has its whole name, a program its `.exe`"),
            );
        } else if (CHANGING.contains(&verb) && !HARMLESS.contains(&command))
            || RUNNING.contains(&command)
        {
            self.asked(node, command);
        }
        if !noun.is_empty() {
            self.known(node, command, &elements);
        }
        let mut positions = 0;
        for (at, element) in elements.iter().enumerate() {
            let after = at.checked_sub(1).and_then(|before| elements.get(before));
            let is_value = after.is_some_and(|before| {
                before.kind() == "command_parameter" || self.text(*before) == ","
            });
            let text = self.text(*element);
            let is_argument = element.kind() != "command_parameter" && text != ",";
            if is_argument && !is_value && !text.starts_with('@') {
                positions += 1;
            }
        }
        if positions > 1 {
            self.tell(
                node,
                Rule::Named,
                format!("{command}: {positions} arguments have no parameter's name"),
            );
        }
        let secret = elements.iter().flat_map(|element| all(*element)).any(|node| {
            let text = self.text(node).to_ascii_lowercase();
            node.kind() == "variable" && SECRETS.iter().any(|secret| text.contains(secret))
        });
        if secret {
            self.tell(node, Rule::Secret, format!("{command} is given a secret"));
        }
    }

    fn known(&mut self, node: Node<'_>, command: &str, elements: &[Node<'_>]) {
        let own = self.functions.iter().find(|(name, _)| *name == command);
        let Some(parameters) =
            own.map(|(_, own)| own.as_slice()).or_else(|| commands::parameters(command))
        else {
            self.tell(node, Rule::Known, format!("{command}: its table has no such command"));
            return;
        };
        let parameters = parameters.to_vec();
        for element in elements.iter().filter(|element| element.kind() == "command_parameter") {
            let name = self.text(*element).trim_matches(['-', ':']);
            if !parameters.contains(&name) && !commands::COMMON.contains(&name) {
                self.tell(*element, Rule::Known, format!("{command} has no parameter {name}"));
            }
        }
    }

    /// A program of which nothing is known may change something; who looks at its exit code is of the same block.
    fn program(&mut self, node: Node<'_>, command: &str) {
        // A block of the script's own is no program.
        if command.starts_with("$call")
            || command.starts_with("$checks")
            || command.starts_with("$Configure")
        {
            return;
        }
        let block = enclosing(node, "script_block").or_else(|| enclosing(node, "statement_block"));
        let text = block.map_or(self.source, |block| self.text(block));
        if !text.contains("$LASTEXITCODE") {
            self.tell(node, Rule::ExitCode, format!("{command}: nobody looks at $LASTEXITCODE"));
        }
    }

    /// It is in an `if` that asks, or behind one that leaves where the answer was no; or what is called asks itself.
    fn asked(&mut self, node: Node<'_>, command: &str) {
        let mut at = Some(node);
        while let Some(inner) = at {
            let is_branch = matches!(inner.kind(), "if_statement" | "elseif_clause");
            let condition = inner.child_by_field_name("condition").unwrap_or(inner);
            if is_branch && all(condition).iter().any(|node| self.asks(*node)) {
                return;
            }
            if inner.kind() == "statement_list" && self.leaves_before(inner, node) {
                return;
            }
            at = inner.parent();
        }
        let definition = format!("function {command} {{");
        let called = self.source.split(&definition).nth(1);
        let called = called.and_then(|rest| rest.split("\n}\n").next());
        let asks_itself = called.is_some_and(|body| body.contains("$PSCmdlet.ShouldProcess("));
        // What only runs what others asked about says so by its verb.
        let function = enclosing(node, "function_statement");
        let name = function.and_then(|function| children(function, "function_name").next());
        let only_runs = name.is_some_and(|name| self.text(name).starts_with("Invoke-"));
        if !asks_itself && !only_runs {
            self.tell(node, Rule::Asks, format!("{command}: nobody asked `ShouldProcess`"));
        }
    }

    /// A statement of the list leaves unless it was allowed, and stands before the node, or before the call of a function that it is in.
    fn leaves_before(&self, list: Node<'_>, node: Node<'_>) -> bool {
        let function = enclosing(node, "function_statement");
        let is_in_function = function.is_some_and(|function| function.parent() == Some(list));
        children(list, "if_statement").any(|guard| {
            let text = self.text(guard);
            text.starts_with("if (-not $PSCmdlet.ShouldProcess(")
                && ["exit 0", "return"].iter().any(|leave| has_line(text, leave))
                && (is_in_function || guard.end_byte() < node.start_byte())
        })
    }
}

fn parameter_name<'a>(source: &'a str, parameter: Node<'_>) -> &'a str {
    let variable = children(parameter, "variable").next();
    let text = variable.and_then(|variable| source.get(variable.byte_range()));
    text.unwrap_or_default().trim_start_matches('$')
}

fn has_line(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| line.trim() == wanted)
}

/// The children of a kind, comments and the like left out.
fn children<'a>(of: Node<'a>, kind: &'static str) -> impl Iterator<Item = Node<'a>> {
    (0..of.child_count()).filter_map(move |at| of.child(at)).filter(move |node| node.kind() == kind)
}

/// The nearest node of a kind that a node is in.
fn enclosing<'a>(node: Node<'a>, kind: &str) -> Option<Node<'a>> {
    let mut at = node.parent();
    while let Some(outer) = at {
        if outer.kind() == kind {
            return Some(outer);
        }
        at = outer.parent();
    }
    None
}
