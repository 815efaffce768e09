//! Examples of broken rules: changes of the real files, each of which breaks one.

use std::fmt::{Debug, Display};

/// A rule, what is changed, and into what.
pub(crate) type Breach<R> = (R, &'static str, &'static str);

/// Each example is told of, and nothing else is but where what is wrong `follows` from a broken rule.
///
/// # Panics
///
/// With those that are not.
pub(crate) fn each_is_told_of_alone<R: Copy + PartialEq + Debug, P: Display>(
    breaches: &[Breach<R>],
    changed: impl Fn(&str, &str) -> Vec<P>,
    rule_of: impl Fn(&P) -> R,
    follows: impl Fn(R) -> bool,
) {
    let mut wrong = Vec::new();
    for (rule, from, to) in breaches {
        let problems = changed(from, to);
        let others = problems.iter().filter(|problem| rule_of(problem) != *rule && !follows(*rule));
        wrong.extend(others.map(|problem| format!("{rule:?}: `{from}` as `{to}`: {problem}")));
        if !problems.iter().any(|problem| rule_of(problem) == *rule) {
            wrong.push(format!("{rule:?}: `{from}` as `{to}` is not told of"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// No rule is without an example.
///
/// # Panics
///
/// With the first that is.
pub(crate) fn each_rule_has_one<R: PartialEq + Debug>(all: &[R], breaches: &[Breach<R>]) {
    for rule in all {
        assert!(breaches.iter().any(|(broken, ..)| broken == rule), "{rule:?} has no example");
    }
}
