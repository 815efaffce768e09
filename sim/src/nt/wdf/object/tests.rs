//! The object tree: what is cleaned up, destroyed and refused, and in which order.

use std::cell::RefCell;

use super::*;

/// A machine that writes down what the tree asks of it. Callback addresses are letters.
#[derive(Default)]
struct Recorder {
    log: RefCell<String>,
    allocated: RefCell<u64>,
}

impl Host for Recorder {
    fn allocate(&self, _: usize) -> u64 {
        *self.allocated.borrow_mut() += 1;
        0x1000 * *self.allocated.borrow()
    }

    fn release(&self, _: u64) {
        *self.allocated.borrow_mut() -= 1;
    }

    fn callback(&self, name: &'static str, address: u64, _: u64) {
        let mark = if name == "EvtObjectCleanup" { 'c' } else { 'd' };
        let letter = char::from(u8::try_from(address).unwrap());
        self.log.borrow_mut().extend([mark, letter, ' ']);
    }
}

fn named(letter: u8) -> ContextType {
    ContextType {
        unique: u64::from(letter),
        size: 8,
        cleanup: letter.into(),
        destroy: letter.into(),
    }
}

/// A device `A` with a queue `B`, that with a request `C`; and a queue `D`.
fn family(objects: &Objects, host: &Recorder) -> [Arc<Object>; 4] {
    let a = objects.create(host, Kind::Device, named(b'A'), None);
    let b = objects.create(host, Kind::Queue, named(b'B'), Some(&a));
    let c = objects.create(host, Kind::Request, named(b'C'), Some(&b));
    let d = objects.create(host, Kind::Queue, named(b'D'), Some(&a));
    [a, b, c, d]
}

#[test]
fn all_cleanups_run_before_the_first_destroy_and_children_before_parents() {
    let (objects, host) = (Objects::default(), Recorder::default());
    let [a, ..] = family(&objects, &host);
    assert!(objects.delete(&host, &a));
    assert_eq!(*host.log.borrow(), "cC cB cD cA dC dB dD dA ");
    assert_eq!(*host.allocated.borrow(), 0, "contexts are released");
    assert_eq!(objects.alive(), []);
    assert!(matches!(objects.find(a.handle()), Found::Freed(Kind::Device)));
    assert!(matches!(objects.find(a.handle() + 1), Found::Never));
}

#[test]
fn a_reference_delays_destroy_and_nothing_else() {
    let (objects, host) = (Objects::default(), Recorder::default());
    let [a, b, _, d] = family(&objects, &host);
    b.reference();
    assert!(objects.delete(&host, &a));
    assert_eq!(*host.log.borrow(), "cC cB cD cA dC dD dA ");
    assert_eq!(b.life(), Life::Deleted);
    assert_eq!(b.context(b'B'.into()), Some(0x2000), "contexts may still be used");
    assert_eq!(objects.alive(), [(Kind::Queue, b.handle(), 1)]);
    assert!(objects.dereference(&host, &b));
    assert!(host.log.borrow().ends_with("dB "));
    assert!(!objects.dereference(&host, &d), "the creation reference is not the driver's");
}

#[test]
fn a_child_deleted_alone_is_not_seen_again() {
    let (objects, host) = (Objects::default(), Recorder::default());
    let [a, b, ..] = family(&objects, &host);
    assert!(objects.delete(&host, &b));
    assert!(!objects.delete(&host, &b), "a second time");
    host.log.borrow_mut().clear();
    assert!(objects.delete(&host, &a));
    assert_eq!(*host.log.borrow(), "cD cA dD dA ");
}

#[test]
fn contexts_are_by_type_and_their_callbacks_in_order() {
    let (objects, host) = (Objects::default(), Recorder::default());
    let a = objects.create(&host, Kind::Request, named(b'A'), None);
    let second = a.add_context(&host, named(b'Z'));
    assert!(second.is_ok());
    assert_eq!(a.add_context(&host, named(b'Z')), Err(AddContext::Exists(second.unwrap())));
    assert_eq!(a.context(b'Y'.into()), None);
    Objects::dispose(&host, &a);
    assert_eq!(*host.log.borrow(), "cA cZ ");
    assert_eq!(a.add_context(&host, named(b'Y')), Err(AddContext::DeletePending));
    objects.destroy(&host, &a);
    assert_eq!(*host.log.borrow(), "cA cZ dA dZ ");
}

#[test]
fn the_frameworks_part_comes_between_the_children_and_the_cleanups() {
    let (objects, host) = (Objects::default(), Recorder::default());
    let [a, b, ..] = family(&objects, &host);
    let (done, seen) = std::sync::mpsc::channel();
    let child = Arc::downgrade(&b);
    a.on_dispose(move || done.send(child.upgrade().unwrap().life()).unwrap());
    objects.delete(&host, &a);
    assert_eq!(seen.recv().unwrap(), Life::Disposing);
}
