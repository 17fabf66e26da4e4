//! Kills the server with SIGKILL under load, again and again, and proves each time that nothing acknowledged is lost,
//! nothing is done twice, and history is what it was. In a third of its lives the store is compacted and defragmented
//! meanwhile. `URD_CRASH_KILLS` sets how often (100), `URD_SEED` what is drawn.

mod checker;
mod keeper;
mod load;
#[path = "../server/mod.rs"]
mod server;

use std::{collections::BTreeSet, time::Duration};

use checker::{Change, What, contiguous, explain, replay, watched};
use keeper::Keeper;
use load::{Follower, Random, Writer};
use server::{Server, soon};
use urd_client::{
    Client,
    etcdserverpb::{LeaseLeasesRequest, RangeRequest},
};

const WRITERS: u64 = 8;

/// A hash of the store, its revision and its compacted revision.
type Hash = (u32, i64, i64);

struct Trial {
    server: Server,
    random: Random,
    writers: Vec<Writer>,
    followers: Vec<Follower>,
    /// Everything there ever was, gathered after each restart.
    history: Follower,
    compacted: i64,
    hashes_compared: usize,
    compactions: usize,
    defragments: usize,
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    let (kills, seed) = (variable("URD_CRASH_KILLS", 100), variable("URD_SEED", 1));
    let mut trial = Trial {
        server: Server::start().await,
        random: Random(seed),
        // Every second writer grants leases.
        writers: (0..WRITERS).map(|number| Writer::new(number, seed, number % 2 == 1)).collect(),
        followers: ["", "w0/", "w1/"].map(Follower::new).into(),
        history: Follower::new(""),
        compacted: -1,
        hashes_compared: 0,
        compactions: 0,
        defragments: 0,
    };
    let mut at_start = 0;
    for kill in 1..=kills {
        let kept = trial.random.below(3) == 0;
        let (hash, keeper) = trial.load_and_kill(kept).await;
        if trial.random.below(5) == 0 {
            // And once more while it starts.
            at_start += 1;
            trial.server.spawn();
            tokio::time::sleep(Duration::from_millis(trial.random.below(60))).await;
            trial.server.kill();
        }
        trial.server.restart().await;
        let client = trial.server.client().await;
        trial.take_compaction(&client, keeper).await;
        trial.verify(&client, hash).await;
        if kept {
            trial.verify_retained(&client).await;
        }
        if kill % 25 == 0 {
            trial.compact(&client).await;
        }
    }
    trial.conclude(kills + at_start, seed).await;
}

impl Trial {
    /// Gives a hash of the store, its revision and its compacted revision, taken while it was written to; and if it was
    /// compacted and defragmented meanwhile, who did.
    async fn load_and_kill(&mut self, kept: bool) -> (Hash, Option<Keeper>) {
        let mut writing = Vec::new();
        for mut writer in self.writers.drain(..) {
            let client = self.server.client().await;
            writing.push(tokio::spawn(async move {
                writer.run(&client).await;
                writer
            }));
        }
        let mut following = Vec::new();
        for mut follower in self.followers.drain(..) {
            let client = self.server.client().await;
            following.push(tokio::spawn(async move {
                // It ends with the server.
                let _ = follower.run(&client, None).await;
                follower
            }));
        }
        let keeping = match kept.then(|| Keeper::new(self.compacted, self.compactable(), self.random.next())) {
            Some(mut keeper) => {
                let client = self.server.client().await;
                Some(tokio::spawn(async move {
                    keeper.run(&client).await;
                    keeper
                }))
            }
            None => None,
        };
        let client = self.server.client().await;
        let (before, after) = (self.random.below(200), self.random.below(200));
        tokio::time::sleep(Duration::from_millis(before)).await;
        let hash = client.hash_kv(0).await.expect("it lives");
        tokio::time::sleep(Duration::from_millis(after)).await;
        self.server.kill();
        for task in writing {
            self.writers.push(soon(task).await.expect("a writer met no refusal"));
        }
        for task in following {
            self.followers.push(soon(task).await.expect("a watch was not cancelled"));
        }
        let keeper = match keeping {
            Some(task) => Some(soon(task).await.expect("a keeper met no refusal")),
            None => None,
        };
        ((hash.hash, hash.hash_revision, hash.compact_revision), keeper)
    }

    /// The highest revision that nobody needs who goes on after the next crash.
    fn compactable(&self) -> i64 {
        let next = self.followers.iter().chain([&self.history]).map(|follower| follower.next).min();
        next.expect("there are followers") - 1
    }

    /// A compaction that was not answered may have been done or not; one that was, has.
    async fn take_compaction(&mut self, client: &Client, keeper: Option<Keeper>) {
        let compacted = client.hash_kv(0).await.expect("it lives").compact_revision;
        match keeper {
            Some(keeper) => {
                assert!(
                    compacted == keeper.acknowledged || Some(compacted) == keeper.unheard,
                    "compacted to {compacted}, {keeper:?}"
                );
                self.compactions += keeper.compactions;
                self.defragments += keeper.defragments;
            }
            None => assert_eq!(compacted, self.compacted, "nobody compacted"),
        }
        self.compacted = compacted;
    }

    /// What was not compacted away can still be watched, as it was.
    async fn verify_retained(&self, client: &Client) {
        let current = self.history.next - 1;
        let mut again = Follower { next: (self.compacted + 1).max(1), ..Follower::new("") };
        soon(again.run(client, Some(current))).await.expect("history can be watched");
        let history = &self.history.seen;
        let kept: Vec<Change> = history.iter().filter(|change| change.revision > self.compacted).cloned().collect();
        if let Err(finding) = watched(&kept, "", &again.seen) {
            panic!("from {} on: {finding}", self.compacted);
        }
    }

    async fn verify(&mut self, client: &Client, hash: Hash) {
        let current = client.get("x").await.expect("it lives").header.expect("a header").revision;
        let acknowledged = self
            .writers
            .iter()
            .flat_map(|writer| &writer.ops)
            .filter_map(|op| op.answer)
            .map(|answer| answer.revision)
            .max();
        assert!(Some(current) >= acknowledged, "the store went back to {current}, {acknowledged:?} was told");
        soon(self.history.run(client, Some(current))).await.expect("history can be watched");

        // Somewhere in the past.
        let oldest = self.compacted.max(1);
        let revision = oldest + self.random.below((current - oldest + 1) as u64) as i64;
        let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), revision, ..Default::default() };
        let found = client.call(&all).await.expect("the past is readable");
        let found = found.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value)));
        assert!(found.eq(replay(&self.history.seen, revision)), "the store at {revision} is not what it was");

        let (before, revision, compacted) = hash;
        // A later compaction makes it another hash.
        if compacted == self.compacted {
            let after = client.hash_kv(revision).await.expect("the past can be hashed");
            assert_eq!((after.hash, after.compact_revision), (before, compacted), "hash at {revision}");
            self.hashes_compared += 1;
        }
        self.verify_leases(client).await;
    }

    async fn verify_leases(&mut self, client: &Client) {
        let listed = client.call(&LeaseLeasesRequest {}).await.expect("it lives");
        let listed: BTreeSet<i64> = listed.leases.iter().map(|lease| lease.id).collect();
        let mut asked = BTreeSet::new();
        for op in self.writers.iter().flat_map(|writer| &writer.ops) {
            match (&op.what, op.answer) {
                (What::Grant { lease }, _) => drop(asked.insert(*lease)),
                (What::Revoke { lease }, Some(_)) => assert!(!listed.contains(lease), "lease {lease} was revoked"),
                _ => {}
            }
        }
        assert!(listed.is_subset(&asked), "leases that nobody asked for");
        let current = self.history.seen.last().map_or(0, |change| change.revision);
        let attached = attachments(&self.history.seen, current);
        for writer in &self.writers {
            for lease in &writer.granted {
                assert!(listed.contains(lease), "lease {lease} is lost");
            }
            // Some of them, keys and all.
            for lease in writer.granted.iter().rev().take(3) {
                let told = client.time_to_live(*lease, true).await.expect("it lives");
                assert_eq!(told.granted_ttl, 36_000);
                let keys: BTreeSet<String> = told.keys.iter().map(|key| text(key)).collect();
                let wanted: BTreeSet<String> =
                    attached.iter().filter(|(_, on)| on == lease).map(|(key, _)| key.clone()).collect();
                assert_eq!(keys, wanted, "keys of lease {lease}");
            }
        }
    }

    async fn compact(&mut self, client: &Client) {
        let newest = self.history.next - 1;
        let oldest = self.compacted.max(1);
        let revision = oldest + (newest - oldest) / 2;
        // Followers are never behind a whole life of the server.
        let revision = revision.min(self.compactable());
        if revision > oldest {
            client.compact(revision).await.expect("history can be compacted");
            self.compacted = revision;
        }
    }

    async fn conclude(mut self, kills: u64, seed: u64) {
        let client = self.server.client().await;
        let current = client.get("x").await.expect("it lives").header.expect("a header").revision;
        soon(self.history.run(&client, Some(current))).await.expect("history can be watched");
        let history = &self.history.seen;
        let mut findings: Vec<String> = Vec::new();
        findings.extend(contiguous(history, 2, current).err());
        for follower in &mut self.followers {
            let last = history.iter().rfind(|change| change.key.starts_with(&follower.prefix));
            let last = last.map_or(0, |change| change.revision);
            soon(follower.run(&client, Some(last))).await.expect("it can catch up");
            findings.extend(watched(history, &follower.prefix, &follower.seen).err());
        }
        // What can still be watched is what was seen at the time.
        let mut again = Follower { next: (self.compacted + 1).max(1), ..Follower::new("") };
        soon(again.run(&client, Some(current))).await.expect("history can be watched");
        let kept: Vec<Change> = history.iter().filter(|change| change.revision > self.compacted).cloned().collect();
        findings.extend(watched(&kept, "", &again.seen).err());

        let (mut operations, mut acknowledged, mut unheard, mut undone) = (0, 0, 0, 0);
        for writer in &self.writers {
            operations += writer.ops.len();
            match explain(history, &writer.prefix, &writer.ops) {
                Ok(counts) => {
                    acknowledged += counts.acknowledged;
                    unheard += counts.done_unheard;
                    undone += counts.not_done;
                }
                Err(finding) => findings.push(finding),
            }
        }
        println!(
            "{kills} kills (seed {seed}), {operations} operations: {acknowledged} acknowledged, {unheard} done but not \
             heard of, {undone} not done; {} events, {} hashes compared, {} compactions and {} defragmentations under load, {} losses",
            history.len(),
            self.hashes_compared,
            self.compactions,
            self.defragments,
            findings.len(),
        );
        assert!(findings.is_empty(), "{findings:#?}");
        assert!(acknowledged as u64 > kills, "the load was none");
        assert!(kills < 20 || self.compactions > 0 && self.defragments > 0, "no space was given back under load");
    }
}

/// Which keys hang on which leases.
fn attachments(history: &[Change], revision: i64) -> Vec<(String, i64)> {
    let mut on = std::collections::BTreeMap::new();
    for change in history.iter().take_while(|change| change.revision <= revision) {
        on.insert(change.key.clone(), change.lease);
    }
    on.into_iter().filter(|(_, lease)| *lease != 0).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("only text was written")
}
