//! The page of events says what the table does.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

mod expected;

#[test]
fn the_page_lists_every_event() {
    expected::expect("../../docs/events.md", &ctl::service::events::page());
}
