//! Three members of each server, one cluster after the other, all members on one core and the driver on another: what a put
//! and a get cost all of them together, how long nobody's write is taken when the leader is killed or told to stop, and how long
//! a learner takes to have what the others have, and what writers feel of it.

use std::{
    cell::{Cell, RefCell},
    fs,
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use urd_client::{
    Client, Error,
    etcdserverpb::{MemberAddRequest, MemberPromoteRequest, StatusResponse},
};

use crate::{
    gauge::Gauge,
    local,
    machine::{self, Cores, Machine},
    measure::{Latency, Outcome},
    plan::{Plan, Workload},
    progress::Progress,
    report::{Table, number},
    results::{ETCD, URD},
    server::{Program, Recipe, Seat, Server},
    target::{Dialer, Target},
    wire,
    workload::{self, Site, fill},
};

const MEMBERS: usize = 3;
/// How often the streams of puts beside a change send one.
const EVERY: Duration = Duration::from_millis(5);
/// An election that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Serialize, Deserialize, Args)]
pub struct MembersOptions {
    /// The reference server; without it urd alone is measured.
    #[arg(long)]
    pub etcd: Option<PathBuf>,
    /// The server to be held against it; `--no-urd` leaves it out.
    #[arg(long, default_value = "target/release/urd")]
    pub urd: PathBuf,
    #[arg(long)]
    pub no_urd: bool,
    /// Measured time of a row of calls.
    #[arg(long, default_value_t = 6.0)]
    pub seconds: f64,
    /// How often the leader goes, in either way.
    #[arg(long, default_value_t = 7)]
    pub times: usize,
    /// Keys of 32 bytes that a learner finds, with values of 256.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// The learner's rows alone.
    #[arg(long)]
    pub learner_only: bool,
    /// Where report.md and members.json go.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Where the members' data lie.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub data: PathBuf,
}

/// What was found of one server, in the table's order: what, its figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Found {
    server: String,
    version: String,
    figures: Vec<(String, f64)>,
}

/// # Errors
/// If a cluster does not come up, or does not come back.
pub fn members(options: &MembersOptions) -> Result<(), String> {
    let cores = Cores::choose();
    let machine = Machine::look(&options.data);
    machine::pin(cores.driver).map_err(|cause| format!("the driver cannot be pinned: {cause}"))?;
    println!("{}\n{MEMBERS} members on CPU {}, driver on CPU {}", machine.text(), cores.server, cores.driver);
    let urd = (!options.no_urd).then(|| options.urd.clone());
    let mut all = Vec::new();
    for (name, program) in [(ETCD, options.etcd.clone()), (URD, urd)] {
        let Some(program) = program else { continue };
        let version = Program::look(&program)?.version;
        println!("{name}: {version}");
        // A data set with its history may pass etcd's default of 2 GiB.
        let flags = vec!["--quota-backend-bytes=8589934592".to_owned()];
        let recipe = Recipe { program, flags, core: cores.server, parent: options.data.clone(), tls: false };
        let mut figures = Figures::default();
        let measured = local(measure(recipe, options, &mut figures));
        all.push(Found { server: name.to_owned(), version, figures: figures.0 });
        if let Err(cause) = measured {
            return Err(format!("{name}: {cause}"));
        }
    }
    let table = table(&all);
    println!("\n{}", table.plain());
    if let Some(out) = &options.out {
        let file = |name: &str, text: String| {
            fs::write(out.join(name), text).map_err(|cause| format!("{}: {cause}", out.display()))
        };
        fs::create_dir_all(out).map_err(|cause| format!("{}: {cause}", out.display()))?;
        file(
            "report.md",
            format!("# urd-bench members, {}\n\n{}.\n\n{}", machine::now_text(), machine.text(), table.markdown()),
        )?;
        file("members.json", serde_json::to_string(&(machine, options, &all)).expect("strings and numbers"))?;
    }
    Ok(())
}

/// Told as they come, kept in order.
#[derive(Default)]
struct Figures(Vec<(String, f64)>);

impl Figures {
    fn set(&mut self, name: &str, value: f64) {
        println!("  {name}: {}", number(value));
        self.0.push((name.to_owned(), value));
    }
}

fn table(all: &[Found]) -> Table {
    let names: Vec<&str> = all.iter().map(|found| found.server.as_str()).collect();
    let mut table = Table::new(&[&["what"], &names[..]].concat());
    for (at, (name, _)) in all.first().map_or(&[][..], |found| &found.figures).iter().enumerate() {
        let cell = |found: &Found| found.figures.get(at).map_or("–".to_owned(), |(_, value)| number(*value));
        table.row_of([name.clone()].into_iter().chain(all.iter().map(cell)).collect());
    }
    table
}

async fn measure(recipe: Recipe, options: &MembersOptions, figures: &mut Figures) -> Result<(), String> {
    if !options.learner_only {
        let mut cluster = Cluster::start(&recipe).await?;
        cluster.calls(options, figures).await?;
        cluster.leader_goes(options.times, figures).await?;
    }
    let mut cluster = Cluster::start(&recipe).await?;
    cluster.learner_comes(recipe, options, figures).await
}

struct Cluster {
    members: Vec<Server>,
}

impl Cluster {
    async fn start(recipe: &Recipe) -> Result<Self, String> {
        let mut members = Vec::new();
        for _ in 0..MEMBERS {
            members.push(Server::prepare(recipe.clone(), None)?);
        }
        let mut cluster = Cluster { members };
        let text = cluster.initial();
        let mut begins = Vec::new();
        for (number, member) in cluster.members.iter_mut().enumerate() {
            member.sit(Seat { name: format!("m{number}"), cluster: text.clone(), joins: false });
            begins.push(member.spawn()?);
        }
        for (member, begin) in cluster.members.iter_mut().zip(begins) {
            member.ready(begin).await?;
        }
        // What a cluster does right after its founding, such as agreeing on its version.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(cluster)
    }

    /// As in --initial-cluster.
    fn initial(&self) -> String {
        let one = |(number, member): (usize, &Server)| format!("m{number}={}", member.peer_url());
        self.members.iter().enumerate().map(one).collect::<Vec<_>>().join(",")
    }

    async fn status(&self, member: usize) -> Result<StatusResponse, Error> {
        Client::connect(&self.members[member].address()).await?.status().await
    }

    /// The one that leads; waits for it.
    async fn leader(&self) -> Result<usize, String> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            for member in 0..MEMBERS {
                let told = tokio::time::timeout(Duration::from_secs(1), self.status(member)).await;
                if let Ok(Ok(status)) = told
                    && status.header.is_some_and(|header| header.member_id == status.leader)
                {
                    return Ok(member);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("nobody leads".to_owned())
    }

    /// Calls to some members, by CPU of all.
    fn site(&self, members: &[usize], name: &str) -> Result<Site, String> {
        let endpoints = members.iter().map(|member| self.members[*member].address()).collect();
        let gauges: Vec<Gauge> = self.members.iter().map(Server::gauge).collect();
        let gauge = Gauge { beside: gauges[1..].to_vec(), ..gauges[0].clone() };
        let dialer = Dialer::new(Target { endpoints, ..Target::default() })?;
        let progress = Progress::new(name);
        Ok(Site { dialer, gauge: Some(gauge), server: None, go_client: None, progress })
    }

    async fn run(&self, members: &[usize], plan: &Plan) -> Result<(Outcome, Vec<f64>), String> {
        let mut site = self.site(members, &plan.workload.name())?;
        let cpu = || self.members.iter().map(|member| member.gauge().cpu().as_secs_f64()).collect::<Vec<_>>();
        let before = cpu();
        let outcome = workload::run(&mut site, plan).await?;
        let own: Vec<f64> = cpu().iter().zip(&before).map(|(after, before)| after - before).collect();
        let all: f64 = own.iter().sum();
        Ok((outcome, own.iter().map(|own| own / all).collect()))
    }

    async fn calls(&self, options: &MembersOptions, figures: &mut Figures) -> Result<(), String> {
        let leader = self.leader().await?;
        let all: Vec<usize> = (0..MEMBERS).collect();
        let followers: Vec<usize> = (0..MEMBERS).filter(|member| *member != leader).collect();
        let plan = |workload| Plan { workload, seconds: options.seconds, ..Plan::default() };
        let one = |workload| Plan { callers: 1, connections: 1, ..plan(workload) };

        let (outcome, shares) = self.run(&all, &plan(Workload::Put)).await?;
        let cpu = outcome.cpu_us_per_op().unwrap_or_default();
        figures.set("put, 100 clients of all members: CPU µs of all", cpu);
        figures.set("its part of the leader", cpu * shares[leader]);
        figures.set("its part of each follower", cpu * (1.0 - shares[leader]) / followers.len() as f64);
        figures.set("puts/s", outcome.rate());
        figures.set("p99 ms", outcome.figure("p99_ms").unwrap_or_default());
        let (outcome, _) = self.run(&[leader], &plan(Workload::Put)).await?;
        figures.set("put, 100 clients of the leader: CPU µs of all", outcome.cpu_us_per_op().unwrap_or_default());
        figures.set("puts/s of the leader's clients", outcome.rate());
        for (who, member) in [("the leader", leader), ("a follower", followers[0])] {
            let (outcome, _) = self.run(&[member], &one(Workload::Put)).await?;
            figures.set(&format!("put, one client of {who}: p50 ms"), outcome.figure("p50_ms").unwrap_or_default());
            figures.set(&format!("put, one client of {who}: p99 ms"), outcome.figure("p99_ms").unwrap_or_default());
        }
        let (outcome, _) = self.run(&all, &plan(Workload::Get)).await?;
        figures.set(
            "linearizable get, 100 clients of all members: CPU µs of all",
            outcome.cpu_us_per_op().unwrap_or_default(),
        );
        figures.set("gets/s", outcome.rate());
        figures.set("get: p99 ms", outcome.figure("p99_ms").unwrap_or_default());
        Ok(())
    }

    /// The leader is killed, then told to stop, so many times each, beside puts to the others.
    async fn leader_goes(&mut self, times: usize, figures: &mut Figures) -> Result<(), String> {
        for (how, is_killed) in [("killed", true), ("told to stop", false)] {
            let mut gaps = Vec::new();
            for _ in 0..times {
                gaps.push(self.leader_goes_once(is_killed).await?);
            }
            gaps.sort_by(f64::total_cmp);
            figures.set(&format!("leader {how}: ms without an accepted write, median"), gaps[gaps.len() / 2]);
            figures.set(&format!("leader {how}: the longest"), gaps[gaps.len() - 1]);
        }
        Ok(())
    }

    /// The longest time between two writes that were accepted, from the signal on.
    async fn leader_goes_once(&mut self, is_killed: bool) -> Result<f64, String> {
        let leader = self.leader().await?;
        let others = (0..MEMBERS).filter(|member| *member != leader);
        let addresses = others.map(|member| self.members[member].address()).collect();
        let stream = Stream::start(addresses, EVERY);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let signalled = Instant::now();
        match is_killed {
            true => self.members[leader].kill(),
            false => self.members[leader].terminate(),
        }
        // Until writes are taken again, and a while longer: who leads now may be told so again.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(3) || !stream.goes_well() {
            if begin.elapsed() > PATIENCE {
                return Err("no write is taken without the leader".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let accepted = stream.finish().await;
        self.members[leader].kill();
        self.members[leader].launch().await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut at = signalled;
        let mut longest = Duration::ZERO;
        let mut times: Vec<Instant> =
            accepted.iter().map(|put| put.answered).filter(|time| *time > signalled).collect();
        times.sort_unstable();
        for time in times {
            longest = longest.max(time - at);
            at = time;
        }
        Ok(longest.as_secs_f64() * 1e3)
    }

    async fn learner_comes(
        &mut self,
        recipe: Recipe,
        options: &MembersOptions,
        figures: &mut Figures,
    ) -> Result<(), String> {
        let text = |cause: Error| cause.to_string();
        let all: Vec<usize> = (0..MEMBERS).collect();
        let site = self.site(&all, "load")?;
        fill(&site, options.keys, 256).await?;
        // What is written behind the load.
        site.progress.wait(Duration::from_secs(10)).await;
        let addresses: Vec<String> = self.members.iter().map(Server::address).collect();
        let quiet = {
            let stream = Stream::start(addresses.clone(), EVERY);
            tokio::time::sleep(Duration::from_secs(10)).await;
            latency(&stream.finish().await)
        };
        let leader = self.leader().await?;
        let client = Client::connect(&self.members[leader].address()).await.map_err(text)?;
        let mut learner = Server::prepare(recipe, None)?;
        let request = MemberAddRequest { peer_ur_ls: vec![learner.peer_url()], is_learner: true };
        let added = client.call(&request).await.map_err(text)?;
        let id = added.member.map_or(0, |member| member.id);
        learner.sit(Seat {
            name: "learner".to_owned(),
            cluster: format!("{},learner={}", self.initial(), learner.peer_url()),
            joins: true,
        });
        let stream = Stream::start(addresses, EVERY);
        let cpu = |members: &[Server]| members.iter().map(|one| one.gauge().cpu().as_secs_f64()).collect::<Vec<_>>();
        let before = cpu(&self.members);
        let begin = learner.spawn()?;
        // Caught up: it has applied what the leader had committed when it was asked, and so little comes behind that
        // the leader would promote it.
        loop {
            if begin.elapsed() > 10 * PATIENCE {
                return Err("the learner does not catch up".to_owned());
            }
            if let Some(how) = learner.ended() {
                return Err(format!("the learner: {how}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let due = client.status().await.map_err(text)?.raft_applied_index;
            let own = async { Client::connect(&learner.address()).await?.status().await };
            if let Ok(Ok(own)) = tokio::time::timeout(Duration::from_secs(1), own).await
                && own.raft_applied_index >= due
            {
                break;
            }
        }
        let took = begin.elapsed();
        let used: Vec<f64> = cpu(&self.members).iter().zip(&before).map(|(after, before)| after - before).collect();
        let learners = learner.gauge().cpu().as_secs_f64();
        let busy = latency(&stream.finish().await);
        client.call(&MemberPromoteRequest { id }).await.map_err(|cause| format!("it cannot be promoted: {cause}"))?;
        let ms = |latency: &Latency| latency.at_ms(0.99).unwrap_or_default();
        figures.set(&format!("a learner of {} keys: seconds until it has all", options.keys), took.as_secs_f64());
        figures.set("its CPU seconds", learners);
        figures.set("CPU seconds of the leader meanwhile", used[leader]);
        let followers = used.iter().sum::<f64>() - used[leader];
        figures.set("CPU seconds of each follower meanwhile", followers / (MEMBERS - 1) as f64);
        figures.set("200 puts/s meanwhile: p99 ms", ms(&busy));
        figures.set("200 puts/s in quiet: p99 ms", ms(&quiet));
        figures.set("meanwhile, of quiet", ms(&busy) / ms(&quiet));
        Ok(())
    }
}

fn latency(puts: &[Put]) -> Latency {
    let mut latency = Latency::default();
    puts.iter().for_each(|put| latency.record(put.answered - put.due));
    latency
}

/// A put that was accepted.
#[derive(Clone, Copy)]
struct Put {
    due: Instant,
    answered: Instant,
}

/// Puts at their times, to some members in turn, each for itself: one that waits holds no other up.
struct Stream {
    accepted: Rc<RefCell<Vec<Put>>>,
    is_over: Rc<Cell<bool>>,
    /// Of the last one that was sent.
    last: Rc<Cell<Option<Instant>>>,
    waiting: Rc<Cell<usize>>,
}

impl Stream {
    fn start(addresses: Vec<String>, every: Duration) -> Self {
        let stream =
            Stream { accepted: Rc::default(), is_over: Rc::default(), last: Rc::default(), waiting: Rc::default() };
        for (number, address) in addresses.iter().enumerate() {
            let (accepted, is_over) = (stream.accepted.clone(), stream.is_over.clone());
            let (last, waiting) = (stream.last.clone(), stream.waiting.clone());
            let (address, own) = (address.clone(), every * addresses.len() as u32);
            let first = Instant::now() + every * number as u32;
            tokio::task::spawn_local(async move {
                let Ok(client) = Client::connect(&address).await else { return };
                let mut due = first;
                let mut sent = 0u64;
                while !is_over.get() {
                    tokio::time::sleep_until(due.into()).await;
                    let (client, accepted, waiting, at) = (client.clone(), accepted.clone(), waiting.clone(), due);
                    let put = wire::put(&wire::key(sent % 1000), &[b's'; 256], 0);
                    last.set(Some(due));
                    waiting.set(waiting.get() + 1);
                    tokio::task::spawn_local(async move {
                        if client.unary_bytes(wire::PUT, put).await.is_ok() {
                            accepted.borrow_mut().push(Put { due: at, answered: Instant::now() });
                        }
                        waiting.set(waiting.get() - 1);
                    });
                    sent += 1;
                    due += own;
                }
            });
        }
        stream
    }

    /// Whether one of the last was accepted.
    fn goes_well(&self) -> bool {
        let newest = self.accepted.borrow().iter().map(|put| put.due).max();
        newest.zip(self.last.get()).is_some_and(|(newest, last)| newest + Duration::from_millis(200) > last)
    }

    /// What was accepted, once what still waits has its answer.
    async fn finish(self) -> Vec<Put> {
        self.is_over.set(true);
        let begin = Instant::now();
        while self.waiting.get() > 0 && begin.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::mem::take(&mut *self.accepted.borrow_mut())
    }
}
