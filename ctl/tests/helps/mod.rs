//! The help of every command there is, found by the help of the one above it.

/// `$ penstock ... --help` and what it prints, of the commands below `above` that `is_meant`, and those below them.
pub(crate) fn of_commands(
    above: &[&str],
    is_meant: &dyn Fn(&str) -> bool,
    print: &dyn Fn(&[&str]) -> String,
) -> String {
    let help = print(&[above, &["--help"]].concat());
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    // The name stands two spaces in; what is further in goes on with what a command does.
    let names = commands.take_while(|line| !line.is_empty()).filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then_some(name)
    });
    let mut all = String::new();
    for name in names.filter(|name| is_meant(name)) {
        let path = [above, &[name]].concat();
        let help = print(&[&path[..], &["--help"]].concat());
        all += &format!("$ penstock {} --help\n{help}\n", path.join(" "));
        all += &of_commands(&path, &|_| true, print);
    }
    all
}
