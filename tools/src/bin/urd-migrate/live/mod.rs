//! `urd-migrate live`: replaces the members of a cluster that serves, one by one, by members of urd, or those by etcd's again. It
//! looks at the cluster, takes the one step that is next, and looks again; what it knows is in the members and in the plan.

mod access;
mod checks;
mod cluster;
mod interrupt;
mod operator;
mod plan;
mod show;
mod steps;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use urd_client::Error;

use self::{
    access::AccessArguments,
    checks::{Weight, differ, is_known},
    cluster::{Cluster, Compared},
    plan::{Plan, Replacement},
    show::{Rate, Show, bytes, of_snapshot},
    steps::{Facts, Member, Memory, Step, state_of},
};

const PAUSE: Duration = Duration::from_millis(400);
/// Of a member that was taken out; it ends by itself a second after it has heard of that.
const END_SECONDS_MAX: u64 = 30;

#[derive(clap::Args)]
#[command(
    about = "Replaces the members of a running cluster of etcd 3.6 or 3.7 by urd's, one by one, or back",
    long_about = "Replaces the members of a running cluster of etcd 3.6 or 3.7 by members of urd, one by one, while it serves; or \
                  members of urd by etcd's: the steps are the same. Everything is checked before anything is changed. For each \
                  replacement a learner is added and started, has to catch up, is promoted, and has to hold the same data as the \
                  others at one revision before the old member is removed. It may be ended at any moment: the same command \
                  goes on from what it finds in the cluster.\n\n\
                  What runs on the members' machines is started and stopped by --start-command and --stop-command, or by you: \
                  then it is told what to do, and waited for.",
    after_help = "Exit codes: 0 all of it is done, or would be fine (--dry-run); 1 nothing was changed, for the reasons told; 2 \
                  the command line cannot be read; 3 it stopped on the way, the same command goes on; 4 the members do not hold \
                  the same data; 130 ended by Ctrl-C, the same command goes on."
)]
pub struct Arguments {
    #[command(flatten)]
    access: AccessArguments,
    /// A file with a replacement a line: OLD=NEW PEER_URLS [CLIENT_URLS], by spaces; URLs of one kind by commas; # begins a
    /// comment
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// One replacement, as in a plan's line; may be given several times
    #[arg(long, value_name = "OLD=NEW PEER_URLS [CLIENT_URLS]")]
    replace: Vec<String>,
    /// Run by /bin/sh to start a new member. In its environment: ETCD_NAME, ETCD_INITIAL_CLUSTER, ETCD_INITIAL_CLUSTER_STATE,
    /// ETCD_INITIAL_ADVERTISE_PEER_URLS, ETCD_ADVERTISE_CLIENT_URLS if the plan has them, and ETCD_MAX_CLUSTER_VERSION if the
    /// cluster states 3.6. It ends once the member is started,
    /// and does nothing if it runs already
    #[arg(long, value_name = "COMMAND")]
    start_command: Option<String>,
    /// Run by /bin/sh when an old member is no member any more. In its environment: URD_OLD_NAME, URD_OLD_ID, URD_OLD_PEER_URLS,
    /// URD_OLD_CLIENT_URLS, URD_NEW_NAME. It may be run twice, the second time with names only
    #[arg(long, value_name = "COMMAND")]
    stop_command: Option<String>,
    /// Check, and tell every step and command, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// How long a step may wait for the world, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    patience: u64,
    /// Tell what happens as JSON, a line each
    #[arg(long)]
    json: bool,
}

/// Why it ends before its end.
enum Stop {
    /// Nothing has been changed.
    Refused(String),
    OnTheWay(String),
    Differ(String),
}

pub fn run(arguments: &Arguments) -> ExitCode {
    interrupt::tell_when_asked_to_end();
    interrupt::note("Nothing was changed.");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("urd-migrate: {cause}");
            return ExitCode::FAILURE;
        }
    };
    let (code, text) = match runtime.block_on(migrate(arguments)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Stop::Refused(text)) => (1, text),
        Err(Stop::OnTheWay(text)) => (3, text),
        Err(Stop::Differ(text)) => (4, text),
    };
    eprintln!("urd-migrate: {text}");
    ExitCode::from(code)
}

async fn migrate(arguments: &Arguments) -> Result<(), Stop> {
    let plan = Plan::read(arguments.plan.as_deref(), &arguments.replace).map_err(Stop::Refused)?;
    let access = arguments.access.open().map_err(Stop::Refused)?;
    let planned = plan.0.iter().flat_map(|one| one.client_urls.clone()).collect();
    let cluster = Cluster::new(access, planned);
    let show = Show::new(arguments.json, plan.0.len());
    let facts = cluster.look().await.map_err(Stop::Refused)?;
    check(&plan, &facts, &cluster, &show).await?;
    let version = cluster.version(&facts).await;
    show.say("version", None, &version_text("the cluster states", version.as_deref()));
    if arguments.dry_run {
        tell_steps(&plan, &facts, version.as_deref(), arguments, &show);
        return Ok(());
    }
    let memory = Memory::at_start(&plan, &facts);
    let mut run = Run {
        arguments,
        plan: &plan,
        cluster: &cluster,
        show: &show,
        version,
        memory,
        facts,
        left: None,
        goal: None,
        rate: Rate::default(),
        awaited: None,
        took: None,
        since: Instant::now(),
        last: None,
    };
    let ended = run.drive().await;
    show.clear();
    let state = state_of(&plan, &run.facts);
    ended.map_err(|stop| match stop {
        Stop::OnTheWay(why) => Stop::OnTheWay(format!(
            "{why}\nThe cluster: {state}.\nIt serves as long as more than half of the members with a vote are up. The same command \
             goes on from there."
        )),
        Stop::Differ(why) => Stop::Differ(format!("{why}\nThe cluster: {state}. Nobody was removed.")),
        refused => refused,
    })
}

async fn check(plan: &Plan, facts: &Facts, cluster: &Cluster, show: &Show) -> Result<(), Stop> {
    let findings = checks::check(plan, facts, cluster).await;
    for finding in &findings.0 {
        let (event, mark) = match finding.weight {
            Weight::Fine => ("fine", "ok  "),
            Weight::Note => ("note", "note"),
            Weight::Refused => ("refused", "NO  "),
        };
        show.say(event, None, &format!("{mark}  {}", finding.text));
    }
    match findings.refused() {
        0 => Ok(()),
        count => Err(Stop::Refused(format!(
            "{count} of the checks found what has to be mended first; nothing was changed. The cluster: {}",
            state_of(plan, facts)
        ))),
    }
}

fn version_text(what: &str, version: Option<&str>) -> String {
    version.map_or("the cluster's version cannot be told".to_owned(), |version| format!("{what} version {version}"))
}

/// What a run would do, and how it is done by hand.
fn tell_steps(plan: &Plan, facts: &Facts, version: Option<&str>, arguments: &Arguments, show: &Show) {
    let mut after = facts.clone();
    for (at, one) in plan.0.iter().enumerate() {
        let about = || Some((at, one.to_string()));
        let say = |text: &str| show.say("would", about(), text);
        if steps::is_done(one, facts) {
            say("is done");
            continue;
        }
        let urls = one.peer_urls.join(",");
        let (old, new) = (facts.old_of(one), facts.new_of(one));
        if new.is_none() {
            say(&format!("add a learner: etcdctl member add {} --learner --peer-urls={urls}", one.new));
            after.members.push(Member {
                id: 0,
                name: String::new(),
                peer_urls: one.peer_urls.clone(),
                client_urls: one.client_urls.clone(),
                is_learner: true,
                answer: Err(String::new()),
            });
        }
        if new.is_none_or(|new| new.name.is_empty()) {
            let variables = operator::of_start(one, &after, version);
            let by = match &arguments.start_command {
                Some(command) => format!("run `{command}`, with"),
                None => "wait for you to start it, on an empty data directory, with".to_owned(),
            };
            say(&format!("{by}\n{}", operator::shown(&variables).trim_end()));
        }
        if new.is_none_or(|new| new.is_learner) {
            say("wait until it has what the leader has, and promote it: etcdctl member promote ID");
        }
        if let Some(old) = old {
            say("compare the data of all members: etcdctl endpoint hashkv --cluster");
            if facts.leader().is_some_and(|leader| leader.id == old.id) {
                say("hand its leadership to a member that stays: etcdctl move-leader ID");
            }
            say(&format!("remove {}: etcdctl member remove {:x}", old.shown(), old.id));
            match &arguments.stop_command {
                Some(command) => say(&format!("run `{command}`, with URD_OLD_NAME='{}' and others", one.old)),
                None => say(&format!("ask you to see to it that {} is not started again", one.old)),
            }
        }
        after.members.retain(|member| Some(member.id) != old.map(|old| old.id));
        for member in &mut after.members {
            if member.peer_urls == one.peer_urls {
                member.name.clone_from(&one.new);
                member.is_learner = false;
            }
        }
    }
    show.say("dry-run", None, "nothing was changed");
}

struct Run<'a> {
    arguments: &'a Arguments,
    plan: &'a Plan,
    cluster: &'a Cluster,
    show: &'a Show,
    /// The cluster's, at the start.
    version: Option<String>,
    memory: Memory,
    facts: Facts,
    /// The old member that was taken out, as it was.
    left: Option<(usize, Member)>,
    /// The entry a learner has to have.
    goal: Option<u64>,
    rate: Rate,
    /// Since when a member is waited for that was told to start.
    awaited: Option<Instant>,
    /// Bytes of the database that the last learner took, and how long it took.
    took: Option<(u64, Duration)>,
    /// When the present step was first tried.
    since: Instant,
    last: Option<Step>,
}

impl Run<'_> {
    async fn drive(&mut self) -> Result<(), Stop> {
        loop {
            interrupt::note(&format!("The cluster: {}.", state_of(self.plan, &self.facts)));
            let step = steps::next(self.plan, &self.facts, &self.memory).map_err(Stop::OnTheWay)?;
            self.watch_the_clock(&step)?;
            match &step {
                Step::Done => return self.finish().await,
                Step::Add(at) => self.add(*at).await?,
                Step::Start(at) => self.start(*at)?,
                Step::AwaitStart(at) => self.await_start(*at).await,
                Step::CatchUp(at) => self.catch_up(*at).await?,
                Step::Promote(at) => self.promote(*at).await?,
                Step::Compare(at) => self.compare(*at).await?,
                Step::HandOver { at, to } => self.hand_over(*at, *to).await,
                Step::Remove(at) => self.remove(*at).await?,
                Step::Stop(at) => self.stop(*at).await?,
                Step::Settle(at, why) => {
                    self.show.wait(*at, step.phase(), why);
                    sleep(PAUSE).await;
                }
            }
            self.look().await?;
        }
    }

    /// Whoever waits for too long says for what.
    fn watch_the_clock(&mut self, step: &Step) -> Result<(), Stop> {
        let is_same = |last: &Step| match (last, step) {
            (Step::Settle(before, _), Step::Settle(now, _)) => before == now,
            (last, step) => last == step,
        };
        if !self.last.as_ref().is_some_and(is_same) {
            self.since = Instant::now();
            if let Step::Settle(at, why) = step {
                self.say("waits", *at, &format!("waits: {why}"));
            }
        }
        let is_late = self.since.elapsed() > Duration::from_secs(self.arguments.patience);
        self.last = Some(step.clone());
        if !is_late {
            return Ok(());
        }
        let replacement = step.at().map(|at| &self.plan.0[at]);
        let (old, new) = replacement.map_or(("", ""), |one| (one.old.as_str(), one.new.as_str()));
        let what = match step {
            Step::AwaitStart(at) => format!(
                "{new} was not started, or does not get on ({}): look at its log. A member of etcd 3.6 does not join a cluster that \
                 states 3.7 (docs/operations.md, From etcd 3.6). To give it up: etcdctl member remove, and remove its data directory",
                self.of(*at).2.and_then(|new| new.answer.as_ref().err()).map_or("", String::as_str)
            ),
            Step::CatchUp(_) => {
                format!("{new} does not catch up with the leader: look at its log, its disk and its network")
            }
            Step::Promote(_) => format!("{new} cannot be promoted: look at the leader's log"),
            Step::HandOver { .. } => format!("{old} does not hand its leadership over: look at its log"),
            Step::Remove(_) => format!("{old} cannot be removed: look at the leader's log"),
            Step::Settle(_, why) => why.clone(),
            _ => "nothing goes on".to_owned(),
        };
        Err(Stop::OnTheWay(format!("waited {} s in vain: {what}", self.arguments.patience)))
    }

    fn say(&self, event: &str, at: usize, text: &str) {
        self.show.say(event, Some((at, self.plan.0[at].to_string())), text);
    }

    fn of(&self, at: usize) -> (&Replacement, Option<&Member>, Option<&Member>) {
        let one = &self.plan.0[at];
        (one, self.facts.old_of(one), self.facts.new_of(one))
    }

    async fn look(&mut self) -> Result<(), Stop> {
        let begin = Instant::now();
        loop {
            match self.cluster.look().await {
                Ok(facts) => {
                    self.facts = facts;
                    return Ok(());
                }
                // An election, perhaps.
                Err(cause) if begin.elapsed() > Duration::from_secs(self.arguments.patience) => {
                    return Err(Stop::OnTheWay(cause));
                }
                Err(cause) => {
                    let at = self.last.as_ref().and_then(Step::at).unwrap_or(0);
                    self.show.wait(at, 0, cause.lines().next().unwrap_or_default());
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// What a change that was refused, or of which nobody knows what became, means. The next look shows what there is.
    async fn refused(&self, at: usize, phase: u64, error: Error) -> Result<(), Stop> {
        let message = error.message();
        if ["permission denied", "invalid auth token", "authentication failed", "user name is empty"]
            .iter()
            .any(|text| message.contains(text))
        {
            return Err(Stop::OnTheWay(format!("{error}: the user needs the role root (--user)")));
        }
        if message.contains("too many learner members") {
            return Err(Stop::OnTheWay(format!("{error}: another learner has come; promote or remove it first")));
        }
        // Not healthy for long enough, not in sync yet, no leader, done already by somebody else, timed out: it is tried again
        // if it is still to be done.
        let text = match message.contains("unhealthy cluster") {
            true => "the members take no change until all of them have been connected for five seconds".to_owned(),
            false => error.to_string(),
        };
        self.show.wait(at, phase, &text);
        sleep(PAUSE).await;
        Ok(())
    }

    async fn add(&mut self, at: usize) -> Result<(), Stop> {
        let (one, _, _) = self.of(at);
        self.show.wait(at, 0, &format!("{} is added as a learner", one.new));
        match self.cluster.add_learner(&self.facts, &one.peer_urls).await {
            Ok(id) => {
                self.say("added", at, &format!("added {} as a learner, {id:x}: it has no vote yet", one.new));
                Ok(())
            }
            Err(error) => self.refused(at, 0, error).await,
        }
    }

    fn start(&mut self, at: usize) -> Result<(), Stop> {
        let (one, _, new) = self.of(at);
        let Some(new) = new else { return Ok(()) };
        let variables = operator::of_start(one, &self.facts, self.version.as_deref());
        match &self.arguments.start_command {
            Some(command) => {
                self.show.wait(at, 1, &format!("{} is started: {command}", one.new));
                operator::run(command, &variables).map_err(|cause| {
                    let id = new.id;
                    Stop::OnTheWay(format!(
                        "{} was not started: {cause}. Mend that, or take the member out: etcdctl member remove {id:x}",
                        one.new
                    ))
                })?;
                self.say("started", at, &format!("ran the command that starts {}", one.new));
            }
            None => self.say(
                "start",
                at,
                &format!(
                    "START {} NOW, if it does not run: on an empty data directory, with its own listen URLs, and\n{}",
                    one.new,
                    operator::shown(&variables).trim_end()
                ),
            ),
        }
        self.memory.started = Some(new.id);
        self.awaited = Some(Instant::now());
        self.rate = Rate::default();
        self.goal = None;
        Ok(())
    }

    async fn await_start(&mut self, at: usize) {
        let passed = self.awaited.get_or_insert_with(Instant::now).elapsed();
        let (one, _, new) = self.of(at);
        let text = match new.map(|new| &new.answer) {
            // It is there, and is not ready yet.
            Some(Err(cause)) if cause.contains("rpc error") => format!("{}: {cause}", one.new),
            _ => format!("{}: {}", one.new, of_snapshot(self.leaders_bytes(), passed, self.took)),
        };
        self.show.wait(at, 1, &text);
        sleep(PAUSE).await;
    }

    fn leaders_bytes(&self) -> u64 {
        self.facts.leader().and_then(|leader| leader.answer.as_ref().ok()).map_or(0, |answer| answer.db_bytes)
    }

    async fn catch_up(&mut self, at: usize) -> Result<(), Stop> {
        let (one, _, new) = self.of(at);
        let Some((new, Ok(told))) = new.map(|new| (new, &new.answer)) else { return Ok(()) };
        if !is_known(&told.version) {
            return Err(Stop::OnTheWay(format!(
                "{} runs {}, and not 3.6 or 3.7: take it out (etcdctl member remove {:x}), and start another binary",
                one.new, told.version, new.id
            )));
        }
        let leader = self.facts.leader().and_then(|leader| leader.answer.as_ref().ok());
        let committed = leader.map(|leader| leader.committed);
        // What the leader had when it was looked at before is what the learner must have now.
        if self.goal.is_some_and(|goal| goal > 0 && told.applied >= goal) {
            let (id, needed) = (new.id, self.leaders_bytes());
            let took = self.awaited.map(|awaited| awaited.elapsed());
            let time = took.map_or(String::new(), |took| format!(" {:.1} s after its start", took.as_secs_f32()));
            let mut text = format!("{} ({}) has caught up{time}: entry {}", one.new, told.version, told.applied);
            if told.quota_bytes > 0 && needed > told.quota_bytes / 2 {
                let (needed, quota) = (bytes(needed), bytes(told.quota_bytes));
                text += &format!("; NOTE: its quota is {quota}, the leader's database has {needed}");
            }
            self.say("caught-up", at, &text);
            self.took = took.map(|took| (needed, took)).or(self.took);
            self.awaited = None;
            self.memory.caught_up = Some(id);
            return Ok(());
        }
        let applied = told.applied;
        let new = &self.plan.0[at].new;
        let text = format!("{new} catches up: {}", self.rate.estimate(applied, committed.unwrap_or(applied)));
        self.goal = committed;
        self.show.wait(at, 2, &text);
        sleep(PAUSE).await;
        Ok(())
    }

    async fn promote(&mut self, at: usize) -> Result<(), Stop> {
        let (one, _, new) = self.of(at);
        let Some(new) = new else { return Ok(()) };
        self.show.wait(at, 3, &format!("{} is promoted", one.new));
        match self.cluster.promote(&self.facts, new.id).await {
            Ok(()) => {
                self.say("promoted", at, &format!("promoted {}: it votes", one.new));
                Ok(())
            }
            Err(error) => self.refused(at, 3, error).await,
        }
    }

    async fn compare(&mut self, at: usize) -> Result<(), Stop> {
        let (one, old, new) = self.of(at);
        let Some(new) = new else { return Ok(()) };
        self.show.wait(at, 4, "the data of all members are compared");
        // The one that leaves anyway may be down.
        let absent = old.filter(|old| old.answer.is_err()).map(|old| old.id);
        match self.cluster.compare(&self.facts, absent).await {
            Ok(Compared::Same { revision, hash, members }) => {
                let text = format!(
                    "{} holds what the others hold: hash {hash} at revision {revision} on {members} members",
                    one.new
                );
                self.say("same", at, &text);
                self.memory.compared = Some(new.id);
                Ok(())
            }
            Ok(Compared::Differ { revision, hashes }) => {
                Err(Stop::Differ(differ(self.plan, &self.facts, revision, &hashes)))
            }
            Err(cause) => {
                self.show.wait(at, 4, &cause);
                sleep(PAUSE).await;
                Ok(())
            }
        }
    }

    async fn hand_over(&mut self, at: usize, to: u64) {
        let (one, _, _) = self.of(at);
        let name = self.facts.get(to).map_or(String::new(), Member::shown);
        self.show.wait(at, 5, &format!("{} hands its leadership to {name}", one.old));
        match self.cluster.move_leader(&self.facts, to).await {
            Ok(()) => self.say("handed-over", at, &format!("{} handed its leadership to {name}", one.old)),
            Err(error) => {
                self.show.wait(at, 5, &error.to_string());
                sleep(PAUSE).await;
            }
        }
    }

    async fn remove(&mut self, at: usize) -> Result<(), Stop> {
        let (one, old, _) = self.of(at);
        let Some(old) = old.cloned() else { return Ok(()) };
        self.show.wait(at, 5, &format!("{} is removed", one.old));
        match self.cluster.remove(&self.facts, old.id).await {
            Ok(()) => {
                self.say("removed", at, &format!("removed {}: it is no member any more", old.shown()));
                self.left = Some((at, old));
                Ok(())
            }
            Err(error) => {
                // If it was done all the same, this is who has left.
                self.left = Some((at, old));
                self.refused(at, 5, error).await
            }
        }
    }

    async fn stop(&mut self, at: usize) -> Result<(), Stop> {
        let one = &self.plan.0[at];
        let left = self.left.take().filter(|(of, _)| *of == at).map(|(_, member)| member);
        if let Some(command) = &self.arguments.stop_command {
            self.show.wait(at, 6, &format!("{} is stopped: {command}", one.old));
            operator::run(command, &operator::of_stop(one, left.as_ref())).map_err(|cause| {
                Stop::OnTheWay(format!(
                    "{} is no member any more, and was not stopped: {cause}. Stop it yourself",
                    one.old
                ))
            })?;
        }
        let ended = match left.as_ref().map(|left| (left.id, left.answer.as_ref())) {
            Some((id, Ok(answer))) => self.await_end(at, &answer.url, id).await,
            _ => true,
        };
        let again = "see to it that it is not started again; its data directory is of no use any more";
        let text = match (ended, left.is_some(), self.arguments.stop_command.is_some()) {
            (false, ..) => format!("NOTE: {} is no member any more and still answers: stop it", one.old),
            (true, true, _) => format!("{} does not answer any more; {again}", one.old),
            (true, false, true) => format!("ran the command that stops {} once more; {again}", one.old),
            (true, false, false) => format!("{} is no member any more; {again}", one.old),
        };
        self.say("stopped", at, &text);
        self.memory.stopped.insert(at);
        self.check_version(at).await;
        Ok(())
    }

    async fn await_end(&self, at: usize, url: &str, id: u64) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(END_SECONDS_MAX) {
            if !self.cluster.answers(url, id).await {
                return true;
            }
            self.show.wait(at, 6, &format!("{} is waited for to end", self.plan.0[at].old));
            sleep(PAUSE).await;
        }
        false
    }

    async fn check_version(&self, at: usize) {
        let now = self.cluster.version(&self.facts).await;
        if now.is_some() && now != self.version {
            let (before, now) = (self.version.clone().unwrap_or_default(), now.unwrap_or_default());
            self.say(
                "version",
                at,
                &format!("NOTE: the cluster states version {now}, and stated {before} at the start"),
            );
        }
    }

    async fn finish(&self) -> Result<(), Stop> {
        self.show.wait(self.plan.0.len(), 0, "the data of all members are compared");
        match self.cluster.compare(&self.facts, None).await {
            Ok(Compared::Same { revision, hash, members }) => {
                let text = format!("the data are the same on {members} members: hash {hash} at revision {revision}");
                self.show.say("same", None, &text);
            }
            Ok(Compared::Differ { revision, hashes }) => {
                return Err(Stop::Differ(differ(self.plan, &self.facts, revision, &hashes)));
            }
            Err(cause) => return Err(Stop::OnTheWay(cause)),
        }
        let now = self.cluster.version(&self.facts).await;
        let mut text = version_text("the cluster states", now.as_deref());
        if now != self.version
            && let (Some(before), Some(_)) = (&self.version, &now)
        {
            text += &format!(
                " now, and stated {before} at the start: the way back is etcdctl downgrade enable {before}, and urd's members \
                 started again with --max-cluster-version of that release"
            );
        }
        self.show.say("version", None, &text);
        let members: Vec<String> = self
            .facts
            .members
            .iter()
            .map(|member| {
                let urls = member.client_urls.join(",");
                let version = member.answer.as_ref().map_or("", |answer| answer.version.as_str());
                format!("    {} {version} {urls}", member.shown())
            })
            .collect();
        self.show.say("done", None, &format!("all of the plan is done. The members are\n{}", members.join("\n")));
        Ok(())
    }
}
