//! The server on a disk that loses power, fails, fills up and stalls, for real: a FUSE file system of this test's own
//! (`disk.rs`). What was acknowledged must be there afterwards; what cannot be done must be said, and nothing may hang.
//!
//! Needs /dev/fuse and the right to mount, and fails without. `URD_POWER_LOSSES` sets how often the power goes (100),
//! `URD_SEED` what is drawn.

#[path = "../crash/checker.rs"]
mod checker;
mod disk;
#[path = "../crash/keeper.rs"]
mod keeper;
#[path = "../crash/load.rs"]
mod load;
#[path = "../server/mod.rs"]
mod server;
#[path = "../crash/trial.rs"]
mod trial;

use std::time::{Duration, Instant};

use disk::{Disk, Mounted, What};
use fuser::Errno;
use server::{PATIENCE, Server, refused, soon};
use trial::{Trial, variable};
use urd::{error, random::Random};
use urd_client::{
    Client,
    etcdserverpb::{DefragmentRequest, RangeRequest},
};

/// A server whose data directory is on a disk of its own.
async fn start_on_disk(more: &[&str]) -> (Server, Disk, Mounted) {
    let mut server = Server::prepare(more);
    let disk = Disk::new();
    let mounted = disk.mount(&server.data_dir());
    server.restart().await;
    (server, disk, mounted)
}

/// Waits until the power is gone; if nothing was written that it could go with, it goes now.
async fn until_dark(disk: &Disk) {
    let begin = Instant::now();
    while !disk.is_dead() {
        if begin.elapsed() > Duration::from_millis(300) {
            disk.cut_now();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The machine stops, and comes up again with what its disk has kept.
fn power_cut(server: &mut Server, mounted: Mounted, random: &mut Random) -> Mounted {
    server.kill_and(|| mounted.abandon());
    mounted.lose_power(random).mount(&server.data_dir())
}

/// Loads the server and takes the power away, again and again.
async fn lose_power(trial: &mut Trial, disk: &Disk, mounted: Mounted, losses: u64) {
    let mut mounted = Some(mounted);
    for loss in 1..=losses {
        trial
            .live_and_die(40, async |server, random| {
                disk.cut_after(random.below(60));
                until_dark(disk).await;
                let mut again = power_cut(server, mounted.take().expect("it is mounted"), random);
                if random.below(5) == 0 {
                    // And once more while it starts.
                    disk.cut_after(random.below(12));
                    server.spawn();
                    until_dark(disk).await;
                    again = power_cut(server, again, random);
                }
                mounted = Some(again);
            })
            .await;
        if loss % 25 == 0 {
            trial.compact().await;
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_with_the_power() {
    let (losses, seed) = (variable("URD_POWER_LOSSES", 100), variable("URD_SEED", 1));
    let (server, disk, mounted) = start_on_disk(&[]).await;
    let mut trial = Trial::new(server, seed);
    lose_power(&mut trial, &disk, mounted, losses).await;
    let counts = disk.counts();
    println!("{counts:?}");
    assert!(counts.power_losses >= losses);
    assert!(counts.blocks_lost > 0 && counts.names_lost > 0, "the disk has lost nothing: {counts:?}");
    trial.conclude(counts.power_losses, seed, "losses of power").await;
}

/// The proof that the test above can fail: on a disk that only says that it has synced, as if the server had not asked, it
/// does.
#[tokio::test]
async fn a_sync_that_is_none_is_found_out() {
    let local = tokio::task::LocalSet::new();
    let trial = local.run_until(async {
        tokio::task::spawn_local(async {
            let (server, disk, mounted) = start_on_disk(&[]).await;
            disk.lie();
            let mut trial = Trial::new(server, 1);
            lose_power(&mut trial, &disk, mounted, 20).await;
            trial.conclude(disk.counts().power_losses, 1, "losses of power").await;
        })
        .await
    });
    let found = trial.await.expect_err("twenty losses of power and none of data, on a disk that keeps nothing");
    let found = found.into_panic();
    let text = found.downcast_ref::<String>().map(String::as_str).or(found.downcast_ref::<&str>().copied());
    println!("found out: {}", text.unwrap_or("it panicked").lines().next().unwrap_or_default());
}

/// Puts until one is refused or the server is gone; gives how many were acknowledged.
async fn put_until_it_ends(client: &Client, from: usize, len: usize) -> usize {
    for key in from..from + 100_000 {
        if soon(client.put(format!("{key:07}"), format!("{key:07} ").repeat(len / 8))).await.is_err() {
            return key;
        }
    }
    panic!("nothing came in its way");
}

/// All of them are there, and at most one more.
async fn has_all(client: &Client, acknowledged: usize, len: usize) {
    for key in 0..acknowledged {
        let found = client.get(format!("{key:07}")).await.unwrap().kvs;
        assert!(found.len() == 1 && found[0].value == format!("{key:07} ").repeat(len / 8), "key {key}");
    }
    let everything = client.range("0", "9").await.unwrap();
    assert!((acknowledged as i64..=acknowledged as i64 + 1).contains(&everything.count), "{}", everything.count);
}

#[tokio::test]
async fn a_write_or_a_sync_that_fails_stops_the_member_and_loses_nothing() {
    for (what, after, errno) in [
        (What::Write, 0, Errno::EIO),
        (What::Write, 17, Errno::EIO),
        (What::Sync, 0, Errno::EIO),
        (What::Sync, 23, Errno::EIO),
        (What::Write, 9, Errno::ENOSPC),
    ] {
        let shown = format!("{what:?} {after} {errno:?}");
        let (mut server, disk, mounted) = start_on_disk(&[]).await;
        let before = disk.counts();
        disk.fail(what, after, errno);
        let client = server.client().await;
        let acknowledged = put_until_it_ends(&client, 0, 512).await;
        assert_eq!(server.wait().code(), Some(1), "{shown}");
        let said = server.log();
        let wanted = [
            "the log cannot be written; the member stops, nothing acknowledged is lost",
            "free space or mend the disk",
        ];
        for wanted in
            wanted.into_iter().map(str::to_owned).chain([server.data_dir().join("00000001.seg").display().to_string()])
        {
            assert!(said.contains(&wanted), "{shown}: {wanted:?} is not said:\n{said}");
        }
        let counts = disk.counts();
        assert!(counts.writes > before.writes, "{shown}: it was asked to write");
        // Still broken: it says so again, and does not serve.
        disk.fail(what, 0, errno);
        server.spawn();
        assert!(!server.is_ready().await, "{shown}: it serves on a broken disk");
        disk.mend();
        server.restart().await;
        has_all(&server.client().await, acknowledged, 512).await;
        // What has failed and is not on the disk is gone with the power; nobody was told of it.
        let mut mounted = power_cut(&mut server, mounted, &mut Random(after));
        server.restart().await;
        has_all(&server.client().await, acknowledged, 512).await;
        mounted = power_cut(&mut server, mounted, &mut Random(after + 1));
        drop(mounted);
    }
}

#[tokio::test]
async fn a_full_disk_stops_it_and_room_brings_everything_back() {
    const LEN: usize = 64 * 1024;
    let (mut server, disk, mounted) = start_on_disk(&[]).await;
    // For two segments of the log beside the one in use, or three if its successor is there already.
    disk.leave_room(40 << 20);
    let client = server.client().await;
    let acknowledged = put_until_it_ends(&client, 0, LEN).await;
    assert!(acknowledged > (30 << 20) / LEN, "{acknowledged}");
    assert_eq!(server.wait().code(), Some(1));
    let said = server.log();
    for wanted in ["the log cannot be written", "No space left on device", "free space or mend the disk"] {
        assert!(said.contains(wanted), "{wanted:?} is not said:\n{said}");
    }
    let mounted = mounted.lose_power(&mut Random(7)).mount(&server.data_dir());
    disk.leave_room(100 << 20);
    server.restart().await;
    let client = server.client().await;
    has_all(&client, acknowledged, LEN).await;
    client.put("a", "still takes writes").await.unwrap();
    server.kill();
    drop(mounted);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_holds_nobody_up() {
    let (mut server, disk, mounted) = start_on_disk(&[]).await;
    let client = server.client().await;
    let acknowledged = 40;
    for key in 0..acknowledged {
        client.put(format!("{key:07}"), format!("{key:07} ").repeat(64)).await.unwrap();
    }
    // Room for the log's own files as they are, and for nothing beside them.
    disk.leave_room(0);
    let refused = client.call(&DefragmentRequest {}).await.unwrap_err();
    assert!(refused.message().contains("No space left on device"), "{refused}");
    has_all(&client, acknowledged, 512).await;
    client.put("a", "the log has room").await.unwrap();
    disk.mend();
    client.call(&DefragmentRequest {}).await.unwrap();
    let mounted = power_cut(&mut server, mounted, &mut Random(3));
    server.restart().await;
    has_all(&server.client().await, acknowledged, 512).await;
    server.kill();
    drop(mounted);
}

#[tokio::test]
async fn while_the_disk_stalls_reads_go_on_and_writes_time_out() {
    let (mut server, disk, mounted) = start_on_disk(&[]).await;
    let client = server.client().await;
    client.put("k", "before").await.unwrap();
    let mut watcher = client.watch("k", "", 0).await.unwrap();
    disk.stall();
    let writing: Vec<_> = (0..20)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.put(format!("stalled{number}"), "v").await })
        })
        .collect();
    while disk.held() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The sync hangs. Linearizable reads of one member need no disk, nor do serializable ones, nor keep-alives.
    let serializable = RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    for _ in 0..1000 {
        let found = soon(client.get("k")).await.unwrap();
        assert_eq!(found.kvs[0].value, "before");
        assert_eq!(soon(client.call(&serializable)).await.unwrap().kvs[0].value, "before");
        assert_eq!(soon(client.get("stalled0")).await.unwrap().count, 0, "a write is seen that is not durable");
    }
    soon(client.status()).await.unwrap();
    // As etcd's, after its request timeout: the caller knows that it does not know. (etcd API: request timed out.)
    for write in writing {
        refused(tokio::time::timeout(PATIENCE, write).await.expect("it times out").unwrap(), &error::TIMEOUT);
    }
    assert!(disk.held() > 0, "it stalls to this moment");
    assert_eq!(soon(client.get("k")).await.unwrap().kvs[0].value, "before");
    disk.go_on();
    soon(client.put("k", "after")).await.unwrap();
    let event = soon(watcher.next()).await.unwrap().events.remove(0);
    assert_eq!(event.kv.unwrap().value, "after");
    // What timed out was in the log and is done now: etcd's are, too.
    assert_eq!(client.range("stalled", "stallee").await.unwrap().count, 20);
    let mounted = power_cut(&mut server, mounted, &mut Random(5));
    server.restart().await;
    assert_eq!(server.client().await.range("stalled", "stallee").await.unwrap().count, 20);
    server.kill();
    drop(mounted);
}
