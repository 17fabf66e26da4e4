//! One store's life through many deaths: what writers, watchers and a keeper did to it and were told, and the proof after
//! each death that nothing acknowledged is lost, nothing is done twice, and history is what it was. How it dies is
//! somebody else's business.

use std::{collections::BTreeSet, sync::atomic::Ordering::Relaxed, time::Duration};

use urd::random::Random;
use urd_client::{
    Client,
    etcdserverpb::{LeaseLeasesRequest, RangeRequest},
};

use crate::{
    checker::{Change, What, contiguous, explain, replay, watched},
    keeper::Keeper,
    load::{Follower, Writer},
    server::{Server, soon},
};

const WRITERS: u64 = 8;

/// How many revisions a follower may be behind when a life begins.
const LAG_MAX: i64 = 10_000;

/// A hash of the store, its revision and its compacted revision.
pub type Hash = (u32, i64, i64);

pub struct Trial {
    pub server: Server,
    pub random: Random,
    writers: Vec<Writer>,
    followers: Vec<Follower>,
    /// Everything there ever was, gathered after each restart.
    history: Follower,
    compacted: i64,
    hashes_compared: usize,
    compactions: usize,
    defragments: usize,
}

/// A number from the environment.
pub fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

impl Trial {
    /// Of a server that runs.
    pub fn new(server: Server, seed: u64) -> Self {
        Trial {
            server,
            random: Random(seed),
            // Every second writer grants leases.
            writers: (0..WRITERS).map(|number| Writer::new(number, seed, number % 2 == 1)).collect(),
            followers: ["", "w0/", "w1/"].map(Follower::new).into(),
            history: Follower::new(""),
            compacted: -1,
            hashes_compared: 0,
            compactions: 0,
            defragments: 0,
        }
    }

    /// Loads the server for a moment, has it die, starts it again and looks at everything.
    pub async fn live_and_die(&mut self, milliseconds: u64, die: impl AsyncFnOnce(&mut Server, &mut Random)) {
        let kept = self.random.below(3) == 0;
        let (hash, keeper) = self.load_and_kill(kept, milliseconds, die).await;
        self.server.restart().await;
        let client = self.server.client().await;
        self.take_compaction(&client, keeper).await;
        self.verify(&client, hash).await;
        if kept {
            self.verify_retained(&client).await;
        }
        // On a slow machine a follower may see less in each life than is written in it; then nothing could be compacted.
        let newest = self.history.next - 1;
        if newest - self.compactable() > LAG_MAX {
            self.catch_up(&client).await;
        }
    }

    /// All followers see all that there is for them.
    async fn catch_up(&mut self, client: &Client) {
        for follower in &mut self.followers {
            let last = self.history.seen.iter().rfind(|change| change.key.starts_with(&follower.prefix));
            let last = last.map_or(0, |change| change.revision);
            soon(follower.run(client, Some(last))).await.expect("it can catch up");
        }
    }

    /// Gives a hash of the store, its revision and its compacted revision, taken while it was written to; and if it was
    /// compacted and defragmented meanwhile, who did.
    async fn load_and_kill(
        &mut self,
        kept: bool,
        milliseconds: u64,
        die: impl AsyncFnOnce(&mut Server, &mut Random),
    ) -> (Hash, Option<Keeper>) {
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
        let mut defragments = None;
        let keeping = match kept.then(|| Keeper::new(self.compacted, self.compactable(), self.random.draw())) {
            Some(mut keeper) => {
                let client = self.server.client().await;
                defragments = Some(keeper.defragments.clone());
                Some(tokio::spawn(async move {
                    keeper.run(&client).await;
                    keeper
                }))
            }
            None => None,
        };
        let client = self.server.client().await;
        let (before, after) = (self.random.below(milliseconds), self.random.below(milliseconds));
        tokio::time::sleep(Duration::from_millis(before)).await;
        let hash = client.hash_kv(0).await.expect("it lives");
        tokio::time::sleep(Duration::from_millis(after)).await;
        // Once at least it gives space back under load, however slow the machine.
        if let (0, Some(defragments)) = (self.defragments, defragments) {
            soon(async {
                while defragments.load(Relaxed) == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        }
        die(&mut self.server, &mut self.random).await;
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
                self.defragments += keeper.defragments.load(Relaxed);
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

    pub async fn compact(&mut self) {
        let client = self.server.client().await;
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

    /// Looks at the whole history at last. `kills`: how often it died; `told`: what else is to be said of it.
    pub async fn conclude(mut self, kills: u64, seed: u64, told: &str) {
        let client = self.server.client().await;
        let current = client.get("x").await.expect("it lives").header.expect("a header").revision;
        soon(self.history.run(&client, Some(current))).await.expect("history can be watched");
        self.catch_up(&client).await;
        let history = &self.history.seen;
        let mut findings: Vec<String> = Vec::new();
        findings.extend(contiguous(history, 2, current).err());
        for follower in &self.followers {
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
            "{kills} {told} (seed {seed}), {operations} operations: {acknowledged} acknowledged, {unheard} done but not \
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
