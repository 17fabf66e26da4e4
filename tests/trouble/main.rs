//! Three members as processes, each in a network namespace and on a disk of its own, under load and in trouble: killed, stopped,
//! paused, cut off from each other in one way or both, behind slow links, on disks that are full, fail or lose their power. What
//! clients and watches were told is held against the one history (`checker.rs`).
//!
//! Needs root, ip(8), unshare(1) and mkfs.ext4, and is run by name: `tests/trouble/run SECONDS SEED`, or
//! `cargo test --test trouble -- --ignored`. `URD_TEST_SERVER` names the server (the reference's will do as well),
//! `URD_TROUBLE_SECONDS` how long (60), `URD_SEED` what is drawn; `URD_TROUBLE_SERVERS`
//! names each member's, so that etcd and urd are members of one cluster; `URD_TROUBLE_FAULTS` the faults to choose from;
//! `URD_TROUBLE_BREAK=serializable` takes serializable reads for
//! linearizable ones, so that the checker must find them.

mod access;
mod checker;
mod clients;
mod cluster;
mod disk;
mod faults;
mod network;
mod rolling;
#[path = "../server/mod.rs"]
mod server;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tempfile::TempDir;
use urd_client::{
    Error,
    etcdserverpb::{AlarmRequest, RangeRequest},
};

use access::Access;
use checker::{Counts, History, Lease, Op};
use clients::{Run, Watched};
use cluster::{Cluster, MEMBERS, servers};
use faults::{Faults, Told};
use server::PATIENCE;

const WORKERS: usize = 8;
const LEASE_KEEPERS: usize = 2;
/// Of what is wrong, so much is told.
const TOLD_MAX: usize = 10;

#[test]
#[ignore = "needs root, a minute, and two cores for itself"]
fn nothing_is_lost_and_nobody_is_misled() {
    let home = TempDir::new().expect("a directory for the test");
    if let Some(status) = network::inside("nothing_is_lost_and_nobody_is_misled", home.path()) {
        assert!(status.success(), "the run ended with {status}; if it had not begun, namespaces may not be made here");
        return;
    }
    let home = network::home();
    let (seconds, seed) = (variable("URD_TROUBLE_SECONDS", 60), variable("URD_SEED", 1));
    let servers: Vec<_> = servers().iter().map(|server| server.display().to_string()).collect();
    println!("{} for {seconds} s, seed {seed}", servers.join(", "));
    let mut cluster = Cluster::start(&home);
    let result = trial(&mut cluster, Duration::from_secs(seconds), seed);
    if let Err(cause) = result {
        for member in &cluster.members {
            keep_log(member);
            println!("--- member {}'s last lines\n{}", member.number + 1, member.last_words(12));
        }
        drop(cluster);
        panic!("{cause}\nseed {seed}");
    }
}

/// Where a run has failed, the folder named by `URD_TROUBLE_LOGS` is given all that its members have said.
fn keep_log(member: &cluster::Member) {
    if let Some(folder) = std::env::var_os("URD_TROUBLE_LOGS").map(PathBuf::from) {
        let written = std::fs::write(folder.join(format!("{}.log", member.name)), member.said());
        written.unwrap_or_else(|cause| println!("{}: {cause}", folder.display()));
    }
}

fn variable(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => otherwise,
    }
}

/// What a run of clients, leases and watches has told.
struct Records {
    ops: Vec<Op>,
    leases: Vec<Lease>,
    watched: Vec<Watched>,
}

fn trial(cluster: &mut Cluster, lasting: Duration, seed: u64) -> Result<(), String> {
    let places: Vec<usize> = (0..MEMBERS).collect();
    let run = Arc::new(Run::new(&places, MEMBERS, false, Access::default()));
    let clients = {
        let run = run.clone();
        std::thread::spawn(move || {
            let records = records(&run, seed);
            run.is_over.store(true, Relaxed);
            records
        })
    };
    // What happens to the members is done by calls that block, on a thread that no client waits for.
    let told = local(Faults::new(&run, cluster, seed).happen(lasting));
    run.is_over.store(true, Relaxed);
    let ended = told.and_then(|told| Ok((told, local(last_revision(&run))?)));
    run.is_given_up.store(ended.is_err(), Relaxed);
    let records = clients.join().map_err(|_| "the clients have fallen over".to_owned())?;
    let (told, last, mut records) = match (ended, records) {
        (Ok((told, last)), Ok(records)) => (told, last, records),
        (ended, records) => {
            let causes: Vec<_> = ended.err().into_iter().chain(records.err()).collect();
            return Err(causes.join("\n"));
        }
    };
    records.ops.extend(told.ops.iter().cloned());
    conclude(&run, &told, &records, last, lasting, seed)
}

/// Waits until all leases are gone, so that nothing changes any more, and lets the watches end there.
async fn last_revision(run: &Run) -> Result<i64, String> {
    let begin = std::time::Instant::now();
    loop {
        let (leases, last) = async {
            let client = run.access.connect(run.places()[0]).await?;
            // No client asks any more; what one has asked for is done by now, or is a lease's.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let leases = client.range("l/", "l0").await?;
            Ok((leases.count, leases.header.map_or(0, |header| header.revision)))
        }
        .await
        .map_err(|cause: Error| cause.to_string())?;
        if leases == 0 && begin.elapsed() > Duration::from_secs(5) {
            let again = async { run.access.connect(run.places()[0]).await?.get("l/").await }.await;
            let again = again.map_err(|cause| cause.to_string())?.header.map_or(0, |header| header.revision);
            if again == last {
                run.last.store(last, Relaxed);
                return Ok(last);
            }
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("{leases} keys of leases that nobody keeps alive are there after {PATIENCE:?}"));
        }
    }
}

fn records(run: &Arc<Run>, seed: u64) -> Result<Records, String> {
    local(async {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let session =
                    clients::Session::new(run.clone(), format!("w{number}"), seed ^ ((number as u64 + 1) << 40));
                tokio::task::spawn_local(session.work())
            })
            .collect();
        let keepers: Vec<_> = (0..LEASE_KEEPERS)
            .map(|number| {
                tokio::task::spawn_local(clients::keep_leases(run.clone(), number, seed ^ ((number as u64 + 1) << 48)))
            })
            .collect();
        let watches: Vec<_> =
            (0..MEMBERS).map(|number| tokio::task::spawn_local(clients::watch(run.clone(), number))).collect();
        let gone = |cause: tokio::task::JoinError| format!("a client: {cause}");
        let mut records = Records { ops: Vec::new(), leases: Vec::new(), watched: Vec::new() };
        for worker in workers {
            records.ops.extend(worker.await.map_err(gone)?);
        }
        for keeper in keepers {
            let (ops, leases) = keeper.await.map_err(gone)?;
            records.ops.extend(ops);
            records.leases.extend(leases);
        }
        for watch in watches {
            records.watched.push(watch.await.map_err(gone)??);
        }
        Ok(records)
    })
}

/// Holds all that was told against the one history.
fn judged(records: &Records, last: i64) -> Result<(History, Counts), String> {
    let history = History::new(&records.watched[0].changes)?;
    if history.last() != last {
        return Err(format!("the watch ends at {}, the store at {last}", history.last()));
    }
    for (number, watched) in records.watched.iter().enumerate() {
        checker::watched(&history, &format!("watch {}", number + 1), &watched.changes)?;
    }
    let seen: Vec<_> = records.watched.iter().flat_map(|watched| watched.seen.iter().copied()).collect();
    let counts = checker::check(&history, &records.ops, &records.leases, &seen).map_err(|wrong| {
        format!("{} answers are wrong:\n  {}", wrong.len(), wrong[..wrong.len().min(TOLD_MAX)].join("\n  "))
    })?;
    Ok((history, counts))
}

/// The alarms that are raised, as a text.
async fn alarms(run: &Run) -> Result<Option<String>, String> {
    let asked = async { run.access.connect(run.places()[0]).await?.call(&AlarmRequest::default()).await };
    let alarms = asked.await.map_err(|cause: Error| cause.to_string())?.alarms;
    Ok((!alarms.is_empty()).then(|| format!("{alarms:?}")))
}

fn conclude(run: &Run, told: &Told, records: &Records, last: i64, lasting: Duration, seed: u64) -> Result<(), String> {
    let (history, counts) = judged(records, last)?;
    let hash = local(same_everywhere(run, &history, last))?;
    if let Some(alarms) = local(alarms(run))? {
        return Err(format!("alarms are raised: {alarms}"));
    }
    let faults: BTreeMap<_, _> = told.counts.iter().collect();
    let mut recoveries = told.recoveries.clone();
    recoveries.sort_unstable();
    let resumed: usize = records.watched.iter().map(|watched| watched.resumed).sum();
    let bookmarks: usize = records.watched.iter().map(|watched| watched.bookmarks).sum();
    println!(
        "faults: {} ({})\n\
         disks: {} members ended by themselves, {} went on until there was room or they were killed\n\
         recovered after {} rounds, every member writing: median {:?}, longest {:?}\n\
         operations: {} ({} writes and {} reads in their places, {} serializable reads, {} without an answer, of which {} \
         were done)\n\
         house: {} compactions and {} defragmentations among it\n\
         leases: {}, with {} promises kept; watches: {MEMBERS}, resumed {resumed} times, {bookmarks} bookmarks\n\
         members: revision {last}, HashKV {hash} on all\n\
         members: all of it holds ({} s, seed {seed})",
        told.counts.values().sum::<usize>(),
        faults.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect::<Vec<_>>().join(", "),
        told.ended,
        told.went_on,
        recoveries.len(),
        recoveries.get(recoveries.len() / 2).copied().unwrap_or_default(),
        recoveries.last().copied().unwrap_or_default(),
        records.ops.len(),
        counts.writes,
        counts.reads,
        counts.stale_reads,
        counts.unknown,
        counts.unknown_done,
        told.compactions,
        told.defragmentations,
        records.leases.len(),
        records.leases.iter().map(|lease| lease.promises.len()).sum::<usize>(),
        lasting.as_secs(),
    );
    Ok(())
}

/// Every member tells, by itself, the same state and the same hash of all there ever was.
async fn same_everywhere(run: &Run, history: &History, last: i64) -> Result<u32, String> {
    let mut hashes = Vec::new();
    for member in run.places() {
        let asked = async {
            let client = run.access.connect(member).await?;
            let request =
                RangeRequest { key: "k/".into(), range_end: "k0".into(), serializable: true, ..Default::default() };
            let kvs = client.call(&request).await?.kvs;
            Ok((clients::found(&kvs), client.hash_kv(last).await?))
        };
        let (kvs, hash) = asked.await.map_err(|cause: Error| format!("member {}: {cause}", member + 1))?;
        if kvs != history.list("k/", last) {
            return Err(format!("member {} has another state than its watch told", member + 1));
        }
        hashes.push((hash.hash, hash.compact_revision));
    }
    match hashes.iter().all(|hash| *hash == hashes[0]) {
        true => Ok(hashes[0].0),
        false => Err(format!("the members' hashes (HashKV, compacted at) of revision {last} differ: {hashes:?}")),
    }
}

fn local<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(tokio::task::LocalSet::new().run_until(future))
}
