//! What goes wrong: drawn from a seed, one thing after another and at times two at once, each mended after a while. After
//! each the cluster has to recover: every member takes a write again.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use urd::random::Random;
use urd_client::etcdserverpb::MoveLeaderRequest;

use crate::{
    checker::{Op, What},
    clients::{Run, Session},
    cluster::{Cluster, MEMBERS},
    server::PATIENCE,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    KillAll,
    /// SIGTERM.
    Stop,
    /// SIGSTOP for longer than an election.
    Pause,
    /// One member and the others do not hear each other.
    Isolate,
    /// One hears nobody.
    Deaf,
    /// Nobody hears one.
    Mute,
    /// One does not hear one other.
    OneWay,
    /// Two do not hear each other; the third hears both.
    Bridge,
    SlowLink,
    MoveLeader,
    DiskFull,
    /// Writes and syncs fail from some moment on.
    DiskFails,
    PowerCut,
    PowerCutAll,
}

const ALL: [Fault; 15] = {
    use Fault::*;
    [
        Kill,
        KillAll,
        Stop,
        Pause,
        Isolate,
        Deaf,
        Mute,
        OneWay,
        Bridge,
        SlowLink,
        MoveLeader,
        DiskFull,
        DiskFails,
        PowerCut,
        PowerCutAll,
    ]
};

/// Rounds with a full disk: each writes a lot, which nothing takes back.
const FULL_DISKS_MAX: usize = 3;
const FILL_BYTES: usize = 512 << 10;
const FILLS_MAX: usize = 240;

#[derive(Default)]
pub struct Told {
    pub counts: BTreeMap<Fault, usize>,
    /// Members that ended by themselves because of their disk.
    pub ended: usize,
    /// Of those whose disk failed, who did not.
    pub went_on: usize,
    /// From the mending of each round to the first write on every member.
    pub recoveries: Vec<Duration>,
    pub compactions: usize,
    pub defragmentations: usize,
    pub ops: Vec<Op>,
}

pub struct Faults<'a> {
    run: &'a Arc<Run>,
    cluster: &'a mut Cluster,
    random: Random,
    session: Session,
    told: Told,
    full: Option<usize>,
    /// Those whose file systems are shut down.
    dark: Vec<usize>,
}

impl<'a> Faults<'a> {
    pub fn new(run: &'a Arc<Run>, cluster: &'a mut Cluster, seed: u64) -> Self {
        let session = Session::new(run.clone(), "f".to_owned(), seed);
        let told = Told::default();
        Faults { run, cluster, random: Random(seed ^ 0xfa), session, told, full: None, dark: Vec::new() }
    }

    /// Until it has lasted so long. The first rounds go through all there are.
    pub async fn happen(mut self, lasting: Duration) -> Result<Told, String> {
        let begin = Instant::now();
        self.recover().await?;
        self.told.recoveries.clear();
        let mut due = shuffled(&mut self.random);
        while begin.elapsed() < lasting && !self.run.is_over.load(Relaxed) {
            if due.is_empty() {
                due = shuffled(&mut self.random);
            }
            let first = due.pop().expect("it was filled");
            self.inject(first).await;
            self.keep_house().await;
            self.hold(first).await;
            if self.random.below(4) == 0 {
                let second = *self.random.pick(&chosen());
                self.inject(second).await;
                self.hold(second).await;
            }
            self.mend();
            self.recover().await?;
            let calm = self.random.between(200, 1200);
            tokio::time::sleep(Duration::from_millis(calm)).await;
        }
        self.told.ops = std::mem::take(&mut self.session.ops);
        Ok(self.told)
    }

    /// In a third of the rounds, in the middle of trouble, what all watches have seen is compacted, and a member is told to give
    /// the space back.
    async fn keep_house(&mut self) {
        let seen = self.run.watched.iter().map(|seen| seen.load(Relaxed)).min().unwrap_or(0);
        if self.random.below(3) > 0 || seen < 10 {
            return;
        }
        self.session.talk_to(self.random.below(MEMBERS as u64) as usize);
        let revision = seen - self.random.below(10) as i64;
        self.told.compactions += usize::from(self.session.keep_house(Some(revision)).await);
        self.told.defragmentations += usize::from(self.session.keep_house(None).await);
    }

    /// Every other time it is the leader that is hit.
    async fn victim(&mut self) -> usize {
        let any = self.random.below(MEMBERS as u64) as usize;
        match self.random.below(2) {
            0 => self.cluster.leader(&self.run.access).await.unwrap_or(any),
            _ => any,
        }
    }

    async fn hold(&mut self, fault: Fault) {
        let milliseconds = match fault {
            Fault::MoveLeader => 200,
            Fault::Kill | Fault::KillAll | Fault::Stop | Fault::PowerCut | Fault::PowerCutAll => {
                self.random.between(0, 2500)
            }
            _ => self.random.between(1500, 5000),
        };
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    async fn inject(&mut self, fault: Fault) {
        let one = self.victim().await;
        let (other, third) = match self.random.below(2) {
            0 => ((one + 1) % MEMBERS, (one + 2) % MEMBERS),
            _ => ((one + 2) % MEMBERS, (one + 1) % MEMBERS),
        };
        let network = &mut self.cluster.network;
        match fault {
            Fault::Isolate | Fault::Deaf | Fault::Mute => {
                for from in [other, third] {
                    if fault != Fault::Mute {
                        network.cut(from, one);
                    }
                    if fault != Fault::Deaf {
                        network.cut(one, from);
                    }
                }
            }
            Fault::OneWay => network.cut(one, other),
            Fault::Bridge => {
                network.cut(one, other);
                network.cut(other, one);
            }
            Fault::SlowLink => {
                let late = self.random.between(20, 600);
                network.slow(one, Duration::from_millis(late));
            }
            Fault::KillAll => self.cluster.members.iter_mut().for_each(|member| member.kill()),
            Fault::PowerCutAll => {
                let all: Vec<usize> = (0..MEMBERS).filter(|member| self.cluster.members[*member].runs()).collect();
                all.into_iter().for_each(|member| self.cut_power(member));
            }
            // What is left is of one that runs.
            _ if !self.cluster.members[one].runs() => return,
            Fault::Kill => self.cluster.members[one].kill(),
            Fault::Stop => {
                if !self.cluster.members[one].stop() {
                    panic!("member {} does not stop when it is told to", one + 1);
                }
            }
            Fault::Pause => self.cluster.members[one].pause(),
            Fault::MoveLeader => self.move_leader(other).await,
            Fault::PowerCut => self.cut_power(one),
            Fault::DiskFails => {
                self.cluster.members[one].disk().lose_power();
                self.dark.push(one);
                // What they acknowledge meanwhile is acknowledged by the others.
                match self.cluster.members[one].ends_within(Duration::from_secs(15)) {
                    true => self.told.ended += 1,
                    false => self.told.went_on += 1,
                }
                self.cluster.members[one].kill();
            }
            Fault::DiskFull => {
                let so_far = self.told.counts.get(&Fault::DiskFull).copied().unwrap_or(0);
                if so_far >= FULL_DISKS_MAX || self.full.is_some() {
                    return;
                }
                self.fill_up(one).await;
            }
        }
        *self.told.counts.entry(fault).or_default() += 1;
        println!("{:6.1} s: {fault:?}, member {}", self.run.now() as f64 / 1e6, one + 1);
    }

    /// Whatever it had not synced is gone.
    fn cut_power(&mut self, member: usize) {
        self.cluster.members[member].disk().lose_power();
        self.cluster.members[member].kill();
        self.dark.push(member);
    }

    async fn fill_up(&mut self, member: usize) {
        self.cluster.members[member].disk().fill_up();
        self.full = Some(member);
        for _ in 0..FILLS_MAX {
            let id = self.session.value();
            let value = format!("{id}{}", "y".repeat(FILL_BYTES));
            let put = What::Put { key: "x/fill".into(), value, lease: 0 };
            self.session.ask(put, Duration::from_secs(4)).await;
            if self.cluster.members[member].ends_within(Duration::ZERO) {
                self.told.ended += 1;
                return;
            }
        }
        self.told.went_on += 1;
    }

    async fn move_leader(&mut self, to: usize) {
        // It may be refused, or have no answer: then it is one more request in trouble.
        let Some(leader) = self.cluster.leader(&self.run.access).await else { return };
        let asked = async {
            let target_id = self.run.access.connect(to).await?.status().await?.header.map_or(0, |head| head.member_id);
            self.run.access.connect(leader).await?.call(&MoveLeaderRequest { target_id }).await
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), asked).await;
    }

    fn mend(&mut self) {
        for member in std::mem::take(&mut self.dark) {
            self.cluster.members[member].disk().power_on();
        }
        if let Some(member) = self.full.take() {
            self.cluster.members[member].disk().make_room();
        }
        for member in &mut self.cluster.members {
            // One may have ended behind everybody's back.
            member.ends_within(Duration::ZERO);
        }
        self.cluster.mend();
    }

    /// Every member takes a write.
    async fn recover(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        for member in 0..MEMBERS {
            loop {
                if self.cluster.members[member].ends_within(Duration::ZERO) {
                    let words = self.cluster.members[member].last_words(15);
                    return Err(format!("member {} has ended though nothing ails it:\n{words}", member + 1));
                }
                self.session.talk_to(member);
                let put = What::Put { key: format!("r/{member}"), value: self.session.value(), lease: 0 };
                if self.session.ask(put, Duration::from_secs(2)).await.is_some() {
                    break;
                }
                if begin.elapsed() > PATIENCE {
                    return Err(format!("member {} takes no write {PATIENCE:?} after all is mended", member + 1));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let took = begin.elapsed();
        println!("{:6.1} s: all take writes, after {took:.1?}", self.run.now() as f64 / 1e6);
        self.told.recoveries.push(took);
        Ok(())
    }
}

/// Those that `URD_TROUBLE_FAULTS` names, separated by commas; all, where there is none.
fn chosen() -> Vec<Fault> {
    match std::env::var("URD_TROUBLE_FAULTS") {
        Err(_) => ALL.to_vec(),
        Ok(names) => {
            let named = |name: &str| ALL.into_iter().find(|fault| format!("{fault:?}") == name);
            let all = names.split(',').map(|name| named(name).unwrap_or_else(|| panic!("{name:?} is no fault")));
            all.collect()
        }
    }
}

fn shuffled(random: &mut Random) -> Vec<Fault> {
    let mut all = chosen();
    for at in (1..all.len()).rev() {
        all.swap(at, random.below(at as u64 + 1) as usize);
    }
    all
}
