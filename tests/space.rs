//! Space: a store that is overwritten without end stays as large as what lives in it, and one that does not fit the
//! memory kept for it reads as well as one that does. Every value can be computed from its key and serial number, so
//! each byte that comes back is checked.

mod server;

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use server::{Server, ended_well, is_reference, soon};
use urd::{error, limits, random::Random};
use urd_client::{Client, etcdserverpb::*, mvccpb::KeyValue, op};

const KIB: usize = 1024;
const MIB: u64 = 1024 * 1024;

/// 10 B to 200 KiB; each doubling of the length is as likely as the others.
fn value(key: u64, serial: u64) -> Vec<u8> {
    let mut random = Random(key << 40 ^ serial);
    let least = 10 << random.below(15);
    let len = (least + random.below(least)).min(200 * KIB as u64);
    random.bytes(len as usize)
}

fn name(key: u64) -> String {
    format!("key{key:04}")
}

/// All keys, at a revision (0: now).
fn all(revision: i64) -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() }
}

/// Bytes of all files in a data directory.
fn bytes_of(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        match entry?.metadata() {
            Ok(metadata) => sum += metadata.len(),
            // A file that is taken back just now.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(sum)
}

async fn compact(client: &Client, revision: i64, physical: bool) {
    let compacted = client.call(&CompactionRequest { revision, physical }).await;
    compacted.unwrap_or_else(|refusal| panic!("compaction to {revision}: {refusal}"));
}

const CLIENTS: u64 = 4;
const KEYS: u64 = 200;
const WRITES_A_ROUND: u64 = 600;
/// N; there are three times as many rounds.
const ROUNDS: u64 = 4;
/// Revisions that a compaction leaves to be read.
const RETAINED: i64 = 120;

/// What a revision did to a key: the serial number of its value, None for a delete.
type Change = (u64, Option<u64>);

/// A client with keys of its own, of which it knows what they must be.
struct Churner {
    number: u64,
    random: Random,
    serial: u64,
    /// By revision.
    changes: BTreeMap<i64, Change>,
    live: BTreeMap<u64, (i64, u64)>,
}

impl Churner {
    fn new(number: u64) -> Self {
        Churner { number, random: Random(number), serial: 0, changes: BTreeMap::new(), live: BTreeMap::new() }
    }

    fn any_key(&mut self) -> u64 {
        self.number + CLIENTS * self.random.below(KEYS / CLIENTS)
    }

    /// Its part of a round. `compacting`: the highest revision that anybody has asked to compact.
    async fn run(&mut self, client: &Client, done: &AtomicU64, compacting: &AtomicI64) {
        for _ in 0..WRITES_A_ROUND / CLIENTS {
            let key = self.any_key();
            if self.random.below(20) == 0 {
                let deleted = client.delete(name(key)).await.unwrap();
                let was = self.live.remove(&key);
                assert_eq!(deleted.deleted, i64::from(was.is_some()), "{}", name(key));
                if was.is_some() {
                    self.changes.insert(deleted.header.unwrap().revision, (key, None));
                }
            } else {
                self.serial += 1;
                let put = client.put(name(key), value(key, self.serial)).await.unwrap();
                let revision = put.header.unwrap().revision;
                self.changes.insert(revision, (key, Some(self.serial)));
                self.live.insert(key, (revision, self.serial));
            }
            done.fetch_add(1, SeqCst);
            match self.random.below(4) {
                0 => self.read_now(client).await,
                1 => self.read_past(client, compacting).await,
                _ => {}
            }
        }
    }

    async fn read_now(&mut self, client: &Client) {
        let key = self.any_key();
        let found = client.get(name(key)).await.unwrap().kvs;
        match self.live.get(&key) {
            Some((revision, serial)) => is_exactly(&found, key, *revision, *serial),
            None => assert_eq!(found.len(), 0, "{} was deleted", name(key)),
        }
    }

    /// A key as it was right after one of its last changes.
    async fn read_past(&mut self, client: &Client, compacting: &AtomicI64) {
        let back = self.random.below(30) as usize;
        let Some((&revision, &(key, serial))) = self.changes.iter().rev().nth(back) else { return };
        let past = RangeRequest { key: name(key).into(), revision, ..Default::default() };
        match client.call(&past).await {
            Ok(found) => match serial {
                Some(serial) => is_exactly(&found.kvs, key, revision, serial),
                None => assert_eq!(found.kvs.len(), 0, "{} was deleted at {revision}", name(key)),
            },
            Err(refusal) => {
                assert!(refusal.is(&error::COMPACTED), "{refusal}");
                assert!(revision < compacting.load(SeqCst), "{revision} was not compacted");
            }
        }
    }
}

#[track_caller]
fn is_exactly(found: &[KeyValue], key: u64, revision: i64, serial: u64) {
    let [kv] = found else { panic!("{} of revision {revision} found {} times", name(key), found.len()) };
    is(kv, key, revision, serial);
}

/// Not with `assert_eq`: nobody wants to read 200 KiB.
#[track_caller]
fn is(kv: &KeyValue, key: u64, revision: i64, serial: u64) {
    assert_eq!((&kv.key[..], kv.mod_revision), (name(key).as_bytes(), revision));
    assert!(kv.value == value(key, serial), "the value of {} of revision {revision} is another one", name(key));
}

/// Everything that all clients have done.
fn merged(churners: &[Churner]) -> BTreeMap<i64, Change> {
    churners.iter().flat_map(|churner| &churner.changes).map(|(revision, change)| (*revision, *change)).collect()
}

/// The keys that lived at a revision, each with the revision and serial number of its value.
fn lived(changes: &BTreeMap<i64, Change>, at: i64) -> BTreeMap<u64, (i64, u64)> {
    let mut live = BTreeMap::new();
    for (revision, (key, serial)) in changes.range(..=at) {
        match serial {
            Some(serial) => live.insert(*key, (*revision, *serial)),
            None => live.remove(key),
        };
    }
    live
}

/// The store at the compacted revision and now, and every event in between, each with what it replaced.
async fn verify(client: &Client, changes: &BTreeMap<i64, Change>, compacted: i64) {
    let current = *changes.last_key_value().expect("there were changes").0;
    assert!(changes.keys().copied().eq(2..=current), "every revision is somebody's");
    for (asked, at) in [(0, current), (compacted, compacted), (compacted + RETAINED / 2, compacted + RETAINED / 2)] {
        let found = client.call(&all(asked)).await.unwrap();
        let wanted = lived(changes, at);
        assert_eq!(found.kvs.len(), wanted.len(), "keys at {at}");
        for (kv, (key, (revision, serial))) in found.kvs.iter().zip(wanted) {
            is(kv, key, revision, serial);
        }
    }
    let mut watcher = client.watcher().await.unwrap();
    let watch = WatchCreateRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        start_revision: compacted + 1,
        prev_kv: true,
        ..Default::default()
    };
    watcher.create(watch).unwrap();
    let mut live = lived(changes, compacted);
    let mut wanted = changes.range(compacted + 1..);
    let mut seen = compacted;
    while seen < current {
        let response = soon(watcher.next()).await.unwrap();
        assert!(!response.canceled, "{response:?}");
        for event in &response.events {
            let (revision, (key, serial)) = wanted.next().expect("an event that never was");
            let before = live.get(key).copied();
            match (&event.prev_kv, before) {
                (Some(kv), Some((revision, serial))) => is(kv, *key, revision, serial),
                (None, None) => {}
                _ => panic!("what {} was before {revision} is told wrong", name(*key)),
            }
            let kv = event.kv.as_ref().expect("an event has a key");
            match serial {
                Some(serial) => {
                    is(kv, *key, *revision, *serial);
                    live.insert(*key, (*revision, *serial));
                }
                None => {
                    assert_eq!((&kv.key[..], kv.mod_revision), (name(*key).as_bytes(), *revision));
                    live.remove(key);
                }
            }
            seen = *revision;
        }
    }
}

/// Compacts while clients write, and in every second round defragments too. Gives what it has compacted to.
async fn keep(client: &Client, round: u64, done: &AtomicU64, compacting: &AtomicI64) -> i64 {
    let mut compacted = compacting.load(SeqCst);
    for step in 1..=3 {
        while done.load(SeqCst) < step * WRITES_A_ROUND / 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let current = client.get("nothing").await.unwrap().header.unwrap().revision;
        let revision = current - RETAINED;
        if revision > compacted.max(1) {
            compacting.store(revision, SeqCst);
            compact(client, revision, (round + step).is_multiple_of(2)).await;
            compacted = revision;
        }
        if round.is_multiple_of(2) {
            client.call(&DefragmentRequest {}).await.unwrap();
        }
    }
    compacted
}

#[tokio::test]
async fn a_store_overwritten_without_end_stays_small_and_right() {
    let mut server = Server::start().await;
    let mut churners: Vec<Churner> = (0..CLIENTS).map(Churner::new).collect();
    let compacting = Arc::new(AtomicI64::new(0));
    let mut sizes = Vec::new();
    let mut written = 0;
    for round in 1..=3 * ROUNDS {
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for mut churner in churners.drain(..) {
            let (client, done, compacting) = (server.client().await, done.clone(), compacting.clone());
            tasks.push(tokio::spawn(async move {
                churner.run(&client, &done, &compacting).await;
                churner
            }));
        }
        let client = server.client().await;
        let compacted = soon(keep(&client, round, &done, &compacting)).await;
        for task in tasks {
            churners.push(soon(task).await.expect("a client saw what it must"));
        }
        let changes = merged(&churners);
        verify(&client, &changes, compacted).await;
        sizes.push(bytes_of(&server.data_dir()).unwrap());
        written = changes.values().filter_map(|(key, serial)| Some(value(*key, (*serial)?).len() as u64)).sum();
    }
    // Garbage came to many times what the files may grow by, segments that wait to be used again included.
    let (first, last) = (sizes[..ROUNDS as usize].iter().max().unwrap(), sizes.last().unwrap());
    let segment = u64::from(limits::SEGMENT_BYTES_DEFAULT);
    let slack = limits::CHECKPOINT_LOG_BYTES + limits::SPARE_SEGMENTS_MAX as u64 * segment;
    assert!(written > 12 * MIB * ROUNDS, "only {written} bytes were written");
    assert!(is_reference() || *last <= first + slack, "the files grow: {sizes:?}");

    let client = server.client().await;
    let changes = merged(&churners);
    let current = *changes.last_key_value().unwrap().0;
    compact(&client, current, true).await;
    client.call(&DefragmentRequest {}).await.unwrap();
    let live = lived(&changes, current);
    let live_bytes: u64 = live.iter().map(|(key, (_, serial))| value(*key, *serial).len() as u64).sum();
    let status = client.status().await.unwrap();
    let size = status.db_size as u64;
    assert!(size >= live_bytes && size <= 2 * live_bytes + MIB, "dbSize is {size}, {live_bytes} bytes live");
    assert!(status.db_size_in_use <= status.db_size);
    if !is_reference() {
        // One segment of what lives, the one written, the one prepared, and spares; once no reader holds the others.
        let most = (3 + limits::SPARE_SEGMENTS_MAX as u64) * segment + live_bytes + MIB;
        soon(async {
            while bytes_of(&server.data_dir()).unwrap() > most {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    let hash = client.hash_kv(0).await.unwrap();
    for crash in [true, false] {
        if crash {
            server.kill();
        } else {
            assert!(ended_well(server.terminate()));
        }
        server.restart().await;
        let client = server.client().await;
        let again = client.hash_kv(0).await.unwrap();
        assert_eq!((again.hash, again.compact_revision), (hash.hash, current));
        let found = client.call(&all(0)).await.unwrap().kvs;
        assert_eq!(found.len(), live.len());
        for (kv, (key, (revision, serial))) in found.iter().zip(&live) {
            is(kv, *key, *revision, *serial);
        }
    }
    println!("{written} bytes written, {live_bytes} live; files after each round: {sizes:?}; dbSize in the end {size}");
}

const LARGE: usize = 64 * KIB;
/// About 120 MiB, twice what is kept in memory.
const MANY: u64 = 1920;

fn large(key: u64, serial: u64) -> Bytes {
    Random(key << 40 ^ serial).bytes(LARGE).into()
}

/// Nothing of the files is left in the kernel's cache.
fn forget(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            // An empty read with this flag means the whole file. (dd(1), nocache.)
            let input = format!("if={}", path.display());
            let status = Command::new("dd").args([&input, "iflag=nocache", "count=0", "status=none"]).status();
            assert!(status.expect("dd(1) is there").success());
        }
    }
}

/// Bytes that a process has made the disk read. (proc(5), io.)
fn bytes_read(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("proc is mounted");
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).expect("it is counted");
    line.parse().expect("a number")
}

#[tokio::test]
async fn a_store_that_is_not_in_memory_reads_as_one_that_is() {
    assert!(MANY * LARGE as u64 > limits::LOG_RECENT_BYTES * 3 / 2);
    let mut server = Server::start().await;
    let client = server.client().await;
    let keys = MANY / 2;
    // Each key twice: the first values are history.
    for serial in 1..=2 {
        for key in 0..keys {
            client.put(name(key), large(key, serial)).await.unwrap();
        }
    }
    let hash = client.hash_kv(0).await.unwrap();
    assert!(ended_well(server.terminate()));
    server.restart().await;
    let client = server.client().await;
    // A restart has read the log's tail.
    forget(&server.data_dir());
    let before = bytes_read(server.pid());
    let revision = |key: u64, serial: u64| 1 + (key + 1 + (serial - 1) * keys) as i64;

    // One at a time, now and in the past.
    for key in (0..keys).step_by(97) {
        let now = client.get(name(key)).await.unwrap().kvs;
        assert!(now.len() == 1 && now[0].value == large(key, 2), "{}", name(key));
        let past = RangeRequest { key: name(key).into(), revision: revision(key, 1), ..Default::default() };
        let past = client.call(&past).await.unwrap().kvs;
        assert!(past.len() == 1 && past[0].value == large(key, 1), "{}", name(key));
    }
    forget(&server.data_dir());
    // Many at a time; at the first half's end, too.
    for (at, serial) in [(0, 2), (revision(keys - 1, 1), 1)] {
        for page in (0..keys).step_by(160) {
            let range = RangeRequest { key: name(page).into(), limit: 160, ..all(at) };
            let found = client.call(&range).await.unwrap();
            assert_eq!(found.count, (keys - page) as i64);
            assert_eq!(found.more, keys - page > 160);
            assert_eq!(found.kvs.len() as u64, 160.min(keys - page));
            for (key, kv) in (page..).zip(&found.kvs) {
                assert!(kv.key == name(key) && kv.value == large(key, serial), "{} at {at}", name(key));
            }
        }
    }
    forget(&server.data_dir());
    // A comparison reads the value where the request is applied.
    let key = keys / 3;
    let compare = |value: Bytes| Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Value as i32,
        key: name(key).into(),
        target_union: Some(compare::TargetUnion::Value(value)),
        ..Default::default()
    };
    for (serial, equal) in [(1, false), (2, true)] {
        let txn = TxnRequest {
            compare: vec![compare(large(key, serial))],
            success: vec![op::get(name(key))],
            failure: vec![op::get(name(key + 1))],
        };
        let answer = client.call(&txn).await.unwrap();
        assert_eq!(answer.succeeded, equal);
        let Some(response_op::Response::ResponseRange(found)) = &answer.responses[0].response else {
            panic!("{answer:?}")
        };
        let read = if equal { key } else { key + 1 };
        assert!(found.kvs.len() == 1 && found.kvs[0].value == large(read, 2), "{}", name(read));
    }
    forget(&server.data_dir());
    // The second half of history, each event with what it replaced.
    let mut watcher = client.watcher().await.unwrap();
    let start_revision = revision(0, 2);
    let range_end = vec![0].into();
    watcher
        .create(WatchCreateRequest {
            key: vec![0].into(),
            range_end,
            start_revision,
            prev_kv: true,
            ..Default::default()
        })
        .unwrap();
    let mut key = 0;
    while key < keys {
        let response = soon(watcher.next()).await.unwrap();
        assert!(!response.canceled, "a watch was cancelled");
        for event in &response.events {
            let (kv, before) = (event.kv.as_ref().unwrap(), event.prev_kv.as_ref().expect("it replaced something"));
            assert_eq!((&kv.key[..], kv.mod_revision), (name(key).as_bytes(), revision(key, 2)));
            assert!(kv.value == large(key, 2), "the event of {}", name(key));
            assert_eq!(before.mod_revision, revision(key, 1));
            assert!(before.value == large(key, 1), "what {} was", name(key));
            key += 1;
        }
    }
    forget(&server.data_dir());
    assert_eq!(client.hash_kv(0).await.unwrap().hash, hash.hash);
    println!("{MANY} values of {LARGE} bytes; {} MiB came from the disk", (bytes_read(server.pid()) - before) / MIB);
}
