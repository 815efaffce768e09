//! Access checks against descriptors made here.

use super::*;

const MAPPING: [u32; 4] = [0x0012_0089, 0x0012_0116, 0x0012_00A0, 0x001F_01FF];
const READ: u32 = 1;
const WRITE: u32 = 2;

fn allow(sid: Sid, mask: u32) -> Entry {
    Entry { kind: ACCESS_ALLOWED, flags: 0, mask, sid }
}

fn deny(sid: Sid, mask: u32) -> Entry {
    Entry { kind: ACCESS_DENIED, flags: 0, mask, sid }
}

fn descriptor(dacl: &[Entry]) -> Descriptor {
    Descriptor { owner: Some(Sid::new(5, &[18])), dacl: Some(dacl.to_vec()), label: None }
}

fn may(descriptor: &Descriptor, token: &Token, wanted: u32) -> bool {
    descriptor.grant(token, wanted, MAPPING) == wanted
}

#[test]
fn system_and_administrators_only() {
    let all = 0x1000_0000;
    let guarded =
        descriptor(&[allow(Sid::new(5, &[18]), all), allow(Token::administrators(), all)]);
    for (token, expected) in [
        (Token::system(), true),
        (Token::administrator(), true),
        (Token::filtered_administrator(), false),
        (Token::user(), false),
    ] {
        assert_eq!(may(&guarded, &token, READ | WRITE), expected, "{}", token.name());
    }
}

#[test]
fn entries_count_in_their_order() {
    let users = Token::users();
    let denied_first =
        descriptor(&[deny(users.clone(), WRITE), allow(users.clone(), READ | WRITE)]);
    assert!(may(&denied_first, &Token::user(), READ) && !may(&denied_first, &Token::user(), WRITE));
    let allowed_first = descriptor(&[allow(users.clone(), READ | WRITE), deny(users, WRITE)]);
    assert!(may(&allowed_first, &Token::user(), READ | WRITE));
}

#[test]
fn a_deny_only_group_denies() {
    let everyone = Sid::new(1, &[0]);
    let barred = descriptor(&[deny(Token::administrators(), READ), allow(everyone, READ)]);
    assert!(may(&barred, &Token::user(), READ));
    assert!(!may(&barred, &Token::filtered_administrator(), READ));
}

#[test]
fn an_empty_dacl_denies_and_none_allows() {
    assert!(!may(&descriptor(&[]), &Token::system(), READ));
    let open = Descriptor { owner: None, dacl: None, label: None };
    assert!(may(&open, &Token::user(), READ | WRITE));
}

#[test]
fn the_owner_may_read_and_change_the_rights() {
    let guarded = descriptor(&[]);
    assert!(may(&guarded, &Token::system(), READ_CONTROL | WRITE_DAC));
    assert!(!may(&guarded, &Token::user(), READ_CONTROL));
}

#[test]
fn integrity_bars_writing_up() {
    let everyone = Sid::new(1, &[0]);
    let mut guarded = descriptor(&[allow(everyone, 0x1000_0000)]);
    assert!(may(&guarded, &Token::user(), WRITE), "no label is medium");
    assert!(
        !may(&guarded, &Token::low_integrity(), WRITE)
            && may(&guarded, &Token::low_integrity(), READ)
    );
    let label = Sid::new(16, &[HIGH]);
    guarded.label =
        Some(Entry { kind: MANDATORY_LABEL, flags: 0, mask: NO_WRITE_UP | NO_READ_UP, sid: label });
    assert!(!may(&guarded, &Token::user(), WRITE) && !may(&guarded, &Token::user(), READ));
    assert!(may(&guarded, &Token::administrator(), READ | WRITE));
}

#[test]
fn a_self_relative_descriptor_is_read() {
    // Control: self-relative, DACL present; DACL of one entry at 20.
    let sid = Sid::new(5, &[18]);
    let mut bytes = vec![1, 0, 0x04, 0x80];
    bytes.extend([0_u32, 0, 0, 20].iter().flat_map(|offset| offset.to_le_bytes()));
    let entry = 8 + sid.0.len();
    bytes.extend([2, 0]);
    bytes.extend(((8 + entry) as u16).to_le_bytes());
    bytes.extend([1, 0, 0, 0, ACCESS_ALLOWED, 0]);
    bytes.extend((entry as u16).to_le_bytes());
    bytes.extend(0x1000_0000_u32.to_le_bytes());
    bytes.extend(&sid.0);
    let read = Descriptor::read(bytes.as_ptr().expose_provenance()).unwrap();
    assert!(read.owner.is_none() && read.label.is_none());
    assert!(may(&read, &Token::system(), READ) && !may(&read, &Token::administrator(), READ));
}
