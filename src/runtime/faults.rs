//! Makes durable writes fail on command, so that what follows can be tested without a disk that does: in builds with debug
//! assertions only, by the variable URD_FAULT. `write:17:5` is: after 17 writes every one fails with errno 5 before it
//! begins; `sync:17:5`: the same once the bytes are written, before they are durable.

use std::io;

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Write,
    Sync,
}

#[cfg(not(debug_assertions))]
#[inline]
pub(super) fn check(_: Step) -> io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
pub(super) fn check(step: Step) -> io::Result<()> {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let text = std::env::var("URD_FAULT").ok()?;
        Some(Fault::parse(&text).unwrap_or_else(|| panic!("URD_FAULT={text} is none")))
    });
    static DONE: AtomicU64 = AtomicU64::new(0);

    match &*FAULT {
        Some(fault) if fault.step == step && DONE.fetch_add(1, Relaxed) >= fault.after => {
            Err(io::Error::from_raw_os_error(fault.errno))
        }
        _ => Ok(()),
    }
}

#[cfg(debug_assertions)]
struct Fault {
    step: Step,
    after: u64,
    errno: i32,
}

#[cfg(debug_assertions)]
impl Fault {
    fn parse(text: &str) -> Option<Fault> {
        let mut parts = text.split(':');
        let step = match parts.next()? {
            "write" => Step::Write,
            "sync" => Step::Sync,
            _ => return None,
        };
        Some(Fault { step, after: parts.next()?.parse().ok()?, errno: parts.next()?.parse().ok()? })
    }
}
