//! What a shard can say to other members: of the members and leases from what it publishes, of changes by the way that
//! clients' calls take.

use std::{io, rc::Rc};

use bytes::Bytes;

use super::source::ShardSource;
use crate::{
    api::{caller::Caller, cluster, maintenance, service::Services},
    error::{self, Status},
    grpc::{LocalBoxFuture, Metadata},
    http::peer,
    limits,
    peers::Brought,
    proto::{
        etcdserverpb::{LeaseTimeToLiveResponse, ResponseHeader},
        raftpb,
    },
    raft::mail::{Kept, ReceivedSnapshot},
    runtime,
    shard::{
        lease::{LeaseAnswer, LeaseCall, whole_seconds},
        view::View,
    },
    store::{
        hash::{KvHash, spans::SpanHash},
        membership::Member,
        types::{Revision, Values as _},
    },
    version,
    wal::spool::Spool,
    wire::values,
};

fn members(view: &View) -> Vec<Member> {
    view.state.membership.members().cloned().collect()
}

/// Asks the owner of a lease, as of now.
async fn asked(services: &Services, id: i64, call: LeaseCall) -> LeaseAnswer {
    services.shard.advance(runtime::now_ms());
    services.shard.lease(id, call).await
}

async fn renewed(services: Rc<Services>, id: i64) -> Result<i64, Status> {
    services.shard.advance(runtime::now_ms());
    if !services.shard.surely_leads().await {
        return Err(error::NOT_PRIMARY_LESSOR);
    }
    match asked(&services, id, LeaseCall::Renew(id)).await {
        LeaseAnswer::Renewed { ttl } => Ok(ttl),
        LeaseAnswer::NotPrimary => Err(error::NOT_PRIMARY_LESSOR),
        // Gone is told when its keys are gone, not when its time has passed.
        LeaseAnswer::Expired => services.shard.expired_lease_gone(id).await.and(Err(error::LEASE_NOT_FOUND)),
        _ => Err(error::LEASE_NOT_FOUND),
    }
}

async fn left(services: Rc<Services>, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse, Status> {
    let answer = asked(&services, id, LeaseCall::Remaining(id)).await;
    let leases = &services.shard.view().state.leases;
    match answer {
        LeaseAnswer::Remaining { left_ms, ttl } => Ok(LeaseTimeToLiveResponse {
            header: Some(ResponseHeader::default()),
            id,
            ttl: whole_seconds(left_ms),
            granted_ttl: ttl,
            keys: if keys { leases.keys_owned(id) } else { Vec::new() },
        }),
        LeaseAnswer::NotPrimary if leases.contains(id) => Err(error::NOT_PRIMARY_LESSOR),
        _ => Err(error::LEASE_NOT_FOUND),
    }
}

fn read_entry(kept: &Kept, view: &View) -> io::Result<raftpb::Entry> {
    Ok(raftpb::Entry {
        r#type: Some(kept.kind.into()),
        term: Some(kept.term),
        index: Some(kept.index),
        data: Some(view.segments.entry(kept.place, kept.index)?),
    })
}

/// The values of those of the revisions that this member has and can prove, as many of the first as fit into an answer.
fn told(view: &View, asked: &[Revision]) -> Bytes {
    let mut answer = Vec::new();
    for revision in asked {
        let event = view.state.index.event_ref(*revision).filter(|event| !event.meta.is_tombstone());
        let value = event.as_ref().and_then(|event| view.segments.read(event.meta.place).ok());
        match (event, value) {
            // One alone may be larger.
            (_, Some(value)) if !answer.is_empty() && answer.len() + value.len() > limits::MEND_BYTES_MAX => break,
            (Some(event), Some(value)) => values::put(&mut answer, event.key, &value),
            _ => values::put_nothing(&mut answer),
        }
    }
    answer.into()
}

impl peer::Source for ShardSource {
    fn cluster_id(&self) -> u64 {
        self.services.shard.member.cluster_id
    }

    fn member_id(&self) -> u64 {
        self.services.shard.member.id
    }

    fn stated_version(&self) -> String {
        version::stated(&self.services.shard.member.config.max_cluster_version)
    }

    fn members(&self) -> Vec<Member> {
        members(&self.services.shard.view())
    }

    fn knows(&self, id: u64) -> bool {
        self.services.shard.member.reached.knows(id)
    }

    fn bring(&self, brought: Brought) {
        self.way.bring(brought);
    }

    fn spool(&self) -> LocalBoxFuture<io::Result<Spool>> {
        let dir = self.services.shard.member.config.data_dir.clone();
        Box::pin(runtime::background(move || Spool::create(&dir)))
    }

    fn install(&self, snapshot: ReceivedSnapshot) -> LocalBoxFuture<Result<(), Status>> {
        let services = self.services.clone();
        Box::pin(async move { services.shard.install(snapshot).await })
    }

    fn is_removed(&self, id: u64) -> bool {
        self.services.shard.published.look(|view| view.state.membership.is_removed(id))
    }

    fn promote(&self, id: u64, token: Option<&[u8]>) -> LocalBoxFuture<Result<Vec<Member>, Status>> {
        let services = self.services.clone();
        let metadata = Metadata::of_pairs(token.map(|token| ("token", token)));
        Box::pin(async move {
            let caller = Caller::Client { metadata, certified: None, span: None };
            cluster::promote(&services, &caller, id).await
        })
    }

    fn renew(&self, lease: i64) -> LocalBoxFuture<Result<i64, Status>> {
        Box::pin(renewed(self.services.clone(), lease))
    }

    fn time_to_live(&self, lease: i64, keys: bool) -> LocalBoxFuture<Result<LeaseTimeToLiveResponse, Status>> {
        Box::pin(left(self.services.clone(), lease, keys))
    }

    fn values(&self, asked: Vec<Revision>) -> LocalBoxFuture<Bytes> {
        let view = self.services.shard.view();
        Box::pin(runtime::background(move || told(&view, &asked)))
    }

    fn is_downgrading(&self) -> LocalBoxFuture<Result<bool, Status>> {
        let services = self.services.clone();
        Box::pin(async move {
            services.shard.advance(runtime::now_ms());
            services.shard.linearizable().await.map(|view| view.state.downgrade.is_some())
        })
    }

    fn entries(&self, from: u64, to: u64) -> LocalBoxFuture<Result<Option<Vec<raftpb::Entry>>, Status>> {
        let services = self.services.clone();
        Box::pin(async move {
            let Some((kept, view)) = services.shard.entries(from, to).await? else { return Ok(None) };
            let read = runtime::background(move || kept.iter().map(|kept| read_entry(kept, &view)).collect());
            let read: io::Result<Vec<raftpb::Entry>> = read.await;
            read.map(Some).map_err(|cause| error::unreadable(&cause))
        })
    }

    fn hash(&self, revision: i64) -> LocalBoxFuture<Result<(KvHash, i64), Status>> {
        let services = self.services.clone();
        Box::pin(async move {
            let view = services.shard.view();
            let hash = maintenance::hash_at(&services, &view, revision).await?;
            Ok((hash, view.revision()))
        })
    }

    fn spans(&self) -> Vec<SpanHash> {
        self.services.shard.member.span_hashes.after(0)
    }
}
