//! What applying a put costs, and what a key takes in memory: `cargo bench --bench apply`. No disk, no network, no raft:
//! `State::apply` in a loop, a view taken and dropped after every batch as the raft core does. For comparing two
//! builds by nanoseconds, allocations and live bytes; `perf stat` around it gives instructions.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use urd::{
    proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader},
    store::{
        apply::{AppliedBatch, ApplyEntry},
        checkpoint::{self, CheckpointHead},
        state::State,
        types::{Place, Values},
    },
};

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(taken(layout.size()), Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(taken(layout.size()), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        LIVE_BYTES.fetch_add(taken(new_size).wrapping_sub(taken(layout.size())), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

/// What glibc's malloc takes for a request: a word beside it, in steps of 16.
fn taken(size: usize) -> u64 {
    (size as u64 + 8).next_multiple_of(16).max(32)
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct NoValues;

impl Values for NoValues {
    fn read(&self, _: Place) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The CPU time of this thread: what others do on the machine does not count.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills in the one timespec that it is given.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What the raft core makes a batch of: puts that waited for one write of the log.
const BATCH: usize = 100;

struct Load {
    state: State,
    log_bytes: u64,
    random: u64,
}

impl Load {
    fn new() -> Self {
        Load { state: State::new(1), log_bytes: 0, random: 1 }
    }

    /// A number below `count`, in no order.
    fn any(&mut self, count: u64) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % count
    }

    fn entries(&mut self, keys: &[u64]) -> Vec<ApplyEntry> {
        let (applied, _) = self.state.applied();
        keys.iter()
            .zip(applied + 1..)
            .map(|(key, index)| {
                let put = PutRequest {
                    key: format!("key-{key:028}").into(),
                    value: vec![b'v'; 256].into(),
                    ..PutRequest::default()
                };
                let header = Some(RequestHeader { id: index << 8, ..RequestHeader::default() });
                let request = InternalRaftRequest { header, put: Some(put), ..InternalRaftRequest::default() };
                let data = Bytes::from(request.encode_to_vec());
                self.log_bytes += 360;
                let base = Place {
                    segment: (self.log_bytes >> 24) as u32 + 1,
                    offset: self.log_bytes as u32 & 0xff_ffff,
                    len: data.len() as u32,
                };
                ApplyEntry { index, term: 2, base, data, quota_room: Some(1 << 40) }
            })
            .collect()
    }

    fn run(&mut self, what: &str, count: usize, mut key: impl FnMut(&mut Self, usize) -> u64) {
        let (mut nanos, mut allocations) = (0, 0);
        let mut view = self.state.clone();
        for batch in 0..count / BATCH {
            let keys: Vec<u64> = (0..BATCH).map(|at| key(self, batch * BATCH + at)).collect();
            let entries = self.entries(&keys);
            let mut out = AppliedBatch::default();
            let (began, before) = (cpu(), ALLOCATIONS.load(Relaxed));
            for entry in &entries {
                let applied = self.state.apply(entry, &NoValues, &mut out).expect("nothing is read");
                applied.result.expect("a put succeeds");
            }
            view = self.state.clone();
            nanos += (cpu() - began).as_nanos() as u64;
            allocations += ALLOCATIONS.load(Relaxed) - before;
        }
        drop(view);
        let count = count as u64;
        println!("{what:<44} {:>7} ns {:>6.2} allocations a put", nanos / count, allocations as f64 / count as f64);
    }

    /// The state as a checkpoint of it restores it.
    fn through_checkpoint(&self) -> State {
        let began = cpu();
        let mut bytes = Vec::new();
        checkpoint::encode(&self.state, &CheckpointHead::default(), &mut bytes).expect("memory takes it");
        println!("    checkpoint: {:.1} MB, written in {:.0?}", bytes.len() as f64 / 1e6, cpu() - began);
        let began = cpu();
        let state = checkpoint::decode(&mut &bytes[..]).expect("just written").state;
        println!("    read in {:.0?}", cpu() - began);
        state
    }

    /// Compacts to the newest revision, while each slice leaves a view behind that it must not change.
    fn compact(&mut self, what: &str) {
        self.state.index.begin_compaction(self.state.index.current()).expect("a revision of its own");
        let (began, mut slices, mut longest) = (cpu(), 0, 0);
        while self.state.index.compacting() {
            let slice = Instant::now();
            let view = self.state.clone();
            let _ = self.state.index.compaction_step(1000, &mut |_| {});
            drop(view);
            longest = longest.max(slice.elapsed().as_micros());
            slices += 1;
        }
        println!("    compacted {what}: {:.0?} in {slices} slices of 1,000, the longest {longest} us", cpu() - began);
    }

    fn report_memory(&self, empty: u64) {
        let bytes = LIVE_BYTES.load(Relaxed) - empty;
        let index = &self.state.index;
        println!(
            "    {} keys, {} revisions: {:.1} MB in memory, {:.0} bytes a key",
            index.live_keys(),
            index.event_count(),
            bytes as f64 / 1e6,
            bytes as f64 / index.live_keys() as f64
        );
    }
}

fn main() {
    // As a test (`cargo test --all-targets`) it only shows that it runs.
    let scale = if std::env::args().any(|arg| arg == "--bench") { 1 } else { 1000 };
    let million = 1_000_000 / scale;

    let empty = LIVE_BYTES.load(Relaxed);
    let mut load = Load::new();
    let few = 10_000 / scale as u64;
    load.run("10,000 keys, in order, new", few as usize / BATCH * BATCH, |_, at| at as u64);
    load.run("10,000 keys, in no order, overwritten", million, |load, _| load.any(few));
    load.report_memory(empty);
    drop(load);

    let empty = LIVE_BYTES.load(Relaxed);
    let mut load = Load::new();
    load.run("1,000,000 keys, in order, new", million, |_, at| at as u64);
    load.report_memory(empty);
    load.state = load.through_checkpoint();
    load.report_memory(empty);
    load.run("1,000,000 keys, in no order, overwritten", million / 2, |load, _| load.any(million as u64));
    drop(load);

    let empty = LIVE_BYTES.load(Relaxed);
    let mut load = Load::new();
    // A full-period walk: each key once, in no order.
    load.run("1,000,000 keys, in no order, new", million, |_, at| (at as u64 * 600_011 + 7) % million as u64);
    load.report_memory(empty);
    drop(load.through_checkpoint());
    load.compact("with nothing to remove");
    load.run("1,000,000 keys, in no order, overwritten", million, |_, at| (at as u64 * 600_011 + 7) % million as u64);
    load.report_memory(empty);
    load.compact("to half");
    load.report_memory(empty);
}
