//! X25519's part: that a step of the ladder goes one way only, whatever its numbers.

use crate::code::Code;

#[test]
fn a_step_of_the_ladder_has_no_branch() {
    let code = Code::read();
    for at in code.named("protocol::curve25519::step") {
        let step = &code.0[&at];
        assert_eq!((step.branches, step.calls.len(), step.is_open), (0, 0, false), "{}", step.name);
    }
    let whole = code.named("protocol::curve25519::x25519");
    assert!(whole.iter().any(|at| code.0[at].branches > 0), "what counts branches finds none");
}
