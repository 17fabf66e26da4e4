//! Damaged files under the whole server, and a disk that is full: it refuses to start on what may have lost
//! acknowledged data and says where, cuts what only a crash can have left, stops when it cannot write.

mod server;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use server::{Server, is_reference, names, soon, wait};
use urd::{
    limits,
    wal::{
        disk::Dir,
        inspect::{Seen, walk},
        record::{ALIGN, HEADER_BYTES, Type},
    },
};
use urd_client::{Client, etcdserverpb::DefragmentRequest};

/// A record of the log, and where it lies.
#[derive(Clone, Debug)]
struct Found {
    file: PathBuf,
    /// Of its first byte and the byte behind it.
    begin: u64,
    end: u64,
    kind: Type,
    index: u64,
    write: u64,
}

/// All records of a log that no server has open, in order.
fn records(data_dir: &Path) -> Vec<Found> {
    let dir = Dir::open(data_dir).unwrap();
    let mut found = Vec::new();
    walk(&dir, &mut |file, seen| {
        if let Seen::Record { record, payload } = seen {
            let range = record.payload();
            assert_eq!(payload.len(), range.len());
            found.push(Found {
                file: file.to_owned(),
                begin: range.start as u64 - HEADER_BYTES as u64,
                end: range.end as u64,
                kind: record.header.kind,
                index: record.header.index,
                write: record.header.write,
            });
        }
    })
    .unwrap();
    found
}

fn flip(file: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Starts what must refuse to; gives what it said in this life.
fn refuses(server: &Server) -> String {
    let log = File::create(server.log_path()).unwrap();
    let mut command = server.command();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    let status = wait(&mut command.spawn().unwrap());
    assert_eq!(status.code(), Some(1), "{}", server.log());
    server.log()
}

/// A data directory's files with their bytes, but for those that were being made when the server ended: every start
/// removes them.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let names = names(dir).unwrap().into_iter().filter(|name| !name.ends_with(".part"));
    names.map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

/// Keys `0..`, each with a value that is the key over and over.
fn value(key: usize, len: usize) -> Vec<u8> {
    format!("{key:07} ").repeat(len / 8).into_bytes()
}

async fn fill(client: &Client, keys: std::ops::Range<usize>, len: usize) {
    for key in keys {
        client.put(format!("{key:07}"), value(key, len)).await.unwrap();
    }
}

async fn holds(client: &Client, keys: std::ops::Range<usize>, len: usize) {
    for key in keys {
        let found = client.get(format!("{key:07}")).await.unwrap().kvs;
        assert!(found.len() == 1 && found[0].value == value(key, len), "key {key}");
    }
}

const LEN: usize = 512 * 1024;

#[tokio::test]
async fn a_damaged_record_that_others_follow_is_refused_by_file_offset_and_index() {
    if is_reference() {
        return;
    }
    let mut server = Server::start().await;
    // More than a segment, less than a checkpoint.
    let keys = limits::SEGMENT_BYTES_DEFAULT as usize / LEN + 6;
    assert!(keys * LEN < limits::CHECKPOINT_LOG_BYTES as usize);
    fill(&server.client().await, 0..keys, LEN).await;
    server.kill();
    let dir = server.data_dir();
    let all = records(&dir);
    let entries: Vec<&Found> = all.iter().filter(|record| record.kind == Type::Entry).collect();
    let older = entries[entries.len() / 3];
    let later = entries[entries.len() - 3];
    assert_ne!(older.file, later.file, "there are two segments");
    for record in [older, later] {
        let before = all.iter().rfind(|other| other.file == record.file && other.end <= record.begin).unwrap();
        // A header that is none shows only that no record follows the one before.
        let after = before.end.next_multiple_of(u64::from(ALIGN));
        let spots = [
            (record.begin + 30, after),
            ((record.begin + record.end) / 2, record.begin),
            (record.end - 1, record.begin),
        ];
        for (at, spot) in spots {
            flip(&record.file, at);
            let before = contents(&dir);
            let said = refuses(&server);
            assert!(said.contains(&record.file.display().to_string()), "the file is not named: {said}");
            assert!(said.contains(&format!("at byte {spot},")), "offset {spot}: {said}");
            assert!(said.contains(&format!("raft entry {} ", record.index)), "index {}: {said}", record.index);
            assert!(contents(&dir) == before, "it changed what it refused");
            flip(&record.file, at);
        }
    }
    // Whole again, it starts.
    server.restart().await;
    holds(&server.client().await, 0..keys, LEN).await;
}

#[tokio::test]
async fn the_torn_end_of_the_last_write_is_cut_and_told() {
    if is_reference() {
        return;
    }
    const CUT: &str = "cut a torn write off the end of the log";
    let mut server = Server::start().await;
    fill(&server.client().await, 0..20, 8192).await;
    server.kill();
    let dir = server.data_dir();

    // What lies behind the last write means nothing: it may be of the file's life before.
    let end = records(&dir).pop().unwrap();
    let behind = end.end.next_multiple_of(u64::from(limits::LOG_BLOCK_BYTES));
    let file = File::options().write(true).open(&end.file).unwrap();
    file.write_all_at(&[0xa5; 3 * 4096], behind).unwrap();
    server.restart().await;
    holds(&server.client().await, 0..20, 8192).await;
    assert!(!server.log().contains(CUT), "{}", server.log());

    // A write of which the disk has taken the beginning: nobody was told that it was done.
    fill(&server.client().await, 20..21, 8192).await;
    server.kill();
    let all = records(&dir);
    let torn = all.iter().rfind(|record| record.kind == Type::Entry).unwrap();
    assert_eq!(torn.write, all.last().unwrap().write, "it is in the last write");
    let file = File::options().write(true).open(&torn.file).unwrap();
    file.write_all_at(&[0xa5; 4096], torn.end.next_multiple_of(4096) - 4096).unwrap();
    server.restart().await;
    let line = server.log().lines().find(|line| line.contains(CUT)).expect("it is told").to_owned();
    for wanted in [torn.file.display().to_string(), torn.begin.to_string(), torn.index.to_string()] {
        assert!(line.contains(&wanted), "{wanted} is not in {line}");
    }
    let client = server.client().await;
    holds(&client, 0..20, 8192).await;
    assert_eq!(client.get("0000020").await.unwrap().count, 0);
    // The log goes on from there.
    fill(&client, 20..30, 8192).await;
    server.kill();
    server.restart().await;
    holds(&server.client().await, 0..30, 8192).await;
    assert_eq!(server.log().matches(CUT).count(), 1, "cut once");
}

#[tokio::test]
async fn a_damaged_checkpoint_is_refused_by_name() {
    if is_reference() {
        return;
    }
    let mut server = Server::start().await;
    let client = server.client().await;
    fill(&client, 0..1000, 64).await;
    client.call(&DefragmentRequest {}).await.unwrap();
    server.kill();
    let dir = server.data_dir();
    let checkpoint = dir.join("checkpoint");
    let len = fs::metadata(&checkpoint).expect("a defragmented store has one").len();
    for at in [3, 9, 20, len / 2, len - 1] {
        flip(&checkpoint, at);
        let before = contents(&dir);
        let said = refuses(&server);
        assert!(said.contains(&checkpoint.display().to_string()), "byte {at}: {said}");
        assert!(contents(&dir) == before, "it changed what it refused");
        flip(&checkpoint, at);
    }
    let bytes = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, &bytes[..bytes.len() - 5]).unwrap();
    let said = refuses(&server);
    assert!(said.contains(&checkpoint.display().to_string()), "cut short: {said}");
    fs::write(&checkpoint, bytes).unwrap();
    server.restart().await;
    holds(&server.client().await, 0..1000, 64).await;
}

/// A file system of a few MiB in memory, gone with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None if this process may not mount one.
    fn mount(at: &Path, mib: usize) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m");
        let mut command = Command::new("mount");
        let mounted = command.args(["-t", "tmpfs", "-o", &size, "urd-test"]).arg(at).output().ok()?;
        mounted.status.success().then(|| SmallDisk(at.to_owned()))
    }

    fn grow(&self, mib: usize) {
        let size = format!("remount,size={mib}m");
        assert!(Command::new("mount").args(["-o", &size]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server that was on it may be about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_stops_it_and_room_brings_everything_back() {
    if is_reference() {
        return;
    }
    let mut server = Server::prepare(&[]);
    // A limit on the process's files does not do: segments have their full size before anything is in them.
    let Some(disk) = SmallDisk::mount(&server.data_dir(), 60) else {
        println!("not tested: to fill a disk takes the right to mount a small one");
        return;
    };
    server.restart().await;
    let client = server.client().await;
    let mut acknowledged = 0;
    loop {
        assert!(acknowledged < 60 * 1024 * 1024 / LEN, "the disk is larger than it is");
        let put = client.put(format!("{acknowledged:07}"), value(acknowledged, LEN));
        if soon(put).await.is_err() {
            break;
        }
        acknowledged += 1;
    }
    assert_eq!(server.wait().code(), Some(1));
    let said = server.log();
    for wanted in ["the log cannot be written", "free space or mend the disk", &server.data_dir().display().to_string()]
    {
        assert!(said.contains(wanted), "{wanted:?} is not said: {said}");
    }
    assert!(acknowledged >= 16 * 1024 * 1024 / LEN, "a segment was full, at least");

    // Without room it may end again, as soon as it must write; it forgets nothing by that.
    server.spawn();
    if server.is_ready().await {
        server.kill();
    }
    disk.grow(160);
    for _ in 0..2 {
        server.restart().await;
        let client = server.client().await;
        holds(&client, 0..acknowledged, LEN).await;
        let current = client.get("nothing").await.unwrap().header.unwrap().revision as usize;
        // The one that was under way may be there or not.
        assert!((acknowledged + 1..=acknowledged + 2).contains(&current), "revision {current}, {acknowledged} told");
        server.kill();
    }
    server.restart().await;
    fill(&server.client().await, acknowledged + 1..acknowledged + 40, LEN).await;
    holds(&server.client().await, 0..acknowledged, LEN).await;
}
