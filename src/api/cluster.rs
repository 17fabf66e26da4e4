//! Cluster: who belongs to it. Changes go through the log as etcd's own configuration changes; what is wrong with one is
//! found here where it depends on who runs, and where it is applied where it depends on who there is. (etcd API, service
//! Cluster; etcdserver/server.go, AddMember and what follows.)

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    caller::Caller,
    leader,
    service::{Services, decode, later, refuse},
};
use crate::{
    auth::Ask,
    config::url::{self, Url},
    error::{self, Status},
    grpc::{Frame, Unary},
    limits, log,
    observe::log::hex,
    peers::{client::Client, remote},
    proto::{
        etcdserverpb::{
            Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
            MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
            MemberUpdateResponse, ResponseHeader,
        },
        raftpb::{ConfChange, ConfChangeType},
    },
    raft::identity,
    runtime,
    shard::{Shard, view::View},
    store::membership::{self, promotion_context},
};

pub fn member_list(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: MemberListRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if !request.linearizable {
        return Unary::Ready(listed(&services, &caller, &services.shard.view()));
    }
    later(async move {
        let view = services.shard.linearizable().await?;
        listed(&services, &caller, &view)
    })
}

fn listed(services: &Services, caller: &Caller, view: &View) -> Result<Frame, Status> {
    services.authorize(caller, view, Ask::Known)?;
    Ok(Frame::of(&MemberListResponse { header: Some(header(&services.shard)), members: members(view) }))
}

pub fn member_add(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: MemberAddRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let shard = services.shard.clone();
    let added = match urls(&request.peer_ur_ls) {
        Ok(peer_urls) => {
            let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            membership::Member {
                id: identity::added_member_id(&peer_urls, now_seconds),
                peer_urls,
                is_learner: request.is_learner,
                ..Default::default()
            }
        }
        Err(status) => return refuse(status),
    };
    let view = shard.view();
    // By that alone who may is decided: an entry that changes members names nobody.
    if let Err(status) = services.authorize(&caller, &view, Ask::Admin) {
        return refuse(status);
    }
    if let Err(status) = may_add(&shard, &view, &added) {
        return refuse(status);
    }
    let kind = match added.is_learner {
        true => ConfChangeType::ConfChangeAddLearnerNode,
        false => ConfChangeType::ConfChangeAddNode,
    };
    let context = serde_json::to_vec(&added).expect("a member has a JSON form");
    let change = Change { kind, member: added.id, context: context.into(), promotes: None };
    later(async move {
        let view = change.make(&shard).await?;
        let member =
            Member { id: added.id, peer_ur_ls: added.peer_urls, is_learner: added.is_learner, ..Default::default() };
        let (header, members) = (Some(header(&shard)), members(&view));
        Ok(Frame::of(&MemberAddResponse { header, member: Some(member), members }))
    })
}

pub fn member_remove(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let MemberRemoveRequest { id } = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let shard = services.shard.clone();
    let view = shard.view();
    if let Err(status) = services.authorize(&caller, &view, Ask::Admin) {
        return refuse(status);
    }
    if let Err(status) = may_remove(&shard, &view, id) {
        return refuse(status);
    }
    let change =
        Change { kind: ConfChangeType::ConfChangeRemoveNode, member: id, context: Bytes::new(), promotes: None };
    later(async move {
        let view = change.make(&shard).await?;
        Ok(Frame::of(&MemberRemoveResponse { header: Some(header(&shard)), members: members(&view) }))
    })
}

pub fn member_update(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: MemberUpdateRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let shard = services.shard.clone();
    if let Err(status) = services.authorize(&caller, &shard.view(), Ask::Admin) {
        return refuse(status);
    }
    let member = membership::Member { id: request.id, peer_urls: request.peer_ur_ls, ..Default::default() };
    let context = serde_json::to_vec(&member).expect("a member has a JSON form");
    let change = Change {
        kind: ConfChangeType::ConfChangeUpdateNode,
        member: request.id,
        context: context.into(),
        promotes: None,
    };
    // etcd takes any text for a URL here, and does not live on with what is none. Whatever else is wrong is told first, as
    // etcd tells it.
    if let Err(status) = urls(&member.peer_urls) {
        let view = shard.view();
        let fits = view.state.membership.check(&change.entry(0), view.state.learners_max());
        return refuse(fits.err().unwrap_or(status));
    }
    later(async move {
        let view = change.make(&shard).await?;
        Ok(Frame::of(&MemberUpdateResponse { header: Some(header(&shard)), members: members(&view) }))
    })
}

pub fn member_promote(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let MemberPromoteRequest { id } = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        let promoted = promote(&services, &caller, id).await?;
        let members = promoted.iter().map(told).collect();
        Ok(Frame::of(&MemberPromoteResponse { header: Some(header(&services.shard)), members }))
    })
}

/// Lets a learner vote, and gives the members of whom it then is one. Only who leads knows whether it is ready.
pub async fn promote(services: &Services, caller: &Caller, id: u64) -> Result<Vec<membership::Member>, Status> {
    let shard = &services.shard;
    match promoted_here(services, caller, id).await {
        Ok(view) => return Ok(view.state.membership.members().cloned().collect()),
        Err(status) if status == error::NOT_LEADER => {}
        Err(status) => {
            shard.metrics.promote_failures.count(&status);
            return Err(status);
        }
    }
    let until_ms = runtime::now_ms() + shard.member.config.request_timeout_ms();
    let token = caller.token();
    loop {
        let question = async |client: &Client, url: &str, patience| {
            remote::promote(client, url, id, token.as_deref(), patience).await
        };
        if let Some(members) = leader::ask(services, until_ms, question).await? {
            return Ok(members);
        }
        if runtime::now_ms() >= until_ms {
            return Err(error::TIMEOUT);
        }
        runtime::sleep(Duration::from_millis(limits::FORWARD_AGAIN_MS)).await;
    }
}

async fn promoted_here(services: &Services, caller: &Caller, id: u64) -> Result<Arc<View>, Status> {
    let shard = &services.shard;
    let view = shard.view();
    services.authorize(caller, &view, Ask::Admin)?;
    let known = &view.state.membership;
    let is_learner = known.get(id).is_some_and(|member| member.is_learner);
    if shard.member.is_leader() && shard.member.config.strict_reconfig_check && is_learner && !known.may_promote() {
        return Err(error::MEMBER_NOT_ENOUGH_STARTED);
    }
    let change = Change {
        kind: ConfChangeType::ConfChangeAddNode,
        member: id,
        context: promotion_context(id).into(),
        promotes: Some(id),
    };
    change.make(shard).await
}

/// How many voters this member has reached for a while, itself among them.
fn connected(shard: &Shard, view: &View) -> usize {
    let now_ms = runtime::now_ms();
    view.state.membership.voters().filter(|voter| shard.member.is_connected(voter.id, now_ms)).count()
}

/// `--strict-reconfig-check`: the cluster has a quorum also if the new member never comes. (etcd: mayAddMember.)
fn may_add(shard: &Shard, view: &View, added: &membership::Member) -> Result<(), Status> {
    let known = &view.state.membership;
    let refused = |message: &'static str, status: Status| {
        log!(Warn, message, "local-member-id" = hex(shard.member.id), "error" = status.message.as_ref());
        Err(status)
    };
    if !shard.member.config.strict_reconfig_check {
        return Ok(());
    }
    if !added.is_learner && !known.may_add_voter() {
        let message = "rejecting member add request; not enough healthy members";
        return refused(message, error::MEMBER_NOT_ENOUGH_STARTED);
    }
    // One more voter than there are makes a quorum of half of them and one.
    let voters = known.voters().count();
    if voters != 1 && connected(shard, view) < voters.div_ceil(2) + 1 {
        let message = "rejecting member add request; local member has not been connected to majority peers, reconfigure \
                       breaks active quorum";
        return refused(message, error::UNHEALTHY);
    }
    Ok(())
}

/// The cluster keeps its quorum without that member. (etcd: mayRemoveMember.)
fn may_remove(shard: &Shard, view: &View, id: u64) -> Result<(), Status> {
    let known = &view.state.membership;
    let refused = |message: &'static str, status: Status| {
        log!(
            Warn,
            message,
            "local-member-id" = hex(shard.member.id),
            "requested-member-remove-id" = hex(id),
            "error" = status.message.as_ref()
        );
        Err(status)
    };
    let not_enough = "rejecting member remove request; not enough healthy members";
    // The last one is never removed: etcd itself does not outlive that, whatever it was told not to check.
    if known.voters().all(|member| member.id == id) {
        return refused(not_enough, error::MEMBER_NOT_ENOUGH_STARTED);
    }
    let is_learner = known.get(id).is_some_and(|member| member.is_learner);
    if !shard.member.config.strict_reconfig_check || is_learner {
        return Ok(());
    }
    if !known.may_remove_voter(id) {
        return refused(not_enough, error::MEMBER_NOT_ENOUGH_STARTED);
    }
    // One that is down is no part of the quorum that there is.
    if id != shard.member.id && shard.member.reached.since(id).is_none() {
        return Ok(());
    }
    let voters = known.voters().count();
    if connected(shard, view).saturating_sub(1) < 1 + (voters - 1) / 2 {
        let message = "rejecting member remove request; local member has not been connected to all peers, reconfigure \
                       breaks active quorum";
        return refused(message, error::UNHEALTHY);
    }
    Ok(())
}

/// A change of the members that is to be made.
struct Change {
    kind: ConfChangeType,
    member: u64,
    context: Bytes,
    /// The learner that is to vote.
    promotes: Option<u64>,
}

impl Change {
    /// As it is logged.
    fn entry(&self, id: u64) -> ConfChange {
        ConfChange {
            id: Some(id),
            r#type: Some(self.kind as i32),
            node_id: Some(self.member),
            // Left out where there is none, as Go leaves it out.
            context: (!self.context.is_empty()).then(|| self.context.clone()),
        }
    }

    /// Has it logged and applied, and gives the state in which the members are as it has made them.
    async fn make(self, shard: &Shard) -> Result<Arc<View>, Status> {
        let id = shard.member.next_id();
        let data = self.entry(id).encode_to_vec().into();
        let (result, view) = shard.configure(id, data, self.promotes).await?;
        result.map(|_| view)
    }
}

/// Peer URLs in order, each as it is told to others.
fn urls(texts: &[String]) -> Result<Vec<String>, Status> {
    let mut urls = texts
        .iter()
        .map(|text| url::parse(text).map(|url: Url| url.to_string()))
        .collect::<Result<Vec<String>, String>>()
        .map_err(|_| error::MEMBER_BAD_URLS)?;
    if urls.is_empty() {
        return Err(error::MEMBER_BAD_URLS);
    }
    urls.sort();
    Ok(urls)
}

fn members(view: &View) -> Vec<Member> {
    view.state.membership.members().map(told).collect()
}

fn told(member: &membership::Member) -> Member {
    Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

/// Cluster states no revision (etcd: v3rpc/member.go, header).
fn header(shard: &Shard) -> ResponseHeader {
    ResponseHeader {
        cluster_id: shard.member.cluster_id,
        member_id: shard.member.id,
        revision: 0,
        raft_term: shard.member.term(),
    }
}

#[cfg(test)]
mod tests;
