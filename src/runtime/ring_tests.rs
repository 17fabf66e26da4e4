use std::{
    io::{PipeReader, Write},
    os::unix::net::UnixStream,
};

use super::*;

fn pipe() -> (Rc<OwnedFd>, std::io::PipeWriter) {
    let (reader, writer): (PipeReader, _) = std::io::pipe().unwrap();
    (Rc::new(reader.into()), writer)
}

fn read(ring: &mut Ring, fd: &Rc<OwnedFd>, len: usize) -> usize {
    ring.begin(Transfer::Read { offset: 0, len }, fd.clone(), Memory::Bytes(Vec::with_capacity(len)))
}

fn take(ring: &mut Ring, key: usize) -> Option<io::Result<Vec<u8>>> {
    let (result, memory) = ring.outcome(key, Waker::noop())?;
    let Memory::Bytes(bytes) = memory else { panic!("the memory comes back") };
    Some(result.map(|count| {
        assert_eq!(count, bytes.len());
        bytes
    }))
}

/// The kernel writes when the pipe has something, long after whoever wanted it has gone.
#[test]
fn memory_lives_until_the_kernel_is_done_with_it() {
    let mut ring = Ring::new(8, 16).unwrap();
    let (fd, mut writer) = pipe();
    let key = read(&mut ring, &fd, 4096);
    let Operation::Transfer { memory: Memory::Bytes(bytes), .. } = &ring.operations[key] else { unreachable!() };
    let address = bytes.as_ptr();
    ring.submit();
    ring.abandon(key);
    let Operation::Transfer { memory: Memory::Bytes(bytes), .. } = &ring.operations[key] else {
        panic!("the operation has its memory")
    };
    assert_eq!((bytes.as_ptr(), bytes.capacity() >= 4096), (address, true));
    assert_eq!((Rc::strong_count(&fd), ring.lent), (2, 1), "and its file");

    writer.write_all(b"late").unwrap();
    ring.settle();
    assert_eq!((Rc::strong_count(&fd), ring.lent, ring.operations.len()), (1, 0, 0), "all of it goes in the end");
}

#[test]
fn a_ring_that_goes_first_leaves_the_memory_to_the_kernel() {
    let mut ring = Ring::new(8, 16).unwrap();
    let (fd, _writer) = pipe();
    read(&mut ring, &fd, 4096);
    ring.submit();
    drop(ring);
    assert_eq!(Rc::strong_count(&fd), 2, "leaked, not freed");
}

#[test]
fn an_outcome_that_nobody_took_is_given_up() {
    let mut ring = Ring::new(8, 16).unwrap();
    let (fd, mut writer) = pipe();
    writer.write_all(b"early").unwrap();
    let key = read(&mut ring, &fd, 100);
    ring.settle();
    ring.abandon(key);
    assert_eq!((Rc::strong_count(&fd), ring.operations.len()), (1, 0));
}

/// More than can wait for submission, and more than can wait to be taken.
#[test]
fn there_may_be_more_operations_than_entries() {
    const OPERATIONS: usize = 500;
    let mut ring = Ring::new(4, 8).unwrap();
    let mut pipes: Vec<_> = (0..OPERATIONS).map(|_| pipe()).collect();
    let keys: Vec<_> = pipes.iter().map(|(fd, _)| read(&mut ring, fd, 16)).collect();
    ring.submit();
    for (number, (_, writer)) in pipes.iter_mut().enumerate() {
        writer.write_all(&number.to_be_bytes()).unwrap();
    }
    ring.settle();
    for (number, key) in keys.into_iter().enumerate() {
        assert_eq!(take(&mut ring, key).unwrap().unwrap(), number.to_be_bytes());
    }
    assert!(ring.operations.is_empty());
}

/// Each poll tells more than once, all of them at a time, many times what the queue of completions holds.
#[test]
fn watches_outlive_an_overflow_of_completions() {
    const SOCKETS: usize = 100;
    let mut ring = Ring::new(4, 8).unwrap();
    let mut sockets: Vec<_> = (0..SOCKETS)
        .map(|_| {
            let (near, far) = UnixStream::pair().unwrap();
            let (fd, readiness) = (Rc::new(OwnedFd::from(near)), Rc::new(Readiness::default()));
            let key = ring.watch(fd.clone(), Side::Reading, readiness.clone());
            (fd, far, readiness, key)
        })
        .collect();
    ring.submit();
    for _ in 0..5 {
        for (_, far, readiness, _) in &mut sockets {
            readiness.forget();
            far.write_all(b"news").unwrap();
        }
        while sockets.iter().any(|(_, _, readiness, _)| !readiness.is_readable()) {
            ring.wait(None);
            ring.reap(&mut Vec::new());
        }
    }
    for (fd, _, _, key) in &sockets {
        ring.end_watch(*key);
        assert_eq!(Rc::strong_count(fd), 1, "the descriptor can be closed at once");
    }
    while !ring.operations.is_empty() {
        ring.wait(None);
        ring.reap(&mut Vec::new());
    }
}

#[test]
fn a_watch_that_has_just_found_something_can_be_ended() {
    let mut ring = Ring::new(8, 16).unwrap();
    for _ in 0..100 {
        let (near, mut far) = UnixStream::pair().unwrap();
        let key = ring.watch(Rc::new(near.into()), Side::Reading, Rc::default());
        ring.submit();
        far.write_all(b"news").unwrap();
        ring.end_watch(key);
        while !ring.operations.is_empty() {
            ring.wait(None);
            ring.reap(&mut Vec::new());
        }
        // The kernel has let go of the socket: the other side sees its end.
        assert_eq!(far.write_all(b"anybody?").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

#[test]
fn what_cannot_be_watched_counts_as_ready() {
    let mut ring = Ring::new(8, 16).unwrap();
    let readiness = Rc::new(Readiness::default());
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let key = ring.watch(Rc::new(file.into()), Side::Reading, readiness.clone());
    while !readiness.is_readable() {
        ring.wait(None);
        ring.reap(&mut Vec::new());
    }
    ring.end_watch(key);
    ring.submit();
    ring.reap(&mut Vec::new());
    assert!(ring.operations.is_empty());
}

/// Whatever stands before them in the queue of submissions, a write and its sync are one outcome.
#[test]
fn a_write_and_its_sync_go_together() {
    use crate::limits::DISK_BLOCK_BYTES;
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("file");
    let file: Rc<OwnedFd> = Rc::new(std::fs::File::create(&path).unwrap().into());
    let full: Rc<OwnedFd> = Rc::new(std::fs::File::create("/dev/full").unwrap().into());
    let mut ring = Ring::new(4, 8).unwrap();
    if !ring.links_syncs() {
        return;
    }
    let (idle, _writer) = pipe();
    let block = [7; DISK_BLOCK_BYTES];
    let mut expected = Vec::new();
    for before in 0..9 {
        let begun: Vec<_> = (0..before).map(|_| read(&mut ring, &idle, 1)).collect();
        let transfer = Transfer::WriteAndDataSync { offset: expected.len() as u64 };
        let written = ring.begin(transfer, file.clone(), Memory::Blocks(Blocks::of(&block)));
        let failed = ring.begin(transfer, full.clone(), Memory::Blocks(Blocks::of(&block)));
        begun.into_iter().for_each(|key| ring.abandon(key));
        let mut outcomes = [None, None];
        while outcomes.iter().any(Option::is_none) {
            ring.wait(None);
            ring.reap(&mut Vec::new());
            for (outcome, key) in outcomes.iter_mut().zip([written, failed]) {
                if outcome.is_none() {
                    *outcome = ring.outcome(key, Waker::noop()).map(|(result, _)| result);
                }
            }
        }
        let [written, failed] = outcomes.map(Option::unwrap);
        assert_eq!(written.unwrap(), block.len());
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        expected.extend_from_slice(&block);
    }
    assert!(std::fs::read(&path).unwrap() == expected);
}

#[test]
fn a_wait_ends_with_its_time() {
    let mut ring = Ring::new(8, 16).unwrap();
    let begun = std::time::Instant::now();
    ring.wait(Some(Duration::from_millis(3)));
    assert!(begun.elapsed() >= Duration::from_millis(3));
    assert!(!ring.has_news());
}
