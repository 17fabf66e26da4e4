//! Makes a data directory of urd from an etcd snapshot, or from the data directory of an etcd that has stopped: every
//! revision, lease, alarm, member, user and role. The directory is there whole or not at all; the source is not changed.
//! `urd-migrate live` replaces the members of a cluster that goes on serving.

mod etcd_wal;
mod live;
mod source;
mod target;

use std::{
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use urd::{
    config::{Config, Parsed},
    proto::raftpb,
    raft::identity,
    store::{
        apply::{AppliedBatch, ApplyEntry},
        backend::import::{self, Imported},
        checkpoint::HardState,
        hash,
        membership::Member,
        state::State,
        types::{KeyMeta, Revision},
    },
};

use self::{
    etcd_wal::{Entry, Kind, Tail},
    source::{Place, Source},
    target::Target,
};

type Failure = Box<dyn Error>;

#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    about = "Makes a urd data directory from an etcd snapshot or an etcd data directory; `live` replaces running members",
    long_about = "Makes a urd data directory from an etcd snapshot (etcdctl snapshot save) or from the data directory of \
                  an etcd that has stopped. A snapshot founds a new cluster, as with etcdutl snapshot restore, and so \
                  does a data directory if any flag names one; otherwise the member goes on as who it was. \
                  `urd-migrate live` replaces the members of a cluster that goes on serving."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    arguments: Option<Arguments>,
}

#[derive(Subcommand)]
enum Command {
    Live(Box<live::Arguments>),
}

#[derive(Args)]
struct Arguments {
    /// The snapshot file, or the data directory (the one that holds member/)
    source: PathBuf,
    /// Where to make the data directory; it must not be there, or be empty [default: NAME.urd]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The member's name in the new cluster [default: default]
    #[arg(long)]
    name: Option<String>,
    /// The new cluster's members, name=URL [default: NAME=URL of this member]
    #[arg(long)]
    initial_cluster: Option<String>,
    /// The new cluster's token [default: etcd-cluster]
    #[arg(long)]
    initial_cluster_token: Option<String>,
    /// This member's peer URLs [default: http://localhost:2380]
    #[arg(long)]
    initial_advertise_peer_urls: Option<String>,
    /// Where the source directory's write-ahead log lies, if it was given --wal-dir
    #[arg(long)]
    source_wal_dir: Option<PathBuf>,
    /// Take a snapshot without its digest, such as a copy of a data directory's db
    #[arg(long)]
    skip_hash_check: bool,
    /// How much to increase the latest revision
    #[arg(long, default_value_t = 0)]
    bump_revision: u64,
    /// Mark the latest revision as compacted (required with --bump-revision, disallowed otherwise)
    #[arg(long)]
    mark_compacted: bool,
}

impl Arguments {
    fn names_a_cluster(&self) -> bool {
        [&self.name, &self.initial_cluster, &self.initial_cluster_token, &self.initial_advertise_peer_urls]
            .into_iter()
            .any(Option::is_some)
    }

    /// The cluster that is named, as a server with these flags would found it.
    fn config(&self) -> Result<Config, Failure> {
        let flags = [
            ("name", &self.name),
            ("initial-cluster", &self.initial_cluster),
            ("initial-cluster-token", &self.initial_cluster_token),
            ("initial-advertise-peer-urls", &self.initial_advertise_peer_urls),
        ];
        let words = flags.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?)));
        match Config::from_args(words.map(OsString::from), std::iter::empty())? {
            Parsed::Run(config) => Ok(*config),
            Parsed::Version | Parsed::Help => unreachable!("neither is among the words"),
        }
    }
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let arguments = match (line.command, line.arguments) {
        (Some(Command::Live(arguments)), _) => return live::run(&arguments),
        (None, Some(arguments)) => arguments,
        (None, None) => {
            CommandLine::command().error(ErrorKind::MissingRequiredArgument, "SOURCE, or live, is missing").exit()
        }
    };
    match migrate(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("urd-migrate: {cause}");
            ExitCode::FAILURE
        }
    }
}

fn migrate(arguments: &Arguments) -> Result<(), Failure> {
    if (arguments.bump_revision > 0) != arguments.mark_compacted {
        return Err("--mark-compacted required if --bump-revision > 0, and disallowed otherwise".into());
    }
    let config = arguments.config()?;
    let data_dir = arguments.data_dir.clone().unwrap_or_else(|| format!("{}.urd", config.name).into());
    let source = Source::open(&arguments.source, arguments.source_wal_dir.as_deref(), arguments.skip_hash_check)?;
    let survey = import::survey(&source.database)?;
    let tail = match &source.place {
        Place::Snapshot => None,
        Place::Directory { wal } => Some(etcd_wal::read(wal, survey.consistent_index)?),
    };
    let keeps_identity = tail.is_some() && !arguments.names_a_cluster();
    let (cluster_id, member_id) = match &tail {
        Some(tail) if keeps_identity => (tail.cluster_id, tail.node_id),
        _ => {
            config.verify_bootstrap()?;
            identities(&config)
        }
    };

    let longest_entry = tail.iter().flat_map(|tail| &tail.entries).map(|entry| entry.data.len()).max().unwrap_or(0);
    let mut target = Target::begin(&data_dir, cluster_id, member_id, survey.longest_value.max(longest_entry))?;
    let imported = import::import(&source.database, config.lease_ttl_min(), &mut target)?;
    target.write()?;
    check(&imported, &target)?;
    let Imported { mut state, consistent_index, .. } = imported;
    let mut hard_state = HardState::default();
    if let Some(tail) = &tail {
        hard_state = apply_tail(&mut state, consistent_index, tail, &mut target)?;
    }
    if keeps_identity {
        check_alone(&state, member_id)?;
    } else {
        state.found(vec![Member {
            id: member_id,
            name: config.name.clone(),
            peer_urls: sorted(&config.initial_advertise_peer_urls),
            ..Member::default()
        }]);
        hard_state = HardState { term: 1, vote: member_id, commit: 1 };
    }
    if arguments.bump_revision > 0 {
        bump(&mut state, arguments.bump_revision)?;
    }
    target.finish(&state, hard_state)?;
    report(&state, &data_dir, tail.as_ref(), cluster_id, member_id);
    Ok(())
}

fn identities(config: &Config) -> (u64, u64) {
    let token = &config.initial_cluster_token;
    let members: Vec<u64> = config.initial_cluster.iter().map(|(_, urls)| identity::member_id(urls, token)).collect();
    (identity::cluster_id(&members), identity::member_id(&config.initial_advertise_peer_urls, token))
}

fn sorted(urls: &[String]) -> Vec<String> {
    let mut urls = urls.to_vec();
    urls.sort();
    urls
}

/// That what was written is what was read.
fn check(imported: &Imported, target: &Target) -> Result<(), Failure> {
    let written = hash::hash_changes(&imported.state.index, target.values())?;
    if written != imported.changes_hash {
        return Err(format!(
            "what was written hashes to {written}, what was read to {}: nothing was made. The disk may be failing",
            imported.changes_hash
        )
        .into());
    }
    Ok(())
}

/// Does what the log has beyond the database. Gives raft's state of then.
fn apply_tail(state: &mut State, applied: u64, tail: &Tail, target: &mut Target) -> Result<HardState, Failure> {
    // A voter alone has agreed with itself to whatever it has logged, and will say so at its next start. Of several, who
    // has logged what is known of the commit alone.
    let alone = state.conf_state().voters.len() == 1;
    let committed = if alone { u64::MAX } else { tail.hard_state.commit };
    if !alone && committed < applied {
        return Err(
            format!("the log's commit is {committed}, the database's {applied}: they do not belong together").into()
        );
    }
    let mut term = tail.hard_state.term.max(state.applied().1);
    for entry in tail.entries.iter().filter(|entry| entry.index <= committed) {
        apply(state, entry, target).map_err(|cause| {
            format!(
                "entry {} of the log, which the database does not hold yet, cannot be applied: {cause}. Start etcd \
                 once more and make a snapshot (etcdctl snapshot save), and migrate that",
                entry.index
            )
        })?;
        term = term.max(entry.term);
    }
    target.write()?;
    Ok(HardState { term, vote: tail.hard_state.vote, commit: state.applied().0 })
}

fn apply(state: &mut State, entry: &Entry, target: &mut Target) -> Result<(), Failure> {
    let &Entry { index, term, .. } = entry;
    match entry.kind {
        Kind::Normal if entry.data.is_empty() => state.apply_empty(index, term),
        Kind::Normal => {
            let base = target.keep_entry(&entry.data)?;
            let request = ApplyEntry { index, term, base, data: entry.data.clone(), quota_room: None };
            let applied = state.apply(&request, target.values(), &mut AppliedBatch::default())?;
            // What the request's caller is refused is none of it: that is what applying it does.
            if let Err(status) = applied.result
                && [urd::error::Code::Unimplemented, urd::error::Code::Internal].contains(&status.code)
            {
                return Err(status.message.into());
            }
        }
        Kind::ConfChange => {
            let change = etcd_wal::conf_change(&entry.data)?;
            if state.apply_conf_change(index, term, &change).is_ok() {
                state.set_conf_state(changed(state.conf_state(), &change));
            }
        }
    }
    Ok(())
}

/// The configuration after a change. (etcd: raft/confchange, simple changes.)
fn changed(before: &raftpb::ConfState, change: &raftpb::ConfChange) -> raftpb::ConfState {
    use raftpb::ConfChangeType::*;
    let (mut after, id) = (before.clone(), change.node_id());
    let lists = match change.r#type() {
        ConfChangeUpdateNode => return after,
        ConfChangeAddNode => (Some(&mut after.voters), Some(&mut after.learners)),
        ConfChangeAddLearnerNode => (Some(&mut after.learners), Some(&mut after.voters)),
        ConfChangeRemoveNode => {
            after.voters.retain(|one| *one != id);
            (None, Some(&mut after.learners))
        }
    };
    let (joined, left) = lists;
    left.into_iter().for_each(|list| list.retain(|one| *one != id));
    if let Some(list) = joined.filter(|list| !list.contains(&id)) {
        list.push(id);
        list.sort_unstable();
    }
    after
}

/// That a member which goes on as who it was has nobody it would have to ask.
fn check_alone(state: &State, member_id: u64) -> Result<(), Failure> {
    let conf_state = state.conf_state();
    if conf_state.voters == [member_id] && conf_state.learners.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the member belongs to a cluster of {}, and this version serves clusters of one. Make a snapshot of a member \
         that is up to date (etcdctl snapshot save) and migrate that, or name a new cluster with --initial-cluster and \
         --initial-advertise-peer-urls: it begins with what this member knows to be committed",
        conf_state.voters.len() + conf_state.learners.len()
    )
    .into())
}

/// Goes on from a revision farther ahead, everything before it compacted, so that nobody who has seen later revisions
/// than the source holds sees them again with something else. (etcd: etcdutl/snapshot, modifyLatestRevision.)
fn bump(state: &mut State, by: u64) -> Result<(), Failure> {
    let too_far = || format!("the revision cannot be increased by {by}");
    let by = i64::try_from(by).map_err(|_| too_far())?;
    let main = state.index.current().checked_add(by).ok_or_else(too_far)?;
    let revision = Revision::new(main, 0);
    state.index.adopt(&[], KeyMeta { revision, create: main, version: 1, ..KeyMeta::default() });
    state.index.begin_compaction(main).map_err(|status| status.message.into_owned())?;
    Ok(())
}

fn report(state: &State, data_dir: &Path, tail: Option<&Tail>, cluster_id: u64, member_id: u64) {
    let index = &state.index;
    if let Some(cut) = tail.and_then(|tail| tail.cut.as_ref()) {
        println!("the source's log ends with a write that was cut short, in {cut}: it was never acknowledged");
    }
    println!(
        "{}: revision {}, {} changes, {} keys, {} leases, compacted to {}",
        data_dir.display(),
        index.current(),
        index.event_count(),
        index.live_keys(),
        state.leases.len(),
        index.compacted()
    );
    println!("member {member_id:x} of cluster {cluster_id:x}, at raft index {}", state.applied().0);
}
