//! The members of a cluster are replaced one by one by members of another kind, and back again, under clients that go on
//! meanwhile: etcd by urd, urd by etcd. Peers and clients speak within TLS, users are asked for, etcd's own corruption checks are
//! on. After each step every member has the same hash; at the end what clients, leases and watches were told is held against the
//! one history (`checker.rs`).
//!
//! `tests/trouble/rolling` runs it. `URD_ROLLING_ETCD` names an etcd; `URD_ROLLING_FAULTS=1` kills the newcomer while it receives
//! its snapshot, the leader while it promotes, and cuts somebody off, at every step; `URD_ROLLING_STRICT=1` waits as an operator
//! has to (`--strict-reconfig-check`); `URD_ROLLING_MB` is there before it begins; `URD_ROLLING_GAP_MS` is the longest time for
//! which no client's write may be done; where it fails, `URD_TROUBLE_LOGS` is the folder for the members' logs.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use urd::random::Random;
use urd_client::{
    Client, Error,
    etcdserverpb::{
        AuthenticateRequest, Member as Listed, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest,
        MoveLeaderRequest, StatusRequest,
    },
};

use crate::{
    Records,
    access::Access,
    alarms,
    checker::{Lease, Micros, Op, What},
    clients::{self, Run, Session},
    cluster::{Member, peer_url},
    judged, keep_log, last_revision, local, network,
    network::{Network, address},
    same_everywhere,
    server::{PATIENCE, binary, certificates::Certificates, users},
    variable,
};

const TEST: &str = "rolling::members_are_replaced_by_another_kind_and_back";
const MEMBERS: usize = 3;
/// One more than members: who comes is there before who goes has gone.
const PLACES: usize = MEMBERS + 1;
const WORKERS: usize = 6;
const WATCHES: usize = 3;
const USER: &str = "root";
const VALUE_BYTES: usize = 64 << 10;

#[test]
#[ignore = "needs root, an etcd, a minute, and two cores for itself"]
fn members_are_replaced_by_another_kind_and_back() {
    let Some(etcd) = std::env::var_os("URD_ROLLING_ETCD").map(PathBuf::from) else {
        panic!("URD_ROLLING_ETCD names the etcd that urd replaces and is replaced by");
    };
    let home = TempDir::new().expect("a directory for the test");
    if let Some(status) = network::inside(TEST, home.path()) {
        assert!(status.success(), "the run ended with {status}; if it had not begun, namespaces may not be made here");
        return;
    }
    let (home, seed) = (network::home(), variable("URD_SEED", 1));
    let mut rolling = Rolling::new(&home, &etcd, seed);
    println!("etcd {}, urd {}, seed {seed}", rolling.release, binary().display());
    if let Err(cause) = rolling.roll() {
        for member in &rolling.members {
            keep_log(member);
            println!("--- {}'s last lines\n{}", member.name, member.last_words(12));
        }
        drop(rolling);
        panic!("{cause}\nseed {seed}");
    }
}

/// How long writes had to wait.
#[derive(Default)]
struct Waits {
    /// The longest time in which no client's write was done.
    nobody: Micros,
    /// The longest that one client tried.
    one: Micros,
}

struct Rolling {
    home: PathBuf,
    etcd: PathBuf,
    /// `3.7.3`.
    release: String,
    certificates: Certificates,
    network: Network,
    members: Vec<Member>,
    /// Members so far: their names are told apart by it.
    named: usize,
    random: Random,
    faults: bool,
    run: Arc<Run>,
    session: Session,
    told: Told,
}

#[derive(Default)]
struct Told {
    steps: usize,
    hashes: usize,
    compactions: usize,
    restarts: usize,
    killed_receiving: usize,
    killed_leaders: usize,
    partitions: usize,
    elections_by_removal: usize,
    ended_by_themselves: usize,
}

impl Rolling {
    fn new(home: &Path, etcd: &Path, seed: u64) -> Self {
        let mut hosts: Vec<String> = (0..PLACES).map(address).collect();
        hosts.push("127.0.0.1".to_owned());
        let certificates = Certificates::for_hosts(&hosts);
        let places: Vec<usize> = (0..MEMBERS).collect();
        let access = Access::within_tls(&certificates).of_user(USER, USER);
        let run = Arc::new(Run::new(&places, WATCHES, true, access));
        let session = Session::new(run.clone(), "o".to_owned(), seed ^ 0x0e);
        Rolling {
            home: home.to_owned(),
            etcd: etcd.to_owned(),
            release: release(etcd),
            network: Network::new(PLACES),
            members: Vec::new(),
            named: 0,
            random: Random(seed ^ 0x70),
            faults: variable("URD_ROLLING_FAULTS", 0) > 0,
            run,
            session,
            told: Told::default(),
            certificates,
        }
    }

    fn member(&mut self, place: usize, server: &Path, initial: &str, state: &str) -> Member {
        self.named += 1;
        let kind = if server == self.etcd { "etcd" } else { "urd" };
        let name = format!("m{}-{kind}", self.named);
        let path = |file: &str| self.certificates.path(file).display().to_string();
        let initial = initial.replace("=self=", &format!("{name}="));
        let mut more = vec![
            format!("--initial-cluster={initial}"),
            format!("--initial-cluster-state={state}"),
            format!("--cert-file={}", path("server.pem")),
            format!("--key-file={}", path("server.key")),
            format!("--peer-cert-file={}", path("server.pem")),
            format!("--peer-key-file={}", path("server.key")),
            format!("--peer-trusted-ca-file={}", path("ca.pem")),
            "--peer-client-cert-auth".to_owned(),
            users::CHEAP.to_owned(),
            "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true".to_owned(),
            "--compact-hash-check-time=2s".to_owned(),
            "--corrupt-check-time=3s".to_owned(),
            // So that who comes has to be sent a snapshot.
            "--snapshot-catchup-entries=20".to_owned(),
        ];
        more.extend((kind == "etcd").then(|| "--snapshot-count=100".to_owned()));
        if variable("URD_ROLLING_STRICT", 0) == 0 {
            more.push("--strict-reconfig-check=false".to_owned());
        }
        if kind == "urd" && self.release.starts_with("3.6.") {
            more.push("--max-cluster-version=3.6".to_owned());
        }
        Member::new(&self.home, place, &name, server, "https", more)
    }

    fn roll(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        let (etcd, urd) = (self.etcd.clone(), binary());
        let all: Vec<String> =
            (0..MEMBERS).map(|place| format!("m{}-etcd={}", place + 1, peer_url("https", place))).collect();
        for place in 0..MEMBERS {
            let member = self.member(place, &etcd, &all.join(","), "new");
            self.members.push(member);
        }
        self.members.iter_mut().for_each(Member::start);
        local(self.prepare())?;
        let version = local(self.cluster_version())?;

        let run = self.run.clone();
        let seed = self.random.draw();
        let clients = std::thread::spawn(move || {
            let records = records(&run, seed);
            run.is_over.store(true, Relaxed);
            records
        });
        let steps = self.steps(&[&urd, &etcd]);
        self.run.is_over.store(true, Relaxed);
        let ended = steps.and_then(|()| local(last_revision(&self.run)));
        self.run.is_given_up.store(ended.is_err(), Relaxed);
        let records = clients.join().map_err(|_| "the clients have fallen over".to_owned())?;
        let (last, (mut records, waits, renewed)) = match (ended, records) {
            (Ok(last), Ok(records)) => (last, records),
            (ended, records) => {
                let causes: Vec<_> = ended.err().into_iter().chain(records.err()).collect();
                return Err(causes.join("\n"));
            }
        };
        records.ops.append(&mut self.session.ops);
        let (history, counts) = judged(&records, last)?;
        let hash = local(same_everywhere(&self.run, &history, last))?;
        if let Some(alarms) = local(alarms(&self.run))? {
            return Err(format!("alarms are raised: {alarms}"));
        }
        let version_now = local(self.cluster_version())?;
        if version_now != version {
            return Err(format!("the cluster stated {version} before, and {version_now} now"));
        }
        let gap = waits.nobody / 1000;
        let bound = variable("URD_ROLLING_GAP_MS", 10_000);
        if gap > bound {
            return Err(format!("for {gap} ms no write was done, {bound} are allowed"));
        }
        let told = &self.told;
        println!(
            "members: {} replaced, {} hashes compared on all, {} compactions, {} newcomers restarted, {} leaders removed, \
             {} of the replaced ended by themselves\n\
             faults: {} newcomers killed receiving a snapshot, {} leaders killed promoting, {} partitions\n\
             operations: {} ({} writes and {} reads in their places, {} serializable reads, {} without an answer, of which {} \
             were done)\n\
             waits: no write of any client for {gap} ms at most, of one client for {} ms at most\n\
             leases: {} with {} promises kept, one held throughout and renewed {renewed} times\n\
             watches: {WATCHES}, resumed {} times\n\
             cluster version {version_now}, revision {last}, HashKV {hash} on all, no alarm\n\
             rolling: all of it holds (etcd {}, {} s)",
            told.steps,
            told.hashes,
            told.compactions,
            told.restarts,
            told.elections_by_removal,
            told.ended_by_themselves,
            told.killed_receiving,
            told.killed_leaders,
            told.partitions,
            records.ops.len(),
            counts.writes,
            counts.reads,
            counts.stale_reads,
            counts.unknown,
            counts.unknown_done,
            waits.one / 1000,
            records.leases.len(),
            records.leases.iter().map(|lease| lease.promises.len()).sum::<usize>(),
            records.watched.iter().map(|watched| watched.resumed).sum::<usize>(),
            self.release,
            begin.elapsed().as_secs(),
        );
        Ok(())
    }

    /// Every member, one by one, by each of these kinds in turn.
    fn steps(&mut self, servers: &[&Path]) -> Result<(), String> {
        for server in servers {
            for _ in 0..MEMBERS {
                local(self.replace(server))?;
            }
        }
        Ok(())
    }

    /// Waits for the cluster, fills it, and turns users on.
    async fn prepare(&mut self) -> Result<(), String> {
        let plain = Access::within_tls(&self.certificates);
        let begin = Instant::now();
        let client = loop {
            let asked = async {
                let client = plain.connect(0).await?;
                client.get("x").await.map(|_| client)
            };
            match tokio::time::timeout(Duration::from_secs(2), asked).await {
                Ok(Ok(client)) => break client,
                _ if begin.elapsed() > PATIENCE => return Err("the cluster does not come up".to_owned()),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        users::enable(&client).await;
        // Clients with records count from here on; what was before they do not watch for.
        let pieces = variable("URD_ROLLING_MB", 4) * (1 << 20) / VALUE_BYTES as u64;
        for piece in 0..pieces {
            let value = format!("p{piece} {}", "z".repeat(VALUE_BYTES));
            let put = What::Put { key: format!("p/{piece}"), value, lease: 0 };
            if self.session.ask(put, PATIENCE).await.is_none() {
                return Err("what is to be there before cannot be written".to_owned());
            }
        }
        // An etcd has to have cut its log.
        for number in 0..150 {
            let put = What::Put { key: "p/last".to_owned(), value: format!("q{number}"), lease: 0 };
            self.session.ask(put, PATIENCE).await;
        }
        Ok(())
    }

    async fn client(&self) -> Result<Client, Error> {
        let places = self.run.places();
        let mut last = None;
        for place in places {
            match tokio::time::timeout(Duration::from_secs(3), self.run.access.connect(place)).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(cause)) => last = Some(cause),
                Err(_) => {}
            }
        }
        Err(last.unwrap_or(Error::Transport("nobody answers".to_owned())))
    }

    /// Asks for a change of the members until the members are so. Whoever does not answer may have done it.
    async fn until(
        &self,
        what: &str,
        ask: impl AsyncFn(&Client) -> Result<(), Error>,
        is_so: impl Fn(&[Listed]) -> bool,
    ) -> Result<Vec<Listed>, String> {
        let begin = Instant::now();
        let patience = Duration::from_secs(5);
        let mut last = String::new();
        loop {
            if let Ok(client) = self.client().await {
                let listed = tokio::time::timeout(patience, client.member_list()).await;
                if let Ok(Ok(answer)) = listed {
                    if is_so(&answer.members) {
                        return Ok(answer.members);
                    }
                    match tokio::time::timeout(patience, ask(&client)).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(cause)) => last = cause.to_string(),
                        Err(_) => last = "no answer".to_owned(),
                    }
                }
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("{what}: {last}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn leader(&self) -> Option<usize> {
        let mut found = None;
        for place in self.run.places() {
            let asked = async { self.run.access.connect(place).await?.status().await };
            if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(1), asked).await
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                found = found.max(Some((status.raft_term, place)));
            }
        }
        found.map(|(_, place)| place)
    }

    async fn any_leader(&self) -> Result<usize, String> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if let Some(place) = self.leader().await {
                return Ok(place);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("nobody leads".to_owned())
    }

    async fn cluster_version(&self) -> Result<String, String> {
        let client = self.client().await.map_err(|cause| cause.to_string())?;
        let status = client.call(&StatusRequest {}).await.map_err(|cause| cause.to_string())?;
        Ok(status.storage_version)
    }

    fn at(&mut self, place: usize) -> &mut Member {
        self.members.iter_mut().find(|member| member.number == place).expect("there is a member")
    }

    async fn replace(&mut self, server: &Path) -> Result<(), String> {
        let begin = Instant::now();
        let old = self.members[0].number;
        let place = (0..PLACES).find(|place| self.members.iter().all(|it| it.number != *place)).expect("one is free");
        let url = peer_url("https", place);
        let is_new = |member: &&Listed| member.peer_ur_ls.contains(&url);
        let add = async |client: &Client| {
            let request = MemberAddRequest { peer_ur_ls: vec![url.clone()], is_learner: true };
            client.call(&request).await.map(drop)
        };
        let listed = self.until("add a learner", add, |members| members.iter().any(|it| is_new(&it))).await?;
        let id = listed.iter().find(is_new).expect("it was just seen").id;
        let one = |member: &Listed| match member.id == id {
            true => format!("=self={url}"),
            false => format!("{}={}", member.name, member.peer_ur_ls[0]),
        };
        let initial: Vec<String> = listed.iter().map(one).collect();
        let newcomer = self.member(place, server, &initial.join(","), "existing");
        let (name, old_name) = (newcomer.name.clone(), self.members[0].name.clone());
        self.members.push(newcomer);
        self.receive(place).await;
        let receiving = begin.elapsed();

        self.promote(place, id).await?;
        let mut places = self.run.places();
        places.push(place);
        self.run.move_to(&places);
        let promoted = begin.elapsed();
        self.same_hash().await?;

        if self.faults {
            self.cut_off_somebody(place).await;
        }
        // What it has received it must be able to start with.
        match server == self.etcd {
            // Told to stop while there are watches, it takes its time.
            true => self.at(place).kill(),
            false if self.at(place).stop() => {}
            false => return Err(format!("{name} does not stop when it is told to")),
        }
        self.at(place).start();
        self.told.restarts += 1;
        self.takes_writes(place).await?;
        self.tokens_are_good_everywhere(place).await?;
        self.keep_house().await;
        let hash = self.same_hash().await?;

        self.remove(old, &places).await?;
        self.same_hash().await?;
        self.told.steps += 1;
        println!(
            "{:6.1} s: {old_name} → {name}: started after {:.1?}, voting after {:.1?}, whole after {:.1?}; hash {hash} on all",
            self.run.now() as f64 / 1e6,
            receiving,
            promoted,
            begin.elapsed(),
        );
        Ok(())
    }

    /// Starts the newcomer; with faults, once more after it was killed while its snapshot came.
    async fn receive(&mut self, place: usize) {
        if !self.faults {
            return self.at(place).start();
        }
        // What is on its way takes its time then.
        self.network.slow(place, Duration::from_millis(250));
        self.at(place).start();
        let begin = Instant::now();
        let has_begun = |said: &str| said.contains("receiving database snapshot");
        while !has_begun(&self.at(place).said()) && begin.elapsed() < Duration::from_secs(8) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(self.random.below(250))).await;
        self.at(place).kill();
        let said = self.at(place).said();
        self.told.killed_receiving +=
            usize::from(has_begun(&said) && !said.contains("received and saved database snapshot"));
        self.network.mend();
        self.at(place).start();
    }

    /// Lets the newcomer vote; with faults, the leader is killed meanwhile.
    async fn promote(&mut self, place: usize, id: u64) -> Result<(), String> {
        let promote = async |client: &Client| client.call(&MemberPromoteRequest { id }).await.map(drop);
        let votes = |members: &[Listed]| members.iter().any(|member| member.id == id && !member.is_learner);
        if !self.faults {
            return self.until("promote the newcomer", promote, votes).await.map(drop);
        }
        let leader = self.any_leader().await?;
        let run = self.run.clone();
        let asker = run.places().into_iter().find(|at| *at != leader).expect("there are several");
        let asked = tokio::task::spawn_local(async move {
            let asked = async {
                let client = run.access.connect(asker).await?;
                // Refused until the newcomer has nearly all.
                while client.call(&MemberPromoteRequest { id }).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok::<_, Error>(())
            };
            let _ = tokio::time::timeout(Duration::from_secs(6), asked).await;
        });
        let begin = Instant::now();
        while !self.at(place).said().contains("applied snapshot") && begin.elapsed() < Duration::from_secs(4) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(self.random.below(60))).await;
        self.at(leader).kill();
        self.told.killed_leaders += 1;
        tokio::time::sleep(Duration::from_millis(self.random.below(1500))).await;
        self.at(leader).start();
        asked.await.map_err(|cause| cause.to_string())?;
        self.until("promote the newcomer", promote, votes).await.map(drop)
    }

    /// The newcomer or the leader, for about an election.
    async fn cut_off_somebody(&mut self, place: usize) {
        let one = match self.random.below(2) {
            0 => place,
            _ => self.leader().await.unwrap_or(place),
        };
        for other in self.run.places().into_iter().filter(|other| *other != one) {
            self.network.cut(one, other);
            self.network.cut(other, one);
        }
        tokio::time::sleep(Duration::from_millis(self.random.between(800, 3000))).await;
        self.network.mend();
        self.told.partitions += 1;
    }

    async fn takes_writes(&mut self, place: usize) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            self.session.talk_to(place);
            let put = What::Put { key: format!("r/{place}"), value: self.session.value(), lease: 0 };
            if self.session.ask(put, Duration::from_secs(2)).await.is_some() {
                return Ok(());
            }
            if self.at(place).ends_within(Duration::ZERO) {
                return Err(format!("{} has ended though nothing ails it", self.at(place).name));
            }
            if begin.elapsed() > PATIENCE {
                return Err(format!("{} takes no write", self.at(place).name));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A token that one member gives is good at another, of whatever kind the two are.
    async fn tokens_are_good_everywhere(&self, place: usize) -> Result<(), String> {
        let plain = Access::within_tls(&self.certificates);
        let others = self.run.places().into_iter().filter(|other| *other != place);
        for (one, other) in others.flat_map(|other| [(place, other), (other, place)]) {
            let begin = Instant::now();
            loop {
                let asked = async {
                    let request = AuthenticateRequest { name: USER.into(), password: USER.into() };
                    let token = plain.connect(one).await?.call(&request).await?.token;
                    plain.connect(other).await?.with_metadata("token", &token).get("p/last").await
                };
                match tokio::time::timeout(Duration::from_secs(3), asked).await {
                    Ok(Ok(_)) => break,
                    Ok(Err(cause)) if begin.elapsed() > Duration::from_secs(10) => {
                        let name =
                            |at: usize| &self.members.iter().find(|it| it.number == at).expect("it is there").name;
                        return Err(format!("a token of {} at {}: {cause}", name(one), name(other)));
                    }
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        }
        Ok(())
    }

    async fn keep_house(&mut self) {
        let seen = self.run.watched.iter().map(|seen| seen.load(Relaxed)).min().unwrap_or(0);
        if seen > 10 {
            let place = self.run.places()[0];
            self.session.talk_to(place);
            self.told.compactions += usize::from(self.session.keep_house(Some(seen - 5)).await);
        }
    }

    async fn remove(&mut self, old: usize, places: &[usize]) -> Result<(), String> {
        let ids = async |place: usize| {
            let status = self.run.access.connect(place).await?.status().await?;
            Ok(status.header.map_or(0, |header| header.member_id))
        };
        let stay: Vec<usize> = places.iter().copied().filter(|place| *place != old).collect();
        let id = ids(old).await.map_err(|cause: Error| format!("who leaves does not tell its id: {cause}"))?;
        let leads = self.leader().await == Some(old);
        match leads && self.random.below(2) == 0 {
            true => {
                let to = *self.random.pick(&stay);
                let moved = async {
                    let target_id = ids(to).await?;
                    self.run.access.connect(old).await?.call(&MoveLeaderRequest { target_id }).await
                };
                // It may be refused: then it leaves as leader.
                let _ = tokio::time::timeout(Duration::from_secs(5), moved).await;
            }
            false => self.told.elections_by_removal += usize::from(leads),
        }
        let remove = async |client: &Client| client.call(&MemberRemoveRequest { id }).await.map(drop);
        let is_gone = |members: &[Listed]| members.iter().all(|member| member.id != id);
        // The places that stay are asked; clients stay on the one that leaves until it has left.
        let all = self.run.places();
        let mut asked = stay.clone();
        asked.extend(all.iter().filter(|place| !stay.contains(place)));
        self.run.move_to(&asked);
        self.until("remove the old member", remove, is_gone).await?;
        self.run.move_to(&stay);
        let ended = self.at(old).ends_within(Duration::from_secs(2));
        self.told.ended_by_themselves += usize::from(ended);
        self.at(old).kill();
        let at = self.members.iter().position(|member| member.number == old).expect("it was there");
        let gone = self.members.remove(at);
        match panicked(&gone) {
            Some(line) => Err(format!("{} said: {line}", gone.name)),
            None => Ok(()),
        }
    }

    /// Every member has the same hash at one revision, once compactions have caught up.
    async fn same_hash(&mut self) -> Result<u32, String> {
        let begin = Instant::now();
        let mut hashes = Vec::new();
        'again: while begin.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let revision = match self.client().await {
                Ok(client) => client.get("p/last").await.ok().and_then(|answer| answer.header),
                Err(_) => None,
            };
            let Some(revision) = revision.map(|header| header.revision) else { continue };
            hashes.clear();
            for place in self.run.places() {
                let asked = async { self.run.access.connect(place).await?.hash_kv(revision).await };
                match tokio::time::timeout(Duration::from_secs(3), asked).await {
                    Ok(Ok(hash)) => hashes.push((hash.hash, hash.compact_revision)),
                    // Not there yet, or compacted meanwhile.
                    _ => continue 'again,
                }
            }
            if hashes.iter().any(|(_, compacted)| *compacted != hashes[0].1) {
                continue;
            }
            self.told.hashes += 1;
            return match hashes.iter().all(|hash| *hash == hashes[0]) {
                true => Ok(hashes[0].0),
                false => Err(format!("the members' hashes (HashKV, compacted at) of {revision} differ: {hashes:?}")),
            };
        }
        Err(format!("there is no revision that all members can hash: {hashes:?}"))
    }
}

/// A line of its log that no member may write.
fn panicked(member: &Member) -> Option<String> {
    let is_bad =
        |line: &&str| line.contains(r#""level":"panic""#) || line.starts_with("panic:") || line.contains("panicked at");
    member.said().lines().find(is_bad).map(str::to_owned)
}

/// `3.7.3`.
fn release(etcd: &Path) -> String {
    let output = Command::new(etcd).arg("--version").output().expect("the etcd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    line.unwrap_or_else(|| panic!("{} tells no version: {text}", etcd.display())).to_owned()
}

/// All that clients have recorded, how long they had to wait, and how often the one lease was renewed.
fn records(run: &Arc<Run>, seed: u64) -> Result<(Records, Waits, usize), String> {
    local(async {
        let seed_of = |number: usize, shift: u32| seed ^ ((number as u64 + 1) << shift);
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                let session = Session::new(run.clone(), format!("w{number}"), seed_of(number, 40));
                tokio::task::spawn_local(session.work())
            })
            .collect();
        let keeper = tokio::task::spawn_local(clients::keep_leases(run.clone(), 0, seed_of(0, 48)));
        let holder = tokio::task::spawn_local(clients::hold_lease(run.clone(), seed_of(1, 48)));
        let watches: Vec<_> =
            (0..WATCHES).map(|number| tokio::task::spawn_local(clients::watch(run.clone(), number))).collect();
        let gone = |cause: tokio::task::JoinError| format!("a client: {cause}");
        let mut records = Records { ops: Vec::new(), leases: Vec::<Lease>::new(), watched: Vec::new() };
        let mut waits = Waits::default();
        for worker in workers {
            let ops = worker.await.map_err(gone)?;
            waits.one = waits.one.max(longest_try(&ops));
            records.ops.extend(ops);
        }
        waits.nobody = longest_silence(&records.ops);
        let (ops, leases) = keeper.await.map_err(gone)?;
        records.ops.extend(ops);
        records.leases.extend(leases);
        let (ops, renewed) = holder.await.map_err(gone)??;
        records.ops.extend(ops);
        for watch in watches {
            records.watched.push(watch.await.map_err(gone)??);
        }
        Ok((records, waits, renewed))
    })
}

fn writes(ops: &[Op]) -> impl Iterator<Item = &Op> {
    ops.iter().filter(|op| matches!(op.what, What::Put { .. } | What::Swap { .. } | What::Delete { .. }))
}

/// From a client's first try to write to its first write that was done, at the most.
fn longest_try(ops: &[Op]) -> Micros {
    let (mut since, mut longest) = (None, 0);
    for op in writes(ops) {
        let first = *since.get_or_insert(op.asked);
        if let Some(answer) = &op.answer {
            longest = longest.max(answer.at - first);
            since = None;
        }
    }
    longest
}

/// The longest time in which no write of any client was done.
fn longest_silence(ops: &[Op]) -> Micros {
    let mut done: Vec<Micros> = writes(ops).filter_map(|op| op.answer.as_ref()).map(|answer| answer.at).collect();
    done.sort_unstable();
    done.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}
