//! How a member comes up: from nothing, with the log that a new cluster begins with, or from what a former life left
//! on disk. Blocking; runs before the executors start.

use std::{io, path::Path, sync::Arc};

use raft::{
    Storage as _,
    eraftpb::{ConfState, EntryType, HardState},
};
use serde::{Deserialize, Serialize};

use super::{
    bootstrap::{self, Founder},
    core::{Covered, Parts},
    identity,
    log::RaftLog,
    translate,
};
use crate::{
    config::Config,
    limits,
    runtime::file::Durability,
    store::{membership::Member, state::State},
    wal::{
        disk::{Dir, DiskError},
        mend::{self, Ask, Gift, Mended, Wanted},
        recovery::{self, Cut, LogEntry, Options, Recovered, RecoveryError},
        writer::Writer,
    },
};

/// Where the data directory keeps how its device syncs.
const DURABILITY_FILE: &str = "durability";

/// Where it keeps how the member came to its cluster, until its log says so.
const FOUNDING_FILE: &str = "founding";

/// The most learners that entries of the log were applied under.
const LEARNERS_FILE: &str = "max-learners";

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error("{0}")]
    Bootstrap(String),
    #[error("{0}")]
    Recovery(#[from] RecoveryError),
    #[error("{path} does not say how the member came to its cluster: {cause}; remove it to have the flags count again")]
    Founding { path: String, cause: serde_json::Error },
    #[error("cannot measure how the device of {dir} syncs: {cause}; check the directory's permissions and free space")]
    Probe { dir: String, cause: io::Error },
}

/// How a member without data comes to its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    pub cluster_id: u64,
    pub member_id: u64,
    /// The cluster is there: its log comes from the other members. Otherwise these members found it.
    pub joins: bool,
    pub members: Vec<Member>,
}

impl Founding {
    /// All members of `--initial-cluster` found a cluster, with the ids that etcd would give them.
    pub fn of_flags(config: &Config) -> Self {
        let member = |(name, urls): &(String, Vec<String>)| Member {
            id: identity::member_id(urls, &config.initial_cluster_token),
            name: name.clone(),
            peer_urls: urls.clone(),
            ..Member::default()
        };
        let members: Vec<Member> = config.initial_cluster.iter().map(member).collect();
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        let own = members.iter().find(|member| member.name == config.name);
        let own = own.map_or_else(
            || identity::member_id(&config.initial_advertise_peer_urls, &config.initial_cluster_token),
            |own| own.id,
        );
        Founding { cluster_id: identity::cluster_id(&ids), member_id: own, joins: false, members }
    }

    fn founders(self) -> Vec<Founder> {
        let founder = |Member { id, name, peer_urls, .. }: Member| Founder { id, name, peer_urls };
        if self.joins { Vec::new() } else { self.members.into_iter().map(founder).collect() }
    }
}

/// Everything that a member starts from.
pub struct Started {
    /// Locked for as long as this value lives: no second process may use the directory.
    pub dir: Arc<Dir>,
    pub member_id: u64,
    pub cluster_id: u64,
    /// The members that it knows of before its log tells it of any.
    pub first_members: Vec<Member>,
    pub durability: Durability,
    pub parts: Parts,
    pub checkpoint_bytes: u64,
    pub covered: Covered,
    /// Bytes of log behind the checkpoint.
    pub tail_bytes: u64,
    /// Entries that have to be applied again.
    pub tail: usize,
    /// What was cut off the log's end, for the operator.
    pub cut: Option<Cut>,
}

/// Opens the data directory or makes a new one. `drawn`: a number of this life's own. `probe` measures how the device syncs, `found` decides
/// how the member comes to its cluster; both asked at the first start only. `ask` asks other members, of whom the first are given, for
/// entries that the log has lost.
pub fn start(
    config: &Config,
    drawn: u64,
    logger: slog::Logger,
    probe: impl FnOnce(&Path) -> io::Result<Durability>,
    found: impl FnOnce(&Config) -> Result<Founding, String>,
    ask: impl Fn(&Config, &[Member], &Wanted<'_>) -> Result<Gift, String>,
) -> Result<Started, StartError> {
    let dir = Arc::new(Dir::open(&config.data_dir)?);
    let durability = match dir.read_note(DURABILITY_FILE)?.and_then(|name| Durability::named(name.trim())) {
        Some(durability) => durability,
        None => {
            let failed = |cause| StartError::Probe { dir: config.data_dir.display().to_string(), cause };
            let durability = probe(dir.path()).map_err(failed)?;
            dir.write_note(DURABILITY_FILE, &format!("{}\n", durability.name()))?;
            durability
        }
    };
    let listing = dir.list()?;
    let founding = match listing.segments.is_empty() {
        true => {
            let founding = found(config).map_err(StartError::Bootstrap)?;
            // Before the log is made: a start that is cut short behind this goes on as it began.
            let text = serde_json::to_string(&founding).expect("it has a JSON form");
            dir.write_note(FOUNDING_FILE, &text)?;
            founding
        }
        false => match dir.read_note(FOUNDING_FILE)? {
            Some(text) => serde_json::from_str(&text).map_err(|cause| StartError::Founding {
                path: dir.path().join(FOUNDING_FILE).display().to_string(),
                cause,
            })?,
            None => Founding::of_flags(config),
        },
    };
    let checkpoint_bytes = listing.checkpoint.unwrap_or(0);
    // An old log keeps the ids it has: what the flags say counts for a new one only, as in etcd.
    let options = Options::for_requests(config.max_request_bytes, founding.cluster_id, founding.member_id);
    let (life, first_members) = (identity::first_id(founding.member_id, drawn), founding.members.clone());
    let manner = Manner {
        founders: |_| founding.founders(),
        lease_ttl_min: config.lease_ttl_min(),
        shards: config.shards,
        election_ticks: config.election_ticks(),
        pre_vote: config.pre_vote,
        request_ticks: config.request_timeout_ms().div_ceil(config.heartbeat_ms),
        retry_ticks: (limits::READ_INDEX_RETRY_MS / config.heartbeat_ms).max(1),
        life,
        force_new_cluster: config.force_new_cluster,
        quota_bytes: config.quota_bytes,
        catch_up_entries: config.catch_up_entries,
        span_entries: limits::SPAN_ENTRIES,
        logger,
    };
    let mut ask = |wanted: &Wanted<'_>| match config.force_new_cluster {
        true => Err("with --force-new-cluster no other member is asked for what is lost".to_owned()),
        false => ask(config, &first_members, wanted),
    };
    let Resumed { mut parts, cluster_id, covered, tail_bytes, tail, cut } =
        resume(&dir, &options, manner, Some(&mut ask))?;
    parts.state.set_learners_max(config.max_learners);
    let before = dir.read_note(LEARNERS_FILE)?.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    // What is applied again may have been let in by a higher bound than today's: nobody is turned out by a lower one.
    let replayed = if tail > 0 { config.max_learners.max(before) } else { config.max_learners };
    let last = parts.log.last_index().expect("the log's last index is always known");
    parts.state.set_learners_max_until(last, replayed);
    if before != replayed {
        dir.write_note(LEARNERS_FILE, &format!("{replayed}\n"))?;
    }
    Ok(Started {
        dir,
        member_id: parts.id,
        cluster_id,
        first_members,
        durability,
        parts,
        checkpoint_bytes,
        covered,
        tail_bytes,
        tail,
        cut,
    })
}

/// How a core is to run, and who found the cluster if there is none.
pub(crate) struct Manner<F> {
    /// Told the member's id. None: the log comes from others.
    pub founders: F,
    /// Nobody but this member belongs to the cluster from now on.
    pub force_new_cluster: bool,
    pub lease_ttl_min: i64,
    pub shards: usize,
    pub election_ticks: usize,
    pub pre_vote: bool,
    pub request_ticks: u64,
    pub retry_ticks: u64,
    pub life: u64,
    pub quota_bytes: Option<u64>,
    pub catch_up_entries: u64,
    pub span_entries: u64,
    pub logger: slog::Logger,
}

/// What a log gives.
pub(crate) struct Resumed {
    pub parts: Parts,
    pub cluster_id: u64,
    pub covered: Covered,
    pub tail_bytes: u64,
    pub tail: usize,
    pub cut: Option<Cut>,
}

/// Recovers a log, begins it if it is new, and puts together what a core is made from. `ask`: how other members are asked for
/// entries that are lost; None: what is damaged is refused.
pub(crate) fn resume(
    dir: &Dir,
    options: &Options,
    manner: Manner<impl FnOnce(u64) -> Vec<Founder>>,
    ask: Option<&mut Ask<'_>>,
) -> Result<Resumed, StartError> {
    let mut recovered = match ask {
        Some(ask) => mend::recover(dir, options, ask, &mut |mended| tell(&manner.logger, mended))?,
        None => recovery::recover(dir, options)?,
    };
    // A first start that was cut short before its first write has left an empty log, and promised nothing.
    let nothing = recovered.hard_state == crate::store::checkpoint::HardState::default();
    if nothing && recovered.checkpoint.is_none() && recovered.entries.is_empty() {
        let founders = (manner.founders)(recovered.member_id);
        // Who joins a cluster learns who is in it from its log; what it has voted since it must not forget.
        if !founders.is_empty() {
            recovered.hard_state = begin_log(&founders, &mut recovered.writer, &mut recovered.entries);
            let write = recovered.writer.take_write().expect("a new log has something to write");
            dir.write(&write)?;
        }
    } else if manner.force_new_cluster {
        force_new_cluster(dir, &mut recovered, &manner.logger)?;
    }

    let position = recovered.checkpoint.as_ref().map(|checkpoint| checkpoint.head.position).unwrap_or_default();
    let covered = recovered.checkpoint.as_ref().map_or_else(Covered::default, |checkpoint| Covered {
        applied: checkpoint.state.applied().0,
        replay_from: position.life,
        usage: checkpoint.state.index.usage().clone(),
    });
    let behind = recovered.writer.table().iter().filter(|segment| segment.life() >= position.life);
    let tail_bytes =
        behind.map(|segment| u64::from(segment.used())).sum::<u64>().saturating_sub(position.offset.into());
    let mut state = match recovered.checkpoint {
        Some(checkpoint) => checkpoint.state,
        None => State::new(manner.lease_ttl_min),
    };
    state.set_lease_ttl_min(manner.lease_ttl_min);
    let (applied, applied_term) = state.applied();
    let mut hard_state = HardState::default();
    hard_state.term = recovered.hard_state.term;
    hard_state.vote = recovered.hard_state.vote;
    // What was applied was committed, whether or not that reached the disk.
    hard_state.commit = recovered.hard_state.commit.max(applied);
    let conf_state: ConfState = translate::conf_state_for_crate(state.conf_state());
    let values = Arc::new(recovered.writer.table().clone());
    // Of the first that is kept the term alone is needed.
    let before = recovered.kept.first().map_or((applied, applied_term), |first| (first.index, first.term));
    let mut log = RaftLog::new(before.0, before.1, hard_state, conf_state, values);
    log.set_applied((applied, applied_term));
    let tail = recovered.entries.len();
    for entry in recovered.kept.into_iter().skip(1).chain(recovered.entries) {
        let kind = match entry.kind {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            _ => EntryType::EntryConfChangeV2,
        };
        log.append(entry.index, entry.term, kind, entry.data, entry.place);
    }
    log.forget(applied);
    let parts = Parts {
        id: recovered.member_id,
        log,
        state,
        writer: recovered.writer,
        moves: recovered.moves,
        shards: manner.shards,
        election_ticks: manner.election_ticks,
        pre_vote: manner.pre_vote,
        request_ticks: manner.request_ticks,
        retry_ticks: manner.retry_ticks,
        life: manner.life,
        quota_bytes: manner.quota_bytes,
        catch_up_entries: manner.catch_up_entries,
        span_entries: manner.span_entries,
        logger: manner.logger,
    };
    Ok(Resumed { parts, cluster_id: recovered.cluster_id, covered, tail_bytes, tail, cut: recovered.cut })
}

fn tell(logger: &slog::Logger, mended: &Mended) {
    slog::warn!(logger, "mended a damaged part of the log"; "file" => mended.file.display().to_string(),
        "offset" => mended.offset, "first-index" => mended.indexes.start,
        "last-index" => mended.indexes.end.saturating_sub(1), "records" => mended.records,
        "entries-from" => mended.giver.as_deref().unwrap_or("what was left of them"));
}

/// Drops what is not committed and takes every other member out of the cluster, as if they had agreed.
/// (etcd: bootstrapWALFromSnapshot.)
fn force_new_cluster(dir: &Dir, recovered: &mut Recovered, logger: &slog::Logger) -> Result<(), StartError> {
    let (applied, conf_state) = match &recovered.checkpoint {
        Some(checkpoint) => (checkpoint.state.applied().0, checkpoint.state.conf_state().clone()),
        None => Default::default(),
    };
    let old = recovered.hard_state;
    let commit = old.commit.max(applied);
    let kept = recovered.entries.iter().take_while(|entry| entry.index <= commit).count();
    let discarded = recovered.entries.len() - kept;
    if discarded > 0 {
        slog::info!(logger, "discarding uncommitted WAL entries"; "entry-index" => commit + 1,
            "commit-index-from-wal" => commit, "number-of-discarded-entries" => discarded);
        recovered.entries.truncate(kept);
    }
    let own = recovered.member_id;
    let ids = bootstrap::members_of(&conf_state, recovered.entries.iter().map(|entry| (entry.kind, &entry.data)));
    let (mut last, mut term) = (commit, old.term);
    term = term.max(recovered.entries.last().map_or(0, |entry| entry.term));
    for change in bootstrap::forced_changes(&ids, own) {
        last += 1;
        let kind = EntryType::EntryConfChange as u8;
        let place = recovered.writer.append_entry(last, term, kind, &change);
        recovered.entries.push(LogEntry { index: last, term, kind, data: change, place });
    }
    recovered.hard_state.term = term;
    recovered.hard_state.commit = last;
    recovered.writer.append_hard_state(term, old.vote, last);
    let write = recovered.writer.take_write().expect("its commit index is to be written");
    dir.write(&write)?;
    slog::info!(logger, "forcing restart member"; "cluster-id" => format!("{:x}", recovered.cluster_id),
        "local-member-id" => format!("{own:x}"), "wal-commit-index" => old.commit, "commit-index" => last);
    Ok(())
}

/// Writes the entries that every new cluster's log begins with, as etcd does: term 1, committed.
fn begin_log(
    founders: &[Founder],
    writer: &mut Writer,
    entries: &mut Vec<LogEntry>,
) -> crate::store::checkpoint::HardState {
    let hard_state = crate::store::checkpoint::HardState { term: 1, vote: 0, commit: founders.len() as u64 };
    writer.append_hard_state(hard_state.term, hard_state.vote, hard_state.commit);
    for first in bootstrap::first_entries(founders) {
        let kind = first.kind as u8;
        let place = writer.append_entry(first.index, first.term, kind, &first.data);
        entries.push(LogEntry { index: first.index, term: first.term, kind, data: first.data, place });
    }
    hard_state
}
