//! What has changed on one member's disk is found, by who reads it or by nobody but the scrub, and comes from another member,
//! while all of them serve. A member alone refuses what it has lost and nothing else.

mod server;

use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::PathBuf,
    time::Duration,
};

use server::{Server, cluster::Cluster, is_reference, soon, users};
use urd::{
    error::Code,
    wal::{disk::Dir, inspect},
};
use urd_client::{
    Client,
    etcdserverpb::{DefragmentRequest, RangeRequest},
};

const LARGE: usize = 512 * 1024;
const SMALL: usize = 200;

/// Of the two sizes, so that both have records of their own: large ones at both ends.
const KEYS: usize = 200;
const FEW: usize = 20;

fn name(key: usize) -> String {
    format!("{key:07}")
}

fn value(key: usize) -> Vec<u8> {
    let len = if (FEW..KEYS - FEW).contains(&key) { SMALL } else { LARGE };
    format!("{key:07} ").repeat(len / 8).into_bytes()
}

async fn fill(client: &Client, keys: Range<usize>) {
    for key in keys {
        client.put(name(key), value(key)).await.unwrap();
    }
}

/// As a member itself has it, asking no other.
async fn own(client: &Client, key: usize) -> Result<Vec<u8>, urd_client::Error> {
    let request = RangeRequest { key: name(key).into(), serializable: true, ..Default::default() };
    client.call(&request).await.map(|found| found.kvs[0].value.to_vec())
}

async fn holds(client: &Client, keys: impl IntoIterator<Item = usize>) {
    for key in keys {
        assert!(own(client, key).await.unwrap() == value(key), "key {key}");
    }
}

/// Where a key's first value lies on a disk.
fn find(server: &Server, key: usize) -> (PathBuf, u64) {
    let value = value(key);
    let begin = [name(key).as_bytes(), b" ", name(key).as_bytes(), b" "].concat();
    for file in server::names(&server.data_dir()).unwrap().into_iter().filter(|name| name.ends_with(".seg")) {
        let path = server.data_dir().join(file);
        let bytes = fs::read(&path).unwrap();
        let found = (0..bytes.len()).find(|at| bytes[*at..].starts_with(&begin) && bytes[*at..].starts_with(&value));
        if let Some(at) = found {
            return (path, at as u64);
        }
    }
    panic!("key {key} is nowhere")
}

fn flip(file: &PathBuf, at: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Three members that hold the keys.
async fn three(flags: &[&str]) -> Cluster {
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    let cluster = Cluster::start_with(3, "http", &flags).await;
    let client = cluster.client(0).await;
    fill(&client, 0..KEYS).await;
    cluster.agree().await;
    cluster
}

/// As a member that was started again has it, all that it reads comes from files: what was full is not in its memory.
async fn start_again(cluster: &mut Cluster, at: usize) {
    cluster.members[at].kill();
    cluster.members[at].restart().await;
    cluster.agree().await;
}

const VICTIM: usize = 1;

async fn until_metric(server: &Server, name: &str, is_enough: impl Fn(f64) -> bool) {
    soon(async {
        while !is_enough(users::metric(server, name).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// The damaged segment is emptied beside all else, and then its file is given back.
async fn is_left(server: &Server) {
    soon(async {
        let client = server.client().await;
        while server.data_dir().join("00000001.seg").exists() {
            client.call(&DefragmentRequest {}).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Everything that the disk has is sound.
fn is_sound_on_disk(server: &mut Server) {
    server.kill();
    let dir = Dir::open(&server.data_dir()).unwrap();
    inspect::verify(&dir).unwrap_or_else(|cause| panic!("{cause}"));
}

#[tokio::test]
async fn a_value_that_a_read_finds_damaged_comes_from_another_member() {
    if is_reference() {
        return;
    }
    let mut cluster = three(&["--scrub-interval=0s", "--snapshot-catchup-entries=5"]).await;
    cluster.client(VICTIM).await.call(&DefragmentRequest {}).await.unwrap();
    cluster.client(0).await.put("later", "x").await.unwrap();
    cluster.agree().await;
    cluster.members[VICTIM].kill();
    let (file, at) = find(&cluster.members[VICTIM], 7);
    flip(&file, at + LARGE as u64 / 2);
    cluster.members[VICTIM].restart().await;
    let client = cluster.client(VICTIM).await;
    let refused = own(&client, 7).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::DataLoss), "{refused}");
    soon(async {
        loop {
            match own(&client, 7).await {
                Ok(found) => break assert!(found == value(7), "another value"),
                Err(refused) => assert_eq!(refused.code(), Some(Code::DataLoss), "{refused}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let victim = &cluster.members[VICTIM];
    until_metric(victim, "urd_mended_values_total", |mended| mended == 1.0).await;
    assert_eq!(users::metric(victim, "urd_damaged_records_total").await, 1.0);
    assert_eq!(users::metric(victim, "urd_damaged_values").await, 0.0);
    let line = victim.log().lines().find(|line| line.contains("a record of the log is damaged")).unwrap().to_owned();
    assert!(line.contains(file.to_str().unwrap()) && line.contains("\"index\":"), "{line}");
    holds(&client, 0..KEYS).await;
    cluster.agree().await;
    is_left(victim).await;
    for _ in 0..2 {
        start_again(&mut cluster, VICTIM).await;
        holds(&cluster.client(VICTIM).await, 0..KEYS).await;
    }
    is_sound_on_disk(&mut cluster.members[VICTIM]);
}

/// A byte of a value, one of a header, and two blocks that were never written: nobody reads any of it, but a restart would.
#[tokio::test]
async fn what_nobody_reads_is_scrubbed_and_comes_from_another_member() {
    if is_reference() {
        return;
    }
    let mut cluster = three(&["--scrub-interval=500ms"]).await;
    start_again(&mut cluster, VICTIM).await;
    let victim = &cluster.members[VICTIM];
    assert!(!victim.data_dir().join("checkpoint").exists(), "all of the log would be read");
    let (file, large) = find(victim, 3);
    flip(&file, large + 1000);
    let (other, headless) = find(victim, 5);
    flip(&other, headless - 40);
    let (third, small) = find(victim, 100);
    File::options().write(true).open(&third).unwrap().write_all_at(&[0; 8192], small / 4096 * 4096).unwrap();
    // Two alone in their records, and some of those that were put one after another.
    until_metric(victim, "urd_mended_values_total", |mended| mended >= 2.0 + 2.0).await;
    until_metric(victim, "urd_damaged_values", |left| left == 0.0).await;
    assert!(users::metric(victim, "urd_scrubbed_bytes_total").await >= 16.0 * 1024.0 * 1024.0);
    assert!(users::metric(victim, "urd_damaged_records_total").await >= 3.0);
    let client = cluster.client(VICTIM).await;
    holds(&client, 0..KEYS).await;
    cluster.agree().await;
    victim.says("wrote a checkpoint").await;
    start_again(&mut cluster, VICTIM).await;
    // One later checkpoint does not name a place before the damage again, for the sake of who lags.
    cluster.client(VICTIM).await.call(&DefragmentRequest {}).await.unwrap();
    start_again(&mut cluster, VICTIM).await;
    holds(&cluster.client(VICTIM).await, 0..KEYS).await;
    is_left(&cluster.members[VICTIM]).await;
    is_sound_on_disk(&mut cluster.members[VICTIM]);
}

/// Who is asked may be away: then it is asked again. And it proves what it tells: what is damaged there too stays damaged.
#[tokio::test]
async fn what_no_other_member_has_is_asked_for_again() {
    if is_reference() {
        return;
    }
    let mut cluster = three(&["--scrub-interval=500ms"]).await;
    let mut places = Vec::new();
    for at in 0..3 {
        start_again(&mut cluster, at).await;
    }
    // All at once, or one would have it from the other.
    cluster.members.iter().for_each(|member| places.push(find(member, 9)));
    places.iter().for_each(|(file, at)| flip(file, at + 1));
    for at in 0..3 {
        until_metric(&cluster.members[at], "urd_damaged_values", |left| left == 1.0).await;
        let client = cluster.client(at).await;
        assert_eq!(own(&client, 9).await.unwrap_err().code(), Some(Code::DataLoss));
        holds(&client, (0..KEYS).filter(|key| *key != 9)).await;
    }
    // One of them has it again.
    let (file, at) = &places[VICTIM];
    flip(file, at + 1);
    for at in 0..3 {
        until_metric(&cluster.members[at], "urd_damaged_values", |left| left == 0.0).await;
        soon(async {
            while own(&cluster.client(at).await, 9).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        holds(&cluster.client(at).await, 0..KEYS).await;
    }
    cluster.agree().await;
}

/// Damage in what a restart would read: as long as the member serves, it sees to it that none has to.
#[tokio::test]
async fn a_member_alone_refuses_what_it_has_lost_and_starts_again() {
    if is_reference() {
        return;
    }
    let mut server = Server::start_with(&["--scrub-interval=500ms"]).await;
    fill(&server.client().await, 0..KEYS).await;
    server.kill();
    // Segments that were full before are read from their files.
    server.restart().await;
    assert!(!server.data_dir().join("checkpoint").exists(), "all of the log would be read");
    let (file, at) = find(&server, 7);
    flip(&file, at + 5000);
    until_metric(&server, "urd_damaged_values", |left| left == 1.0).await;
    server.says("wrote a checkpoint").await;
    for round in 0..2 {
        let client = server.client().await;
        let refused = own(&client, 7).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::DataLoss), "{refused}");
        holds(&client, (0..KEYS).filter(|key| *key != 7)).await;
        until_metric(&server, "urd_damaged_values", |left| left == 1.0).await;
        assert_eq!(users::metric(&server, "urd_mended_values_total").await, 0.0, "round {round}");
        server.kill();
        server.restart().await;
    }
    // What is overwritten and compacted is lost to nobody.
    let client = server.client().await;
    fill(&client, 7..8).await;
    let revision = client.get("x").await.unwrap().header.unwrap().revision;
    client.compact(revision).await.unwrap();
    until_metric(&server, "urd_damaged_values", |left| left == 0.0).await;
    holds(&client, 0..KEYS).await;
    is_left(&server).await;
    is_sound_on_disk(&mut server);
}
