//! What a shard can say over HTTP/1.1: of the member from what it publishes, of what it counts from everybody's cells.

use std::{
    collections::BTreeSet,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prost::Message as _;

use super::ways::ToPeers;
use crate::{
    api::{caller::Caller, kv, service::Services},
    error::Status,
    grpc::{LocalBoxFuture, Metadata, Unary},
    http::{Alarm, RaftStatus, Source},
    observe::{
        metrics::{self, HealthMetrics, Sources},
        trace::Exporter,
    },
    proto::etcdserverpb::{AlarmType, RangeRequest},
    runtime,
    shard::{Member, Role, view::View},
};

pub(super) struct ShardSource {
    pub(super) services: Rc<Services>,
    exporter: Option<Arc<Exporter>>,
    pub(super) way: ToPeers,
}

impl ShardSource {
    pub fn new(services: Rc<Services>, exporter: Option<Arc<Exporter>>, way: ToPeers) -> Self {
        ShardSource { services, exporter, way }
    }

    fn member(&self) -> &Member {
        &self.services.shard.member
    }

    fn is_learner_in(&self, view: &View) -> bool {
        view.state.membership.get(self.member().id).is_some_and(|member| member.is_learner)
    }
}

fn alarm(kind: i32) -> Alarm {
    match AlarmType::try_from(kind) {
        Ok(AlarmType::Nospace) => Alarm::NoSpace,
        Ok(AlarmType::Corrupt) => Alarm::Corrupt,
        _ => Alarm::Unknown,
    }
}

impl Source for ShardSource {
    fn alarms(&self) -> Vec<Alarm> {
        self.services.shard.view().state.alarms.iter().map(|(kind, _)| alarm(kind)).collect()
    }

    fn has_leader(&self) -> bool {
        self.member().standing.leader.load(Relaxed) != 0
    }

    fn is_learner(&self) -> bool {
        self.is_learner_in(&self.services.shard.view())
    }

    fn read(&self, linearizable: bool) -> LocalBoxFuture<Result<(), Status>> {
        // The least key there can be: whether it is there does not matter.
        let request = RangeRequest {
            key: vec![0].into(),
            keys_only: true,
            limit: 1,
            serializable: !linearizable,
            ..Default::default()
        };
        // Nothing has looked at the clock for what came over HTTP, and the read is counted from the last look on.
        runtime::now();
        let answer = kv::range(self.services.clone(), Caller::Member, request.encode_to_vec().into());
        Box::pin(async move {
            match answer {
                Unary::Ready(result) => result.map(drop),
                Unary::Later(result) => result.await.map(drop),
                Unary::InParts(_) => unreachable!("one key is not answered in parts"),
            }
        })
    }

    fn cluster_version(&self) -> Option<String> {
        self.services.shard.view().state.cluster_version.as_deref().map(str::to_owned)
    }

    fn storage_version(&self) -> Option<String> {
        self.services.shard.view().state.storage_version().map(str::to_owned)
    }

    fn metrics(&self) -> String {
        let (member, view) = (self.member(), self.services.shard.view());
        let active: BTreeSet<(i32, u64)> = view.state.alarms.iter().collect();
        let known: BTreeSet<(i32, u64)> =
            active.iter().copied().chain(member.metrics.core.alarms_seen.iter()).collect();
        let alarms: Vec<(u64, &str, bool)> =
            known.into_iter().map(|one| (one.1, alarm(one.0).name(), active.contains(&one))).collect();
        let members: Vec<u64> = view.state.membership.members().map(|member| member.id).collect();
        let removed: Vec<u64> = view.state.membership.removed().collect();
        let text = metrics::render(&Sources {
            shards: &member.metrics.shards,
            core: &member.metrics.core,
            health: &member.metrics.health,
            peers: &member.metrics.peers,
            traces: self.exporter.as_ref().map(|exporter| exporter.counts()),
            member: metrics::Member {
                id: member.id,
                cluster_version: view.state.cluster_version.as_deref(),
                is_learner: self.is_learner_in(&view),
                quota_bytes: member.config.quota_bytes,
                alarms: &alarms,
                members: &members,
                removed: &removed,
                gates: &member.config.gates,
                extensive: member.config.metrics_extensive,
            },
        });
        member.metrics.health.count_scrape();
        text
    }

    fn raft_status(&self) -> RaftStatus {
        let (id, standing) = (self.member().id, &self.member().standing);
        let of = |part: &std::sync::atomic::AtomicU64| part.load(Relaxed);
        let role = standing.role();
        RaftStatus {
            id,
            term: of(&standing.term),
            vote: of(&standing.vote),
            commit: of(&standing.commit),
            leader: of(&standing.leader),
            applied: of(&standing.applied),
            state: match role {
                Role::Follower => "StateFollower",
                Role::Candidate => "StateCandidate",
                Role::Leader => "StateLeader",
                Role::PreCandidate => "StatePreCandidate",
            },
            progress: match role {
                Role::Leader => vec![(id, of(&standing.matched), of(&standing.next))],
                _ => Vec::new(),
            },
        }
    }

    fn health_metrics(&self) -> &HealthMetrics {
        &self.member().metrics.health
    }

    fn asks_for_users(&self) -> bool {
        self.services.shard.published.look(|view| view.state.auth.is_enabled())
    }

    fn operates(&self, shown: Metadata, certified: Option<Rc<str>>) -> Result<(), Status> {
        self.services.operates(shown, certified)
    }

    fn cors(&self) -> &[String] {
        &self.member().config.cors
    }

    fn host_whitelist(&self) -> &[String] {
        &self.member().config.host_whitelist
    }
}
