//! Damaged files under the whole server, and a disk that is full: it refuses to start on what may have lost
//! acknowledged data and says where, cuts what only a crash can have left, stops when it cannot write.

mod server;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use server::{Server, cluster::Cluster, is_reference, names, soon, wait};
use urd::{
    limits,
    wal::{
        disk::Dir,
        inspect::{Seen, verify, walk},
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
        // Of the header the length as well: what is left of the record is not enough then.
        let spots = [
            (record.begin + 13, after),
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
            assert!(said.contains("it could not be mended: no other member is known"), "{said}");
            assert!(contents(&dir) == before, "it changed what it refused");
            flip(&record.file, at);
        }
    }
    // Whole again, it starts.
    server.restart().await;
    holds(&server.client().await, 0..keys, LEN).await;
    server.kill();

    // A header is made anew from what is before and behind it.
    let before = fs::read(&older.file).unwrap();
    flip(&older.file, older.begin + 30);
    server.restart().await;
    assert!(fs::read(&older.file).unwrap() == before);
    assert_eq!(server.log().matches(MENDED).count(), 1, "{}", server.log());
    holds(&server.client().await, 0..keys, LEN).await;
}

const MENDED: &str = "mended a damaged part of the log";

/// Until it is mended a member has no part in its cluster; with nobody to give it what is lost it does not start.
#[tokio::test]
async fn what_a_member_has_lost_it_is_given_by_the_others() {
    if is_reference() {
        return;
    }
    let mut cluster = Cluster::start(3).await;
    let mut filled = Vec::new();
    for (victim, len) in [(0, 64), (1, 3000), (2, LEN)] {
        let from = victim * 25;
        fill(&cluster.client(victim).await, from..from + 20, len).await;
        cluster.agree().await;
        cluster.members[victim].terminate();
        // While it is away, the others go on.
        fill(&cluster.client((victim + 1) % 3).await, from + 20..from + 25, len).await;
        filled.push((from..from + 25, len));

        let dir = cluster.members[victim].data_dir();
        let all = records(&dir);
        let entries: Vec<&Found> = all.iter().filter(|record| record.kind == Type::Entry).collect();
        let sound = contents(&dir);
        let [first, second, third] = [15, 10, 5].map(|back| entries[entries.len() - back]);
        // A bit of a payload, a header, a block.
        flip(&first.file, first.end - 3);
        let file = File::options().write(true).open(&second.file).unwrap();
        file.write_all_at(&[0; HEADER_BYTES], second.begin).unwrap();
        file.write_all_at(&[0; 4096], third.begin / 4096 * 4096).unwrap();

        cluster.members[victim].restart().await;
        let log = cluster.members[victim].log();
        assert!(log.matches(MENDED).count() >= 3, "{log}");
        for wanted in [first, second, third] {
            assert!(log.contains(&wanted.file.display().to_string()), "{log}");
        }
        cluster.agree().await;
        for (keys, len) in &filled {
            holds(&cluster.client(victim).await, keys.clone(), *len).await;
        }
        for (name, sound) in sound.iter().filter(|(name, _)| name.ends_with(".seg")) {
            let last = all.iter().rfind(|record| record.file.ends_with(name));
            let until = last.map_or(0, |record| record.end as usize);
            assert!(fs::read(dir.join(name)).unwrap()[..until] == sound[..until], "{name} is not as it was");
        }
    }

    // Nobody is there.
    for member in &mut cluster.members {
        member.terminate();
        verify(&Dir::look_at(&member.data_dir())).unwrap();
    }
    let all = records(&cluster.members[0].data_dir());
    let hit = all.iter().rev().filter(|record| record.kind == Type::Entry).nth(3).unwrap();
    flip(&hit.file, hit.end - 1);
    let before = contents(&cluster.members[0].data_dir());
    let said = refuses(&cluster.members[0]);
    assert!(said.contains("no other member has given entries"), "{said}");
    assert!(said.contains(&format!("at byte {}, where the record of raft entry {} ", hit.begin, hit.index)), "{said}");
    assert!(contents(&cluster.members[0].data_dir()) == before);
    // With the others it starts.
    for at in 0..3 {
        cluster.members[at].spawn();
    }
    cluster.wait().await;
    assert!(cluster.members[0].log().contains(MENDED));
    cluster.agree().await;
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

/// The same as on a disk that fails (`tests/power`), at the seam to the runtime: not a byte is on the disk, or all are.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_write_that_fails_ends_it_and_nothing_acknowledged_is_lost() {
    if is_reference() {
        return;
    }
    for (fault, told) in [
        ("write:0:5", "Input/output error"),
        ("write:44:28", "No space left on device"),
        ("sync:45:5", "Input/output error"),
        ("sync:63:5", "Input/output error"),
    ] {
        let mut server = Server::prepare(&[]);
        server.spawn_as(|mut command| {
            command.env("URD_FAULT", fault);
            command
        });
        let mut acknowledged = 0;
        // A first start may have nothing durable to tell before it serves.
        if server.is_ready().await {
            let client = server.client().await;
            while acknowledged < 1000 {
                let put = client.put(format!("{acknowledged:07}"), value(acknowledged, 64));
                if soon(put).await.is_err() {
                    break;
                }
                acknowledged += 1;
            }
            assert_eq!(server.wait().code(), Some(1), "{fault}");
        }
        let said = server.log();
        assert!(said.contains(told), "{fault}: {said}");
        if acknowledged > 0 {
            assert!(
                said.contains("the log cannot be written; the member stops, nothing acknowledged is lost"),
                "{said}"
            );
        }
        server.restart().await;
        let client = server.client().await;
        holds(&client, 0..acknowledged, 64).await;
        let current = client.get("nothing").await.unwrap().header.unwrap().revision as usize;
        assert!((acknowledged + 1..=acknowledged + 2).contains(&current), "{fault}: {current}, {acknowledged} told");
        println!("{fault}: {acknowledged} acknowledged, all there");
    }
}

/// A value that lies in a segment before the checkpoint is read without a start having looked at it: it has its own proof.
#[tokio::test]
async fn a_value_that_has_changed_on_disk_is_refused_and_the_others_are_served() {
    if is_reference() {
        return;
    }
    let mut server = Server::start().await;
    let client = server.client().await;
    // A segment that is too full to be repacked, so that Defragment makes a checkpoint and leaves it where it is.
    const KEYS: usize = 40;
    fill(&client, 0..KEYS, LEN).await;
    client.call(&DefragmentRequest {}).await.unwrap();
    client.put("later", "x").await.unwrap();
    server.kill();
    let all = records(&server.data_dir());
    let first = server.data_dir().join("00000001.seg");
    let is_put = |it: &&Found| it.file == first && it.kind == Type::Entry && it.end - it.begin > LEN as u64;
    let hit = all.iter().filter(is_put).nth(10).unwrap();
    let wanted = fs::read(&hit.file).unwrap()[hit.begin as usize..hit.end as usize].to_vec();
    let key = wanted.windows(7).find_map(|it| std::str::from_utf8(it).ok()?.parse::<usize>().ok()).unwrap();
    // In the value, in the payload's other bytes, and in the header.
    let spots = [(hit.begin + hit.end) / 2, hit.begin + HEADER_BYTES as u64 + 1, hit.begin + 30];
    for at in spots {
        flip(&hit.file, at);
        server.restart().await;
        let client = server.client().await;
        for _ in 0..2 {
            let refused = client.get(format!("{key:07}")).await.unwrap_err();
            assert_eq!(refused.code(), Some(urd::error::Code::DataLoss), "{refused}");
            let index = format!("raft index {}", hit.index);
            for wanted in [hit.file.to_str().unwrap(), &index, "is damaged at byte "] {
                assert!(refused.message().contains(wanted), "{wanted:?} is not told: {refused}");
            }
        }
        let everything = client.range("0", "9").await.unwrap_err();
        assert_eq!(everything.code(), Some(urd::error::Code::DataLoss), "{everything}");
        let mut watcher = client.watch("0", "9", 1).await.unwrap();
        let ended = loop {
            match soon(watcher.next()).await {
                Ok(response) => {
                    assert!(response.events.iter().all(|it| it.kv.as_ref().unwrap().key != format!("{key:07}")))
                }
                Err(ended) => break ended,
            }
        };
        assert_eq!(ended.code(), Some(urd::error::Code::DataLoss), "{ended}");
        holds(&client, 0..key, LEN).await;
        holds(&client, key + 1..KEYS, LEN).await;
        client.hash_kv(0).await.expect_err("a hash over what is not known");
        server.says("a stored value cannot be read; it is refused to who asks for it").await;
        server.kill();
        flip(&hit.file, at);
    }

    // What is overwritten is well again, and the past once the disk is.
    flip(&hit.file, spots[0]);
    server.restart().await;
    let client = server.client().await;
    client.put(format!("{key:07}"), value(key, LEN)).await.unwrap();
    holds(&client, 0..KEYS, LEN).await;
    let past = urd_client::etcdserverpb::RangeRequest {
        key: format!("{key:07}").into(),
        revision: key as i64 + 2,
        ..Default::default()
    };
    assert_eq!(client.call(&past).await.unwrap_err().code(), Some(urd::error::Code::DataLoss));
    server.kill();
    flip(&hit.file, spots[0]);
    server.restart().await;
    assert!(server.client().await.call(&past).await.unwrap().kvs[0].value == value(key, LEN));
}

/// What nobody has read is read all the same, and then nothing more is written on top of it.
#[tokio::test]
async fn a_check_of_the_data_finds_what_has_changed_on_disk() {
    if is_reference() {
        return;
    }
    let mut server = Server::start_with(&["--corrupt-check-time=100ms"]).await;
    let client = server.client().await;
    fill(&client, 0..40, LEN).await;
    client.call(&DefragmentRequest {}).await.unwrap();
    client.put("later", "x").await.unwrap();
    server.kill();
    let first = server.data_dir().join("00000001.seg");
    let is_put = |it: &&Found| it.file == first && it.kind == Type::Entry && it.end - it.begin > LEN as u64;
    let all = records(&server.data_dir());
    let hit = all.iter().filter(is_put).nth(10).unwrap();
    flip(&hit.file, (hit.begin + hit.end) / 2);
    server.restart().await;
    let client = server.client().await;
    let corrupt = soon(async {
        loop {
            if let Err(refused) = client.put("k", "v").await {
                return refused;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(corrupt.is(&urd::error::CORRUPT), "{corrupt}");
    assert_eq!(client.get("later").await.unwrap().kvs[0].value, "x");
    server.says("is damaged at byte ").await;
}

const MIB: u64 = 1024 * 1024;

/// What takes the room on a disk of blocks until there is to be more of it.
const OTHERS: &str = "others";
const OTHERS_MIB: usize = 100;

/// A file system of a few MiB, gone with the test.
enum SmallDisk {
    /// In memory: there is no block device below that could lie.
    Memory(PathBuf),
    /// ext4 on a loop device, as a member's disk is but for its size; somebody else's file takes most of it.
    Blocks(PathBuf),
}

fn system(program: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) {
    let done = Command::new(program).args(arguments).output().unwrap_or_else(|cause| panic!("{program}: {cause}"));
    assert!(done.status.success(), "to fill a disk takes the right to make a small one: {program}: {done:?}");
}

impl SmallDisk {
    /// # Panics
    /// If this process may not mount one.
    fn in_memory(at: &Path, mib: usize) -> Self {
        fs::create_dir_all(at).unwrap();
        system("mount", &[&"-t", &"tmpfs", &"-o", &format!("size={mib}m"), &"urd-test", &at]);
        SmallDisk::Memory(at.to_owned())
    }

    /// The same.
    fn of_blocks(at: &Path, mib: usize) -> Self {
        fs::create_dir_all(at).unwrap();
        let image = at.with_extension("image");
        let file = File::create(&image).unwrap();
        file.set_len((mib + OTHERS_MIB) as u64 * MIB).unwrap();
        system("mkfs.ext4", &[&"-q", &"-m", &"0", &image]);
        system("mount", &[&"-o", &"loop", &image, &at]);
        system("fallocate", &[&"-l", &format!("{OTHERS_MIB}MiB"), &at.join(OTHERS)]);
        SmallDisk::Blocks(at.to_owned())
    }

    /// Makes a hundred MiB of room more.
    fn make_room(&self, mib: usize) {
        match self {
            SmallDisk::Memory(at) => {
                system("mount", &[&"-o", &format!("remount,size={}m", mib + OTHERS_MIB), at]);
            }
            SmallDisk::Blocks(at) => fs::remove_file(at.join(OTHERS)).unwrap(),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let (SmallDisk::Memory(at) | SmallDisk::Blocks(at)) = self;
        // Lazily: the server that was on it may be about to end.
        let _ = Command::new("umount").arg("-l").arg(at).status();
    }
}

#[tokio::test]
async fn a_full_disk_in_memory_stops_it_and_room_brings_everything_back() {
    // A limit on the process's files does not do: segments have their full size before anything is in them.
    full_until_it_has_grown(SmallDisk::in_memory).await;
}

#[tokio::test]
async fn a_full_disk_of_blocks_stops_it_and_room_brings_everything_back() {
    full_until_it_has_grown(SmallDisk::of_blocks).await;
}

async fn full_until_it_has_grown(mount: fn(&Path, usize) -> SmallDisk) {
    if is_reference() {
        return;
    }
    let mut server = Server::prepare(&[]);
    let disk = mount(&server.data_dir(), 60);
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
    disk.make_room(60);
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
